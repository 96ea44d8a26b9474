"""What an error does to outputs and loss, against bitsandbytes and against direct computation on a tiny model."""

from __future__ import annotations

import json

import numpy as np
import pytest

from studio.analysis.effect import ROWS, measure_effect, requantize
from studio.analysis.quantization_info import QuantizationOptions
from studio.core.errors import AnalysisError
from studio.core.paths import StudioHome


@pytest.fixture
def home(studio_home):
    home = StudioHome.find(studio_home)
    home.data.mkdir(parents=True)
    rows = [{"prompt": f"Return {index}.", "completion": f"def total(): return {index}"} for index in range(20)]
    home.starter_data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return home


def test_nf4_comes_back_as_bitsandbytes_gives_it_back():
    import torch
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    weight = torch.randn(96, 128, generator=torch.Generator().manual_seed(0))
    packed, state = quantize_4bit(weight, blocksize=64, quant_type="nf4")
    ours = requantize(weight.numpy(), "nf4", QuantizationOptions(double_quant=False))
    assert np.allclose(ours, dequantize_4bit(packed, state).numpy(), rtol=1e-6, atol=0)


def test_coarser_types_are_further_off_and_the_loss_is_the_models_own(home, tiny_llama):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from studio.models.chat import encode_conversation

    phrases = []
    effect = measure_effect((str(tiny_llama), 1, "q_proj"), home, QuantizationOptions(), phrases.append)
    assert effect.rows == ROWS
    assert len(phrases) == 6
    errors = {name: item.output_error for name, item in effect.types.items()}
    assert errors["int8"] < errors["nf4"] < errors["fp4"]
    model = AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    total, tokens = 0.0, 0
    for line in home.starter_data.read_text().splitlines()[-ROWS:]:
        row = json.loads(line)
        turns = [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["completion"]}]
        encoded = encode_conversation(tokenizer, turns)
        labels = torch.tensor([[token if kept else -100 for token, kept in zip(encoded.ids, encoded.labelled, strict=True)]])
        count = int((labels[0, 1:] != -100).sum())
        with torch.no_grad():
            total += float(model(input_ids=torch.tensor([encoded.ids]), labels=labels).loss) * count
        tokens += count
    assert effect.tokens == tokens
    assert effect.loss == pytest.approx(total / tokens, rel=1e-5)


def test_a_home_without_the_starter_data_is_told_what_to_do(studio_home, tiny_llama):
    with pytest.raises(AnalysisError, match="starter dataset is not set up"):
        measure_effect((str(tiny_llama), 0, "q_proj"), StudioHome.find(studio_home), QuantizationOptions(), lambda _: None)
