"""Spectra equal dense SVD and PEFT's own dW; planted ranks are found; broken adapters are sentences."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from studio.analysis.adapter_files import open_adapter
from studio.analysis.advice import advise
from studio.analysis.deltas import dora_delta, marchenko_pastur_median, merged_delta
from studio.analysis.growth import snapshot_folders, spectrum_growth
from studio.analysis.jsonable import to_jsonable
from studio.analysis.spectrum import adapter_spectrum, factored_svd, factored_values, product_noise_floor, ranks_of
from studio.analysis.tensors import open_model, read_linear
from studio.core.errors import AnalysisError

Q = "model.layers.0.self_attn.q_proj"


def _peft_model(base: Path, **config: Any) -> Any:
    """A PEFT model on `base` whose B is random and not zero."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        wrapped = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **config))
        for name, parameter in wrapped.named_parameters():
            if "lora_B" in name or "lora_embedding_B" in name:
                torch.nn.init.normal_(parameter, std=0.02)
    return wrapped


@pytest.mark.parametrize(
    "config",
    [
        {"r": 4, "lora_alpha": 8, "target_modules": "all-linear"},
        {"r": 4, "lora_alpha": 8, "use_rslora": True, "target_modules": ["q_proj", "v_proj"]},
        {
            "r": 4,
            "lora_alpha": 8,
            "target_modules": ["q_proj", "v_proj"],
            "rank_pattern": {"v_proj": 2},
            "alpha_pattern": {"0.*q_proj": 32},
        },
        {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "embed_tokens"]},
    ],
)
def test_spectra_equal_pefts_own_update(tiny_llama: Path, tmp_path: Path, config: dict[str, Any]) -> None:
    model = _peft_model(tiny_llama, **config)
    model.save_pretrained(tmp_path, save_embedding_layers=False)
    spectrum = adapter_spectrum(tmp_path)
    tuned = {name.removeprefix("base_model.model."): layer for name, layer in model.named_modules() if hasattr(layer, "get_delta_weight")}
    assert {module.name for module in spectrum.modules} == set(tuned)
    for module in spectrum.modules:
        dense = torch.linalg.svdvals(tuned[module.name].get_delta_weight("default").detach().double())
        assert np.allclose(module.singular_values, dense[: module.r], rtol=1e-5, atol=1e-6 * dense[0])


def test_dora_on_its_base_equals_pefts_merge(tiny_llama: Path, tmp_path: Path) -> None:
    model = _peft_model(tiny_llama, r=4, lora_alpha=8, use_dora=True, target_modules=["q_proj"])
    model.save_pretrained(tmp_path)
    adapter = open_adapter(tmp_path)
    assert adapter.dora
    module = adapter.module(0, "q_proj")
    weight = read_linear(open_model(tiny_llama).linear(0, "q_proj"))
    merged = model.merge_and_unload().state_dict()[f"{Q}.weight"]
    dense = torch.linalg.svdvals(merged.double() - torch.tensor(weight).double())
    assert np.allclose(dora_delta(module, weight).singular_values, dense, atol=1e-5 * dense[0])


@settings(max_examples=25, deadline=None)
@given(
    out=st.integers(1, 40),
    inputs=st.integers(1, 40),
    r=st.integers(1, 12),
    seed=st.integers(0, 99),
    scaling=st.sampled_from([2.0, 0.5, -1]),
)
def test_factored_svd_equals_dense(out: int, inputs: int, r: int, seed: int, scaling: float) -> None:
    generator = np.random.default_rng(seed)
    a, b = generator.standard_normal((r, inputs)), generator.standard_normal((out, r))
    dense = np.linalg.svd(scaling * b @ a, compute_uv=False)
    values, svd = factored_values(a, b, scaling), factored_svd(a, b, scaling)
    assert np.allclose(values, dense[: len(values)], atol=1e-10 * dense[0])
    assert np.allclose((svd.left * svd.values) @ svd.right.T, scaling * b @ a, atol=1e-10 * dense[0])
    assert np.allclose(svd.left.T @ svd.left, np.eye(len(svd.values)), atol=1e-10)


@pytest.mark.parametrize(("out", "inputs", "r"), [(1000, 777, 8), (300, 4096, 64), (500, 129, 70), (128, 257, 1)])
def test_values_of_tall_factors_equal_dense(out: int, inputs: int, r: int) -> None:
    generator = np.random.default_rng(r)
    a, b = generator.standard_normal((r, inputs)), generator.standard_normal((out, r))
    b[:, : r // 2] = 0
    dense = np.linalg.svd(b @ a, compute_uv=False)
    assert np.allclose(factored_values(a, b, 1.0), dense[:r], atol=1e-12 * dense[0])


def test_ranks_of_known_spectra() -> None:
    flat = ranks_of(np.ones(8))
    assert (flat.effective_rank, flat.stable_rank, flat.energy_rank) == (pytest.approx(8), 8, 8)
    one = ranks_of(np.array([3.0, 0, 0]))
    assert (one.effective_rank, one.stable_rank, one.energy_rank, one.frobenius) == (1, 1, 1, 3)
    three = ranks_of(np.array([3.0, 1.0]))
    assert three.stable_rank == pytest.approx(10 / 9)
    assert three.energy_rank == 1
    assert ranks_of(np.zeros(4)) == ranks_of(np.array([]))
    assert ranks_of(np.zeros(4)).effective_rank == 0


@pytest.mark.parametrize("seed", range(5))
def test_noise_has_nothing_above_its_floor(seed: int) -> None:
    generator = np.random.default_rng(seed)
    values = factored_values(generator.standard_normal((16, 512)), generator.standard_normal((768, 16)), 2.0)
    floor, above = product_noise_floor(values, 768, 512)
    assert above == 0
    assert values[0] < floor < 1.3 * values[0]


@pytest.mark.parametrize("planted", [1, 3])
def test_planted_directions_stand_above_the_floor(planted: int) -> None:
    generator = np.random.default_rng(planted)
    b = generator.standard_normal((768, 16)) * 0.05
    b[:, :planted] += generator.standard_normal((768, planted)) * 3
    values = factored_values(generator.standard_normal((16, 512)), b, 1.0)
    assert product_noise_floor(values, 768, 512)[1] == planted


def test_an_update_of_zero_has_ranks_of_zero(tmp_path: Path, write_adapter: Callable, random_factors: Callable) -> None:
    a, b = random_factors(32, 16, 4)
    spectrum = adapter_spectrum(write_adapter(tmp_path, {Q: (a, torch.zeros_like(b))}))
    module = spectrum.modules[0]
    assert (module.ranks.effective_rank, module.ranks.stable_rank, module.ranks.energy_rank, module.rank_above_noise) == (0, 0, 0, 0)
    assert "changes nothing" in advise(spectrum)[0].hypothesis
    json.dumps(to_jsonable(spectrum), allow_nan=False)


def test_modules_are_sorted_by_layer_number(tmp_path: Path, write_adapter: Callable, random_factors: Callable) -> None:
    names = [f"model.layers.{layer}.mlp.up_proj" for layer in (10, 2, 1)]
    spectrum = adapter_spectrum(write_adapter(tmp_path, {name: random_factors(8, 8, 2) for name in names}))
    assert [module.layer for module in spectrum.modules] == [1, 2, 10]


def test_advice_follows_the_evidence(tmp_path: Path, write_adapter: Callable, random_factors: Callable) -> None:
    a, b = random_factors(64, 64, 8)
    weak = b.clone()
    weak[:, 1:] *= 0.01
    low = advise(adapter_spectrum(write_adapter(tmp_path / "low", {Q: (a, weak)})))
    assert low[0].hypothesis.startswith("r = 1 may be enough")
    assert low[0].numbers["directions_for_90_percent"] == 1
    orthogonal = torch.linalg.qr(torch.randn(64, 8, generator=torch.Generator().manual_seed(1)))[0]
    full = advise(adapter_spectrum(write_adapter(tmp_path / "full", {Q: (orthogonal.T, orthogonal)})))
    assert "r = 16 may learn more" in full[0].hypothesis


def _planted(folder: Path, write_adapter: Callable, squares: list[float], name: str = Q) -> Any:
    """The advice on one module of 4096 x 4096 whose update has just these squared singular values."""
    left, right = (torch.linalg.qr(torch.randn(4096, len(squares), generator=torch.Generator().manual_seed(seed)))[0] for seed in (1, 2))
    return advise(adapter_spectrum(write_adapter(folder, {name: (right.T, left * torch.tensor(squares).sqrt())})))[0]


def test_a_larger_rank_is_advised_only_where_its_evidence_agrees(tmp_path: Path, write_adapter: Callable) -> None:
    partly = _planted(tmp_path / "partly", write_adapter, [4, 2.6, 2, 1.7, 1.3, 1, 1, 1])
    assert partly.hypothesis == "r = 8 looks about right."
    assert partly.evidence == (
        "In 75 % of the modules at most 7 of 8 directions hold 90 % of the update's energy; 5 of 8 are above noise in the median module."
    )
    full = _planted(tmp_path / "full", write_adapter, [0.8**index for index in range(8)])
    assert full.hypothesis.startswith("Nearly all 8 directions are in use: r = 16 may learn more.")
    assert "at least 7 of 8" in full.evidence and "7 of 8 are above noise" in full.evidence
    two = _planted(tmp_path / "two", write_adapter, [4.0, 3.0, *[1e-4] * 6])
    assert two.hypothesis.startswith("r = 2 may be enough.") and "2 of 8 are above noise" in two.evidence
    even = _planted(tmp_path / "even", write_adapter, [1.0] * 8)
    assert even.hypothesis.startswith("All 8 directions are used alike: r = 16 may learn more.") and "noise" in even.evidence


def test_the_largest_share_is_not_called_most(tmp_path: Path, write_adapter: Callable, random_factors: Callable) -> None:
    names = ["gate_proj", "up_proj", "down_proj", "q_proj", "k_proj", "v_proj", "o_proj"]
    factors = {f"model.layers.0.mlp.{name}": random_factors(16, 16, 2) for name in names}
    factors["model.layers.0.mlp.gate_proj"][1].mul_(1.6)
    advice = advise(adapter_spectrum(write_adapter(tmp_path, factors)))[-1]
    assert advice.hypothesis.startswith("The largest share of the change is in gate_proj") and "carries 30 %" in advice.evidence


def test_growth_is_ordered_by_step(tmp_path: Path, write_adapter: Callable, random_factors: Callable) -> None:
    a, b = random_factors(16, 16, 2)
    for step in (100, 20, 3):
        write_adapter(tmp_path / f"step-{step}", {Q: (a, b * step)})
    growth = spectrum_growth(snapshot_folders(tmp_path))
    assert growth.steps == (3, 20, 100)
    sizes = [spectrum.modules[0].ranks.frobenius for spectrum in growth.spectra]
    assert sizes[2] / sizes[0] == pytest.approx(100 / 3)
    with pytest.raises(AnalysisError, match="No snapshots were kept"):
        spectrum_growth(snapshot_folders(tmp_path / "nothing"))


def _rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> Path:
    tensors = load_file(folder / "adapter_model.safetensors")
    change(tensors)
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder


@pytest.mark.parametrize("kind", ["A", "B"])
def test_a_missing_factor_is_named(tmp_path: Path, write_adapter: Callable, random_factors: Callable, kind: str) -> None:
    folder = write_adapter(tmp_path, {Q: random_factors(8, 8, 2)})
    _rewrite(folder, lambda tensors: tensors.pop(f"base_model.model.{Q}.lora_{kind}.weight"))
    with pytest.raises(AnalysisError, match=rf"q_proj has no matrix {kind}"):
        adapter_spectrum(folder)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_nan_and_infinity_are_a_sentence(tmp_path: Path, write_adapter: Callable, random_factors: Callable, bad: float) -> None:
    a, b = random_factors(8, 8, 2)
    b[3, 1] = bad
    with pytest.raises(AnalysisError, match="q_proj holds NaN or infinity"):
        adapter_spectrum(write_adapter(tmp_path, {Q: (a, b)}))


def test_factors_that_do_not_fit_are_a_sentence(tmp_path: Path, write_adapter: Callable) -> None:
    with pytest.raises(AnalysisError, match="do not fit together"):
        adapter_spectrum(write_adapter(tmp_path, {Q: (torch.ones(2, 8), torch.ones(8, 3))}))


def test_what_is_no_lora_folder_is_a_sentence(tmp_path: Path, write_adapter: Callable, random_factors: Callable) -> None:
    with pytest.raises(AnalysisError, match="no adapter folder"):
        open_adapter(tmp_path / "nothing")
    with pytest.raises(AnalysisError, match=r"holds no adapter_config\.json"):
        open_adapter(tmp_path)
    folder = write_adapter(tmp_path / "prefix", {Q: random_factors(8, 8, 2)}, peft_type="PREFIX_TUNING")
    with pytest.raises(AnalysisError, match="is PREFIX_TUNING"):
        open_adapter(folder)
    stopped = write_adapter(tmp_path / "stopped", {Q: random_factors(8, 8, 2)})
    (stopped / "adapter_model.safetensors").unlink()
    with pytest.raises(AnalysisError, match=r"holds no adapter_model\.safetensors"):
        open_adapter(stopped)
    (stopped / "adapter_model.bin").write_bytes(b"")
    with pytest.raises(AnalysisError, match="pickled adapter"):
        open_adapter(stopped)
    (stopped / "adapter_config.json").write_text("{")
    with pytest.raises(AnalysisError, match="cannot be read"):
        open_adapter(stopped)
    (stopped / "adapter_config.json").write_text("[]")
    with pytest.raises(AnalysisError, match="something else"):
        open_adapter(stopped)


def _two_models(tmp_path: Path, delta: torch.Tensor, dtype: torch.dtype) -> tuple[Path, Path]:
    base = torch.randn(delta.shape, generator=torch.Generator().manual_seed(9)).to(dtype)
    folders = tmp_path / "base", tmp_path / "tuned"
    for folder, weight in zip(folders, (base, (base.double() + delta).to(dtype)), strict=True):
        folder.mkdir()
        save_file({f"{Q}.weight": weight}, folder / "model.safetensors")
    return folders


def test_a_merged_update_is_found_above_its_rounding(tmp_path: Path, random_factors: Callable) -> None:
    a, b = random_factors(128, 96, 3, seed=4)
    delta = (b @ a).double() * 0.02
    spectrum = merged_delta(*_two_models(tmp_path, delta, torch.bfloat16), 0, "q_proj")
    assert spectrum.rank_above_noise == 3
    dense = torch.linalg.svdvals(delta)
    assert np.allclose(spectrum.singular_values[:3], dense[:3], rtol=1e-2)
    assert spectrum.relative_norm > 0


def test_two_equal_models_have_no_delta(tmp_path: Path) -> None:
    spectrum = merged_delta(*_two_models(tmp_path, torch.zeros(16, 8).double(), torch.float32), 0, "q_proj")
    assert (spectrum.ranks.effective_rank, spectrum.rank_above_noise, spectrum.noise_floor) == (0, 0, 0)


@pytest.mark.parametrize("beta", [0.1, 0.5, 1.0])
def test_the_marchenko_pastur_median_equals_simulation(beta: float) -> None:
    generator = np.random.default_rng(1)
    large = 300
    draws = generator.standard_normal((20, int(beta * large), large))
    medians = np.median(np.linalg.svd(draws, compute_uv=False), axis=1) ** 2 / large
    assert marchenko_pastur_median(beta) == pytest.approx(medians.mean(), rel=0.015)
