"""Triton's kernels draw the tokens that torch's functions draw on the CPU."""

import dataclasses
import math
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from triton_interpreter import DEVICE, triton

from engine.batch import RowStart
from engine.request import SamplingParams
from engine.sampler import SamplingState
from engine.sampler.draws import select
from engine.sampler.gumbel import log_exponential as torch_log_exponential
from engine.sampler.rows import RowTable
from engine.sampler.state import INVALID_NUMBERS
from engine.sampler.triton import TritonDraw, arithmetic, kernels
from engine.sampler.triton import draw as draw_module

tl = triton.language

ROOT = Path(__file__).resolve().parents[3]
CPU = torch.device("cpu")


def draw_both(
    logits: torch.Tensor, params: list[SamplingParams], first_position: int = 3
) -> tuple[list[int], list[int]]:
    """Tokens by torch on the CPU and by Triton, one row for each of `params`."""
    num_rows, vocab_size = logits.shape
    table = RowTable(num_rows, vocab_size)
    for row, row_params in enumerate(params):
        table.start(RowStart(row, 0, row_params, [1, 2, 3], 3))
    numbers = table.numbers(np.arange(num_rows))
    positions = first_position + np.arange(num_rows)
    expected = select(vocab_size, CPU)(logits, numbers, positions)
    drawn = TritonDraw(vocab_size, DEVICE)(logits.to(DEVICE), numbers, positions)
    return drawn.tolist(), expected.tolist()


def random_params(rng: random.Random) -> SamplingParams:
    return SamplingParams(
        seed=rng.getrandbits(60),
        temperature=rng.choice([0.0, 0.05, 0.7, 1.0, 1.0, 2.0, 30.0]),
        top_k=rng.choice([0, 0, 0, 1, 2, 20, 50, 300]),
        top_p=rng.choice([1.0, 1.0, 0.1, 0.5, 0.9, 0.99, 1e-6]),
        min_p=rng.choice([0.0, 0.0, 0.0, 0.05]),
    )


def normal_logits(num_rows: int, vocab_size: int, scale: float = 3.0, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num_rows, vocab_size, generator=generator) * scale


@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 10))]
)
@pytest.mark.parametrize("kind", ["normal", "bfloat16", "ties", "masked", "flat", "peaked"])
def test_random_rows(kind: str, seed: int) -> None:
    vocab_size, num_rows = 700, 48
    scale = {"flat": 0.01, "peaked": 12.0}.get(kind, 3.0)
    logits = normal_logits(num_rows, vocab_size, scale, seed)
    if kind == "bfloat16":
        logits = logits.bfloat16().float()
    elif kind == "ties":
        logits = logits.round()
    elif kind == "masked":
        logits[:, 30:] = -torch.inf
        logits[:, ::3] = -torch.inf
    rng = random.Random(f"{kind} {seed}")  # noqa: S311
    drawn, expected = draw_both(logits, [random_params(rng) for _ in range(num_rows)])
    assert drawn == expected


@pytest.mark.parametrize("vocab_size", [1, 7, 1023, 1024, 1025, 3500])
def test_vocabularies_that_fill_no_block(vocab_size: int) -> None:
    rng = random.Random(vocab_size)  # noqa: S311
    logits = normal_logits(16, vocab_size)
    drawn, expected = draw_both(logits, [random_params(rng) for _ in range(16)])
    assert drawn == expected


EDGES = [
    SamplingParams(temperature=0.0),
    SamplingParams(),
    SamplingParams(top_k=1),
    SamplingParams(top_k=2),
    SamplingParams(top_k=40),
    SamplingParams(top_k=39, top_p=0.5),
    SamplingParams(top_k=3, top_p=0.999),
    SamplingParams(top_p=1e-9),
    SamplingParams(top_p=0.5),
    SamplingParams(top_p=1 - 1e-7),
    SamplingParams(min_p=1.0),
    SamplingParams(min_p=0.01, top_p=0.7, top_k=30),
    SamplingParams(temperature=1e-5 * 1.01, top_p=0.9),
    SamplingParams(temperature=0.01, top_k=20),
    SamplingParams(temperature=1e30, top_k=20, top_p=0.5),
    SamplingParams(temperature=1e30),
]


@pytest.mark.parametrize(
    "row",
    [
        [0.0] * 40,
        [-0.0, 0.0] * 20,
        [1.0, 2.0] * 20,
        [5.0] + [0.0] * 39,
        [3.0, -math.inf] * 20,
        [-math.inf] * 39 + [-7.0],
        [-math.inf] * 40,
        [3e38, -3e38, 2.9e38, 0.0] * 10,
        [0.0, -20.0, -27.0, -28.0, -31.9, -32.0, -33.0, -200.0] * 5,
        [-0.03125 * i for i in range(40)],
        [1e-42 * i for i in range(40)],
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")
def test_rows_at_the_edges(row: list[float]) -> None:
    logits = torch.tensor([row]).repeat(len(EDGES), 1)
    params = [dataclasses.replace(one, seed=seed) for seed, one in enumerate(EDGES)]
    drawn, expected = draw_both(logits, params)
    assert drawn == expected


def test_lists_that_are_too_long_to_write() -> None:
    """So many equals at the edge that the last step looks at the whole row."""
    vocab_size = 5000
    assert vocab_size > kernels.MAX_LISTED.value
    logits = torch.zeros(4, vocab_size)
    logits[:, ::7] = 1.0
    params = [
        SamplingParams(seed=1, top_k=2000),
        SamplingParams(seed=2, top_p=0.7),
        SamplingParams(seed=3, top_k=4000, top_p=0.9),
        SamplingParams(seed=4, top_p=0.999),
    ]
    drawn, expected = draw_both(logits, params)
    assert drawn == expected


def test_rows_alone_and_however_they_are_split(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(3)  # noqa: S311
    params = [random_params(rng) for _ in range(12)]
    logits = normal_logits(12, 4000)
    together, expected = draw_both(logits, params)
    assert together == expected
    alone = [draw_both(logits[i : i + 1], params[i : i + 1], 3 + i)[0][0] for i in range(12)]
    assert alone == together
    monkeypatch.setattr(draw_module, "_NUM_PROGRAMS", 1)
    assert draw_both(logits, params)[0] == together


def test_splits_cover_every_token_once() -> None:
    block = kernels.BLOCK.value
    for vocab_size in (1, block, block + 1, 32_000, 151_936, 262_144):
        for num_rows in (1, 2, 7, 64, 600):
            num_splits, chunk = draw_module._split(num_rows, vocab_size)
            assert 1 <= num_splits <= kernels.MAX_SPLITS.value
            assert (num_splits - 1) * chunk < vocab_size <= num_splits * chunk


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_invalid_rows_fail_alone() -> None:
    params = [SamplingParams(seed=i, top_p=0.9, top_k=10 * (i % 2)) for i in range(8)]
    logits = normal_logits(8, 300)
    results = []
    for spoiled in (False, True):
        if spoiled:
            logits[1, 7] = math.nan
            logits[2, 9] = math.inf
            logits[4] = -math.inf
            logits[5] = math.nan
        state = SamplingState(8, 300, DEVICE, TritonDraw(300, DEVICE))
        for row, row_params in enumerate(params):
            state.start(RowStart(row, 0, row_params, [1], 1))
        results.append(state.sample(logits.to(DEVICE), list(range(8)), [1] * 8).wait())
    (good, _, _), (found, _, errors) = results
    bad = {1, 2, 4, 5}
    assert errors == [INVALID_NUMBERS if row in bad else None for row in range(8)]
    assert found == [0 if row in bad else good[row] for row in range(8)]


def test_no_rows() -> None:
    drawn, expected = draw_both(torch.zeros(0, 50), [])
    assert drawn == expected == []


@triton.jit
def _noise_kernel(token_ids, keys, noise, size, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    ids = tl.load(token_ids + at, mask=at < size, other=0)
    values = arithmetic.log_exponential(ids, tl.load(keys), tl.load(keys + 1))
    tl.store(noise + at, values, mask=at < size)


@triton.jit
def _weights_kernel(drops, weights, size, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    values = arithmetic.weights(tl.load(drops + at, mask=at < size, other=0.0))
    tl.store(weights + at, values, mask=at < size)


def test_noise_is_that_of_the_cpu() -> None:
    size = 200_000
    token_ids = torch.arange(size, dtype=torch.int32)
    keys = torch.tensor([[-123456789, 987654321]], dtype=torch.int32)
    noise = torch.empty(size, device=DEVICE)
    _noise_kernel[(-(-size // 4096),)](
        token_ids.to(DEVICE), keys.to(DEVICE), noise, size, 4096, enable_fp_fusion=False
    )
    expected = torch_log_exponential(token_ids[None], keys)[0]
    torch.testing.assert_close(noise.cpu(), expected, rtol=3e-7, atol=3e-7)
    assert (noise.cpu() == expected).double().mean() > 0.5


def test_weights_are_exponentials() -> None:
    drops = torch.cat([torch.linspace(0, 33, 100_000), torch.tensor([0.0, 1e-30, math.inf])])
    weights = torch.empty(len(drops), dtype=torch.int64, device=DEVICE)
    _weights_kernel[(-(-len(drops) // 4096),)](
        drops.to(DEVICE), weights, len(drops), 4096, enable_fp_fusion=False
    )
    exact = torch.exp(-drops.double()) * 2.0**40
    error = (weights.cpu() - exact).abs()
    # One more for cutting off the fraction.
    assert (error <= 2.0**-23 * exact + 1).all()
    assert weights[-3:].tolist() == [2**40, 2**40, 0]


COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from engine.sampler.triton import kernels

POINTERS = {
    "logits": "*fp32", "best": "*fp32", "costs": "*fp32", "listed": "*i64", "masses": "*i64",
    "token_ids": "*i64", "numbers": "*i32", "best_ids": "*i32", "counts": "*i32",
    "num_listed": "*i32", "cost_ids": "*i32",
}
for kernel in (kernels.find_best, kernels.count, kernels.spread, kernels.finish):
    signature = {name: POINTERS.get(name, "i32") for name in kernel.arg_names}
    compiled = triton.compile(
        ASTSource(kernel, signature),
        target=GPUTarget("cuda", 90, 32),
        options={"enable_fp_fusion": False},
    )
    assert compiled.asm["cubin"]
    for inexact in ("fma.rn.f32", "ex2", "lg2", "div.full", "div.approx"):
        assert inexact not in compiled.asm["ptx"], (kernel, inexact)
"""


def test_the_kernels_compile_for_a_gpu_with_exact_operations_alone(tmp_path: Path) -> None:
    """What the interpreter lets through may still not compile: done here without a GPU."""
    environment = {
        "PYTHONPATH": ":".join([str(ROOT), *sys.path]),
        "TRITON_CACHE_DIR": str(tmp_path),
    }
    command = [sys.executable, "-c", COMPILE]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
