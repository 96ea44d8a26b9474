"""Shared, random and planted directions give the similarity, amplification and intruders they must."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from studio.analysis.adapter_files import LoraModule, open_adapter
from studio.analysis.subspace import amplification, compare_adapters, intruder_dimensions
from studio.core.errors import AnalysisError

Q = "model.layers.0.self_attn.q_proj"


@pytest.mark.parametrize("kind", ["A", "update"])
def test_an_adapter_is_wholly_similar_to_itself(tmp_path: Path, write_adapter: Callable, random_factors: Callable, kind: str) -> None:
    folder = write_adapter(tmp_path, {Q: random_factors(64, 256, 8)})
    similarity = compare_adapters(folder, folder, 0, "q_proj", kind)
    phi = np.array(similarity.phi)
    assert np.allclose(np.diag(phi), 1)
    assert np.allclose(phi[-1], 1) and np.allclose(phi[:, -1], 1)


def test_random_adapters_are_as_similar_as_the_control(tmp_path: Path, write_adapter: Callable, random_factors: Callable) -> None:
    first = write_adapter(tmp_path / "1", {Q: random_factors(64, 256, 8, seed=1)})
    second = write_adapter(tmp_path / "2", {Q: random_factors(64, 256, 16, seed=2)})
    similarity = compare_adapters(first, second, 0, "q_proj")
    assert (similarity.r1, similarity.r2, similarity.dimension) == (8, 16, 256)
    assert similarity.phi[-1][-1] == pytest.approx(16 / 256, abs=0.04)
    assert similarity.control[-1][-1] == pytest.approx(16 / 256, abs=0.04)


def test_phi_equals_its_definition(tmp_path: Path, write_adapter: Callable, random_factors: Callable) -> None:
    factors = [random_factors(64, 32, 4, seed=seed) for seed in (1, 2)]
    folders = [write_adapter(tmp_path / str(i), {Q: pair}) for i, pair in enumerate(factors)]
    phi = compare_adapters(*folders, 0, "q_proj").phi
    first, second = (torch.linalg.svd(a.double(), full_matrices=False)[2].T for a, _ in factors)
    for i in range(1, 5):
        for j in range(1, 5):
            assert phi[i - 1][j - 1] == pytest.approx(float(((first[:, :i].T @ second[:, :j]) ** 2).sum()) / min(i, j), abs=1e-9)


def test_other_widths_and_zero_updates_are_sentences(tmp_path: Path, write_adapter: Callable, random_factors: Callable) -> None:
    narrow = write_adapter(tmp_path / "1", {Q: random_factors(8, 16, 2)})
    wide = write_adapter(tmp_path / "2", {Q: random_factors(8, 32, 2)})
    with pytest.raises(AnalysisError, match="16 inputs in one adapter and 32"):
        compare_adapters(narrow, wide, 0, "q_proj")
    a, b = random_factors(8, 16, 2)
    zero = write_adapter(tmp_path / "3", {Q: (a, b * 0)})
    with pytest.raises(AnalysisError, match="spans no directions"):
        compare_adapters(narrow, zero, 0, "q_proj", "update")
    with pytest.raises(AnalysisError, match="does not change v_proj"):
        compare_adapters(narrow, narrow, 0, "v_proj")


def _module(folder: Path, write_adapter: Callable, a: torch.Tensor, b: torch.Tensor) -> LoraModule:
    return open_adapter(write_adapter(folder, {Q: (a, b)}, lora_alpha=a.shape[0])).module(0, "q_proj")


def _planted(strengths: list[float], place: int) -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
    """A diagonal base weight 40, 39, ... and an update of `strengths` on its axes from `place` on."""
    base = np.diag(np.arange(40, 0, -1.0)).astype(np.float32)
    a, b = torch.zeros(len(strengths), 40), torch.zeros(40, len(strengths))
    for index, strength in enumerate(strengths):
        a[index, place + index] = 1
        b[place + index, index] = strength
    return a, b, base


def test_amplification_of_a_known_direction(tmp_path: Path, write_adapter: Callable) -> None:
    a, b, base = _planted([6.0, 6.0], place=37)
    table = amplification(_module(tmp_path, write_adapter, a, b), base)
    assert table.update_norm == pytest.approx(np.sqrt(72))
    assert table.projected_by_update == pytest.approx(np.sqrt(3**2 + 2**2))
    assert table.projected_by_weight == pytest.approx(np.sqrt(40**2 + 39**2))
    assert table.factor == pytest.approx(np.sqrt(72 / 13))
    assert table.projected_by_random < table.projected_by_weight


def test_no_update_amplifies_nothing(tmp_path: Path, write_adapter: Callable) -> None:
    a, b, base = _planted([0.0], place=0)
    assert amplification(_module(tmp_path, write_adapter, a, b), base).factor is None


def test_intruders_are_new_strong_directions(tmp_path: Path, write_adapter: Callable) -> None:
    a, b, base = _planted([5.0], place=0)
    report = intruder_dimensions(_module(tmp_path / "1", write_adapter, a, b), base)
    assert report.intruders == ()
    mixed = torch.ones(40, 1) / np.sqrt(40)
    report = intruder_dimensions(_module(tmp_path / "2", write_adapter, mixed.T, mixed * 500), base)
    assert [intruder.index for intruder in report.intruders] == [0]
    assert report.intruders[0].best_cosine < 0.5


@pytest.mark.parametrize("shape", [(24, 10), (10, 24)])
def test_intruders_equal_dense_svd(tmp_path: Path, write_adapter: Callable, random_factors: Callable, shape: tuple[int, int]) -> None:
    a, b = random_factors(*shape, 3)
    base = np.random.default_rng(0).standard_normal(shape)
    module = _module(tmp_path, write_adapter, a, b)
    before = np.linalg.svd(base, full_matrices=False)[0]
    after = np.linalg.svd(base + (b @ a).numpy(), full_matrices=False)[0]
    expected = np.abs(before.T @ after[:, :5]).max(axis=0)
    assert np.allclose(intruder_dimensions(module, base, top=5).best_cosines, expected, atol=1e-6)


def test_another_base_is_a_sentence(tmp_path: Path, write_adapter: Callable, random_factors: Callable) -> None:
    module = _module(tmp_path, write_adapter, *random_factors(8, 16, 2))
    with pytest.raises(AnalysisError, match="this base has"):
        amplification(module, np.ones((4, 4)))
    with pytest.raises(AnalysisError, match="is zero, so it has no directions"):
        intruder_dimensions(module, np.zeros((8, 16)))
