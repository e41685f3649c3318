"""The kernels for CPUs: a few hundred lines of C++, built on the machine that runs them."""

from engine.kernels.cpu.build import BuildError
from engine.kernels.cpu.kernels import CpuKernels

__all__ = ["BuildError", "CpuKernels"]
