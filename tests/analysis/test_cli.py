"""The command line's two reports are JSON and agree with bitsandbytes and with the modules they are made of."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from studio.analysis.cli import delta_report, find_adapter, nf4_model_report, nf4_report, spectrum_report
from studio.analysis.quantization_info import QuantizationOptions
from studio.core.errors import AnalysisError

Q = "model.layers.0.self_attn.q_proj"


def test_code_counts_equal_bitsandbytes(tiny_llama: Path, tmp_path: Path) -> None:
    import bitsandbytes.functional as functional

    report = nf4_report(tiny_llama, 0, "q_proj", cache=tmp_path)
    packed, _ = functional.quantize_4bit(load_file(tiny_llama / "model.safetensors")[f"{Q}.weight"], blocksize=64, quant_type="nf4")
    flat = packed.numpy().ravel()
    counts = np.bincount(flat >> 4, minlength=16) + np.bincount(flat & 15, minlength=16)
    assert report["code_counts"] == counts.tolist()
    assert len(report["code_counts"]) == 16
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert len(json.dumps(report)) < 100_000


def test_another_type_is_reported_first_when_nf4_is_left_out(tiny_llama: Path) -> None:
    report = nf4_report(tiny_llama, 0, "q_proj", QuantizationOptions(types=("fp4",)))
    assert report["type"] == "fp4"
    assert len(report["code_counts"]) == 16


def test_a_whole_model_is_json(tiny_llama: Path) -> None:
    report = nf4_model_report(tiny_llama)
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert len(report["modules"]) == report["description"]["linear_layers"] == 14


@pytest.fixture
def run(tmp_path: Path, write_adapter: Callable, random_factors: Callable) -> Path:
    """A run folder with an adapter and two snapshots on the tiny Llama's q and v of layer 0."""
    folder = tmp_path / "run"
    factors = {Q: random_factors(64, 64, 4), Q.replace("q_proj", "v_proj"): random_factors(32, 64, 4, seed=1)}
    write_adapter(folder / "adapter", factors)
    for step in (5, 10):
        write_adapter(folder / "snapshots" / f"step-{step:06d}", {name: (a, b * step) for name, (a, b) in factors.items()})
    return folder


def test_a_run_is_reported_with_growth_and_advice(run: Path) -> None:
    report = spectrum_report(run)
    assert [point["step"] for point in report["growth"]] == [5, 10]
    assert report["growth"][1]["update_norm"] == pytest.approx(2 * report["growth"][0]["update_norm"], rel=1e-5)
    assert report["advice"] and len(report["modules"]) == 2
    assert json.loads(json.dumps(report, allow_nan=False)) == report


def test_one_module_is_compared_with_its_base_and_another_run(run: Path, tiny_llama: Path) -> None:
    report = spectrum_report(run, base_folder=tiny_llama, other_folder=run / "adapter", layer=0, module="q_proj")
    assert [module["name"] for module in report["modules"]] == [Q]
    a, b = (load_file(run / "adapter" / "adapter_model.safetensors")[f"base_model.model.{Q}.lora_{kind}.weight"] for kind in "AB")
    assert report["amplification"]["update_norm"] == pytest.approx(float(torch.linalg.norm(4 * b @ a)), rel=1e-5)
    assert report["similarity"]["phi"][3][3] == 1
    assert report["intruders"]["best_cosines"]
    assert json.loads(json.dumps(report, allow_nan=False)) == report


def test_a_model_against_itself_has_no_delta(tiny_llama: Path) -> None:
    report = delta_report(tiny_llama, tiny_llama, 1, "up_proj")
    assert (report["ranks"]["effective_rank"], report["relative_norm"]) == (0, 0)
    assert json.loads(json.dumps(report, allow_nan=False)) == report


def test_dora_is_reported_with_its_whole_change(
    tmp_path: Path, tiny_llama: Path, write_adapter: Callable, random_factors: Callable
) -> None:
    folder = write_adapter(tmp_path, {Q: random_factors(64, 64, 4)})
    tensors = load_file(folder / "adapter_model.safetensors")
    weight = load_file(tiny_llama / "model.safetensors")[f"{Q}.weight"].float()
    tensors[f"base_model.model.{Q}.lora_magnitude_vector"] = weight.norm(dim=1)
    save_file(tensors, folder / "adapter_model.safetensors")
    report = spectrum_report(folder, base_folder=tiny_llama, layer=0, module="q_proj")
    assert report["dora"] and report["dora_delta"]["ranks"]["frobenius"] > 0


def test_a_base_without_a_module_is_a_sentence(run: Path, tiny_llama: Path) -> None:
    with pytest.raises(AnalysisError, match="one module at a time"):
        spectrum_report(run, base_folder=tiny_llama)


def test_a_run_that_saved_nothing_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "spec.json").write_text("{}")
    with pytest.raises(AnalysisError, match="saved no adapter"):
        find_adapter(tmp_path)


def test_a_stopped_run_falls_back_to_its_last_snapshot(run: Path) -> None:
    for file in (run / "adapter").iterdir():
        file.unlink()
    assert find_adapter(run).name == "step-000010"


@pytest.mark.real
def test_the_starter_model_by_name_of_layer_and_module(starter_model: Path) -> None:
    report = nf4_report(starter_model, 3, "q_proj")
    assert sum(report["code_counts"]) == report["weights"]["rows"] * report["weights"]["columns"]
