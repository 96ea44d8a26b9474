"""The merged model's logits are the adapted model's, over plain, 4-bit and int8 bases; what cannot be merged is refused by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from studio.core.errors import RunError
from studio.export.merge import save_merged
from studio.export.source import ExportSource
from studio.methods.adapters import load_adapter
from studio.models.load import load_base

Trained = Callable[[str], ExportSource]
IDS = torch.arange(3, 43).reshape(2, 20)


@torch.no_grad()
def logits(model: torch.nn.Module) -> torch.Tensor:
    return model(input_ids=IDS).logits.float()


def merged_logits(folder: Path) -> torch.Tensor:
    from transformers import AutoModelForCausalLM

    return logits(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32))


@pytest.mark.parametrize(("name", "tolerance"), [("lora", 1e-4), ("pissa", 1e-4), ("dora", 1e-4), ("qlora", 1e-3)])
def test_a_merged_model_answers_as_the_adapted_one(trained: Trained, tmp_path: Path, name: str, tolerance: float) -> None:
    source = trained(name)
    base = load_base(source.spec, source.home).model
    before = logits(base)
    adapted = logits(load_adapter(base, source.adapter, "default"))
    merged = merged_logits(save_merged(source, tmp_path / "merged"))
    assert (adapted - before).abs().max() > 20 * tolerance, "the adapter changes something"
    assert (merged - adapted).abs().max() < tolerance


def test_over_int8_the_weights_are_the_dequantized_ones(trained: Trained, tmp_path: Path) -> None:
    """int8 products round the activations as well, so the answer is close to the adapted model's, not equal."""
    source = trained("int8")
    adapted = logits(load_adapter(load_base(source.spec, source.home).model, source.adapter, "default"))
    merged = merged_logits(save_merged(source, tmp_path / "merged"))
    assert (merged - adapted).abs().max() < 0.05 * adapted.abs().max()


def test_the_original_weights_can_be_asked_for(trained: Trained, tmp_path: Path) -> None:
    """Then what is added to the original 16- or 32-bit base is exactly s B A."""
    source = trained("qlora")
    plain = trained("lora").spec
    base = load_base(plain, source.home).model
    adapted = logits(load_adapter(base, source.adapter, "default"))
    merged = merged_logits(save_merged(source, tmp_path / "merged", "original"))
    assert (merged - adapted).abs().max() < 1e-4
    assert (merged - merged_logits(save_merged(source, tmp_path / "as-trained"))).abs().max() > 1e-3


def test_the_folder_is_an_ordinary_model(trained: Trained, tmp_path: Path) -> None:
    from transformers import AutoConfig, AutoTokenizer

    folder = save_merged(trained("qlora"), tmp_path / "merged")
    assert not hasattr(AutoConfig.from_pretrained(folder), "quantization_config")
    assert AutoTokenizer.from_pretrained(folder).chat_template
    assert {path.suffix for path in folder.iterdir()} <= {".json", ".jinja", ".safetensors", ".md"}
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(("name", "reason"), [("adapter", "nonlinearity"), ("prefix", "not a change of weights")])
def test_families_that_cannot_merge_say_why(trained: Trained, tmp_path: Path, name: str, reason: str) -> None:
    with pytest.raises(RunError, match=reason):
        save_merged(trained(name), tmp_path / "merged")
    assert not list(tmp_path.iterdir())


def test_nothing_is_overwritten(trained: Trained, tmp_path: Path) -> None:
    (tmp_path / "merged").mkdir()
    (tmp_path / "merged" / "mine.txt").write_text("mine")
    with pytest.raises(RunError, match="exists already"):
        save_merged(trained("lora"), tmp_path / "merged")
    assert [path.name for path in (tmp_path / "merged").iterdir()] == ["mine.txt"]
