"""The kernels for GPUs in Triton, compiled for the device by the triton that torch brings along.

`TRITON_INTERPRET=1` in the environment, before triton is first imported, runs them on the CPU
instead, in numpy: slow, and how they are tested without a GPU. Nothing outside of this package
imports triton.
"""

from engine.kernels.triton.kernels import TritonError, TritonKernels

__all__ = ["TritonError", "TritonKernels"]
