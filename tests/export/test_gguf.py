"""The GGUF file against two oracles: transformers' reader (logits, tokens) and the rotation llama.cpp computes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from studio.core.errors import RunError
from studio.export.gguf import check_covered, check_written, interleave, read_gguf, rope_divisors, write_gguf, write_model
from studio.export.merge import merge_run, save_merged
from studio.export.source import ExportSource

Trained = Callable[[str], ExportSource]
IDS = torch.arange(3, 43).reshape(2, 20)


@pytest.mark.parametrize(("precision", "tolerance"), [("f32", 1e-4), ("f16", 5e-3), ("bf16", 5e-2)])
def test_the_file_read_back_answers_as_the_merged_model(trained: Trained, tmp_path: Path, precision: str, tolerance: float) -> None:
    from transformers import AutoModelForCausalLM

    source = trained("lora")
    merged = AutoModelForCausalLM.from_pretrained(save_merged(source, tmp_path / "merged"), dtype=torch.float32)
    read = read_gguf(write_gguf(source, tmp_path / "model.gguf", precision))
    with torch.no_grad():
        assert (read(IDS).logits - merged(IDS).logits).abs().max() < tolerance


def test_the_tokenizer_read_back_is_the_model_s(trained: Trained, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    source = trained("lora")
    path = write_gguf(source, tmp_path / "model.gguf")
    read = AutoTokenizer.from_pretrained(tmp_path, gguf_file=path.name)
    own = AutoTokenizer.from_pretrained(source.spec.model.id)
    text = "<|im_start|>user\ndef total(numbers):\n    return sum(numbers) # 12345 ü<|im_end|>\n"
    assert read(text, add_special_tokens=False).input_ids == own(text, add_special_tokens=False).input_ids
    assert (read.eos_token_id, read.bos_token_id, read.chat_template) == (own.eos_token_id, own.bos_token_id, own.chat_template)


def test_interleaved_rows_rotated_in_pairs_are_halves_rotated() -> None:
    """transformers rotates (i, i + d/2) by an angle, llama.cpp (2i, 2i + 1): on interleaved rows both give the same head, reordered."""
    rng = np.random.default_rng(0)
    heads, width, columns = 3, 8, 5
    weight, x = rng.normal(size=(heads * width, columns)), rng.normal(size=columns)
    angle = rng.normal(size=width // 2)
    halves = (weight @ x).reshape(heads, 2, width // 2)
    turned = np.stack(
        [halves[:, 0] * np.cos(angle) - halves[:, 1] * np.sin(angle), halves[:, 1] * np.cos(angle) + halves[:, 0] * np.sin(angle)], 1
    )
    pairs = (interleave(weight, heads) @ x).reshape(heads, width // 2, 2)
    turned_pairs = np.stack(
        [pairs[..., 0] * np.cos(angle) - pairs[..., 1] * np.sin(angle), pairs[..., 1] * np.cos(angle) + pairs[..., 0] * np.sin(angle)], -1
    )
    np.testing.assert_allclose(turned_pairs.swapaxes(1, 2), turned)


def test_stretched_frequencies_are_those_of_transformers() -> None:
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    rope = {
        "rope_type": "llama3", "rope_theta": 500_000.0, "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }  # fmt: skip
    config = LlamaConfig(hidden_size=2048, num_attention_heads=32, head_dim=64, max_position_embeddings=131_072, rope_parameters=rope)
    stretched, _ = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
    plain = 1.0 / (500_000.0 ** (torch.arange(0, 64, 2).float() / 64))
    np.testing.assert_allclose(plain.numpy() / rope_divisors(config), stretched.numpy(), rtol=1e-5)


def test_a_file_that_differs_from_the_model_is_refused(trained: Trained, tmp_path: Path) -> None:
    model, tokenizer, _ = merge_run(trained("lora"))
    write_model(model, tokenizer, tmp_path / "model.gguf", "x", "f32")
    check_written(model, tmp_path / "model.gguf", "f32")
    with torch.no_grad():
        model.model.layers[1].self_attn.k_proj.weight[0, 0] += 1
    with pytest.raises(RunError, match=r"layers\.1\.self_attn\.k_proj"):
        check_written(model, tmp_path / "model.gguf", "f32")


def test_other_architectures_and_tokenizers_are_named(trained: Trained) -> None:
    class GPTNeoXForCausalLM:
        config = SimpleNamespace()

    model, tokenizer, _ = merge_run(trained("lora"))
    with pytest.raises(RunError, match="GPTNeoXForCausalLM"):
        check_covered(GPTNeoXForCausalLM(), tokenizer)
    with pytest.raises(RunError, match="byte-level BPE"):
        check_covered(model, SimpleNamespace(backend_tokenizer=None))
    model.config.rope_parameters = {"rope_type": "yarn", "rope_theta": 1e4}
    with pytest.raises(RunError, match="yarn"):
        check_covered(model, tokenizer)
