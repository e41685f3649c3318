"""The draw on CUDA devices, as Triton kernels that neither sort nor wait for the host."""

from engine.sampler.triton.draw import TritonDraw

__all__ = ["TritonDraw"]
