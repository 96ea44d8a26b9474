"""How far a tuned model lies from its base, against changes planted in its files; and the command line's twin of the page."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from studio.__main__ import main
from studio.analysis.deltas import module_changes
from studio.core.errors import AnalysisError
from studio.core.paths import StudioHome
from studio.jobs.worker import Worker

Q = "model.layers.1.self_attn.q_proj"


@pytest.fixture
def tuned(tiny_llama: Path, tmp_path: Path) -> Callable[..., Path]:
    """tuned(change) -> a copy of the tiny Llama whose q_proj of layer 1 had `change` (64, 64) added, in fp32."""

    def make(change: torch.Tensor, name: str = f"{Q}.weight") -> Path:
        folder = shutil.copytree(tiny_llama, tmp_path / "tuned")
        tensors = {key: tensor.float() for key, tensor in load_file(tiny_llama / "model.safetensors").items()}
        tensors[name] = tensors.pop(f"{Q}.weight") + change
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return folder

    return make


@pytest.fixture
def planted() -> torch.Tensor:
    """A change of rank 2 with singular values 0.3 and 0.4, small beside the weights."""
    left, right = (torch.linalg.qr(torch.randn(64, 2, generator=torch.Generator().manual_seed(seed)))[0] for seed in (1, 2))
    return left @ torch.diag(torch.tensor([0.3, 0.4])) @ right.T


def test_only_the_module_that_was_changed_is_far(tiny_llama, tuned, planted):
    heard = []
    changes = module_changes(tiny_llama, tuned(planted), lambda done, every: heard.append((done, every)))
    far = [change for change in changes if change.frobenius > 0]
    assert [change.name for change in far] == [Q]
    assert far[0].frobenius == pytest.approx(0.5, rel=1e-5)
    weight = load_file(tiny_llama / "model.safetensors")[f"{Q}.weight"].float()
    assert far[0].relative_norm == pytest.approx(0.5 / float(torch.linalg.norm(weight)), rel=1e-5)
    assert heard == [(done, 14) for done in range(1, 15)]


def test_models_that_do_not_match_and_nan_are_said(tiny_llama, tuned, planted):
    with pytest.raises(AnalysisError, match=f"Only one of these models has {Q}"):
        module_changes(tiny_llama, tuned(planted, name="model.layers.1.self_attn.query.weight"))


def test_nan_is_said(tiny_llama, tuned):
    with pytest.raises(AnalysisError, match="NaN or infinity"):
        module_changes(tiny_llama, tuned(torch.full((64, 64), float("nan"))))


def test_the_command_line_finds_what_was_planted(tiny_llama, tuned, planted, studio_home, capsys):
    folder = str(tuned(planted))
    assert main(["spectrum", folder, "--base", str(tiny_llama), "--json"]) == 0
    overview = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert max(overview["modules"], key=lambda module: module["frobenius"])["name"] == Q
    assert main(["spectrum", folder, "--base", str(tiny_llama), "--layer", "1", "--module", "q_proj", "--json"]) == 0
    spectrum = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert spectrum["singular_values"][:2] == pytest.approx([0.4, 0.3], rel=1e-5)
    assert spectrum["singular_values"][2] < 1e-5


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ([], "Name that with --base"),
        (["--base", "BASE", "--other", "x"], "whole model"),
        (["--base", "BASE", "--module", "q_proj"], "layer"),
    ],
)
def test_the_command_line_says_what_is_missing(more, told, tiny_llama, studio_home, capsys):
    assert main(["spectrum", str(tiny_llama), *[str(tiny_llama) if word == "BASE" else word for word in more]]) == 1
    assert told in capsys.readouterr().err


def test_the_worker_counts_its_way_and_keeps_the_spectrum(tiny_llama, tuned, planted, studio_home):
    worker = Worker("studio.analysis", studio_home / "analysis.log", arguments=["--home", str(StudioHome.find(studio_home).root)])
    pair = {"base": str(tiny_llama), "tuned": str(tuned(planted))}
    try:
        events = list(worker.stream("deltas", **pair))
        assert [event.data for event in events[:-1]] == [[done, 14] for done in range(1, 15)]
        assert len(events[-1].data["modules"]) == 14
        assert [event.name for event in worker.stream("deltas", **pair)] == ["done"]
        assert worker.call("delta", **pair, layer=1, module=Q)["ranks"]["energy_rank"] == 2
    finally:
        worker.close()
