"""A small model in every GGUF type: its logits are those of the same file read by transformers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers
from quantized_blocks import QUANTIZED, VOCAB, write_wide_gguf
from tiny_models import BareEngine, Chunk

TOKEN_IDS = [(17 * i) % VOCAB for i in range(60)]
# transformers asks the `gguf` package for the numbers, which cannot read this one.
READ_BY_BOTH = [dtype for dtype in QUANTIZED if dtype != "Q8_K"]


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16", *READ_BY_BOTH])
def test_logits_of_a_file_that_both_read(tmp_path: Path, dtype: str) -> None:
    path = write_wide_gguf(tmp_path / "model.gguf", dtype)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, gguf_file=path.name, dtype=torch.float32
    ).eval()
    with torch.no_grad():
        expected = model(torch.tensor([TOKEN_IDS])).logits[0]
    engine = BareEngine(path, quantization="none", max_model_len=128, num_rows=2)
    [logits] = engine.run([Chunk(0, TOKEN_IDS, 0)])
    assert expected.std() > 0.1
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-4)
    assert torch.equal(logits.argmax(-1), expected.argmax(-1))


@pytest.mark.parametrize("dtype", READ_BY_BOTH)
def test_the_default_of_a_cpu_stays_near(tmp_path: Path, dtype: str) -> None:
    """Quantized where our kernels can, else bfloat16: as the plain numbers are, nearly."""
    path = write_wide_gguf(tmp_path / "model.gguf", dtype)
    plain = write_wide_gguf(tmp_path / "plain.gguf", dtype, matrices_as="F32")
    sizes = {"max_model_len": 128, "num_rows": 2}
    [expected] = BareEngine(plain, **sizes).run([Chunk(0, TOKEN_IDS, 0)])
    [logits] = BareEngine(path, dtype=torch.bfloat16, **sizes).run([Chunk(0, TOKEN_IDS, 0)])
    assert (logits - expected).norm() < 0.2 * expected.norm()
