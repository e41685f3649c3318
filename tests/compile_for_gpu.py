"""Compiles what the Triton kernels launch for a GPU, without one; run as a program of its own, with
its compute capability (86 is 8.6) and the bytes that a program may share there.

Prints a line for each compilation: name, bytes of shared memory. The interpreter runs the kernels
as Python and so does not see what the compiler would refuse; nor whether the tensor cores would
round float32 to tf32, which is an error here.
"""

from __future__ import annotations

import sys
from functools import partialmethod
from typing import Any

import torch
import triton
import triton.language as tl
from attention_step import make_step, with_norms
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

from engine.attention import CAUSAL, AttentionRule
from engine.kernels.triton import activation, attention, layer_norm, norm, plan, rotary, store

TYPES = {
    torch.float32: "*fp32",
    torch.bfloat16: "*bf16",
    torch.float16: "*fp16",
    torch.int32: "*i32",
    torch.int64: "*i64",
}


def compile_launch(
    kernel: JITFunction[Any],
    *arguments: Any,
    grid: Any,
    warmup: bool,
    capability: int,
    **options: Any,
) -> None:
    """Takes the place of `JITFunction.run`."""
    names = kernel.arg_names
    signature, constants, attributes = {}, {}, {}
    for i, name in enumerate(names):
        if name in options:
            signature[name], constants[(i,)] = "constexpr", options.pop(name)
            continue
        value = arguments[i]
        if isinstance(value, torch.Tensor):
            signature[name] = TYPES[value.dtype]
            attributes[(i,)] = [["tt.divisibility", 16]]
        else:
            signature[name] = "fp32" if isinstance(value, float) else "i32"
            if isinstance(value, int) and value % 16 == 0:
                attributes[(i,)] = [["tt.divisibility", 16]]
    source = ASTSource(kernel, signature, constants, attributes)
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    assert "tf32" not in compiled.asm["ptx"], kernel.__name__
    print(kernel.__name__, compiled.metadata.shared)


def main() -> None:
    capability, shared_bytes = map(int, sys.argv[1:])
    JITFunction.run = partialmethod(compile_launch, capability=capability)
    processors = plan.Processors(132, shared_bytes)
    bfloat16 = torch.bfloat16
    x = torch.zeros(3, 576, dtype=bfloat16)
    norm.rms_norm(x.view(3, 9, 64), x[0, :64], 1e-5)
    norm.add_rms_norm(x, x.clone(), x[0], 1e-5)
    layer_norm.add_layer_norm(x, x.clone(), x[0], x[0].clone(), 1e-5)
    activation.silu_mul(x)
    activation.gelu_mul(x)
    activation.gelu(x)
    prompt_and_token = [(0, 70), (3, 1)]
    for shape, dtype, operand, steps in (
        ((32, 8, 128), bfloat16, tl.bfloat16, ([(100, 1)], [(5, 1)] * 200, prompt_and_token)),
        ((4, 2, 256), bfloat16, tl.bfloat16, (prompt_and_token,)),
        ((32, 8, 128), torch.float16, tl.float16, ([(100, 1)],)),
        ((16, 8, 128), torch.float32, tl.float32, (prompt_and_token,)),
        ((4, 2, 256), torch.float32, tl.float32, ([(100, 1)], [(0, 70)])),
    ):
        for spans in steps:
            step = make_step(spans, shape, dtype)
            made = plan.make_plan(step.layout, dtype, processors)
            norms = with_norms(step).norms if spans is prompt_and_token else None
            q = rotary.rotary_store_kv(step.qkv, step.cos_sin, step.kv, step.layout, norms)
            store.store_kv(step.qkv, step.kv, step.layout)
            rules = [CAUSAL, AttentionRule(window=48, soft_cap=50.0, scale=0.1)]
            for rule in rules if dtype == bfloat16 else rules[:1]:  # float32 compiles for long
                attention.paged_attention(q, step.kv, made, rule, operand)


if __name__ == "__main__":
    main()
