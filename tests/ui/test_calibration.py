"""The line under QLoRA: progress, the losses, the new base, and no bar left standing where it fails."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from studio.core.errors import ModelError, RunError
from studio.core.paths import StudioHome
from studio.core.records import RunStatus
from studio.jobs import store
from studio.ui import calibration, rank_sweep, runs_actions, runs_forms
from studio.ui.play_ask import refuse_while_training
from studio.ui.studio import Studio


def test_the_model_made_is_a_choice_and_a_second_one_is_refused(tiny_llama: Path, home: StudioHome, tmp_path: Path) -> None:
    rows = [{"prompt": f"What is {i}?", "completion": f"return {i * i}"} for i in range(20)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    data = {"model": {"id": str(tiny_llama)}, "data": {"source": str(tmp_path / "rows.jsonl")}}
    studio = Studio(home)
    shown = list(calibration.calibrated(studio, data))
    assert any("layer 2 of 2" in told for told, _ in shown)
    assert [path for _, path in shown if path] == [str(home.models / "tiny-llama-calibrated")]
    assert "on 2 rows" in shown[-1][0]
    assert ("tiny-llama-calibrated (on disk)", shown[-1][1]) in studio.model_choices()
    told = []
    with pytest.raises(ModelError, match="exists already"):
        for text, _ in calibration.calibrated(studio, data):
            told.append(text)
    assert told[-1] == calibration.OFFER


def test_it_waits_for_a_run_that_needs_the_memory(home: StudioHome, make_run: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    make_run("busy", over=False)
    monkeypatch.setattr(store, "read_status", lambda _: RunStatus.RUNNING)
    with pytest.raises(RunError, match="needs the memory"):
        next(calibration.calibrated(Studio(home), {}))


@pytest.mark.parametrize(
    "start",
    [
        lambda studio: next(calibration.calibrated(studio, {})), lambda studio: runs_forms.go_on(studio, "any", runs_forms.LAST, None),
        lambda studio: runs_actions.compare_methods(studio, "any"), lambda studio: rank_sweep.queue_sweep(studio, "any"),
        refuse_while_training,
    ],
)  # fmt: skip
def test_what_needs_the_memory_waits_for_it(home: StudioHome, start: Callable[[Studio], object]) -> None:
    studio = Studio(home)
    studio.calibrating = True
    with pytest.raises(RunError, match="rounded with calibration"):
        start(studio)


def test_the_losses_are_told_against_the_base_that_is_not_quantized() -> None:
    done = {"held_out": {"rows": 32, "loss": {"unquantized": 2.0, "nf4": 2.3, "calibrated": 2.05}}}
    shown = calibration.done_html(done)
    for text in ("2.0000", "2.3000", "+15.0 %", "+2.5 %", "on 32 rows"):
        assert text in shown


def test_a_folder_that_is_still_being_written_is_no_choice(home: StudioHome) -> None:
    part = home.models / ".tiny-calibrated.x.part"
    part.mkdir(parents=True)
    (part / "config.json").write_text("{}")
    assert not any("part" in title for title, _ in Studio(home).model_choices())
