"""The Rank tab follows a run: what was drawn is drawn anew once it was saved again, and a run under way is told so far."""

from __future__ import annotations

import os

import pytest

from studio.core.files import write_json
from studio.core.records import RunStatus
from studio.jobs import store
from studio.ui import adapter_choice, rank, rank_view
from studio.ui.studio import Studio


@pytest.fixture
def studio(home):
    made = Studio(home)
    yield made
    made.close()


def save(folder, time_s=1000):
    folder.mkdir(parents=True)
    write_json(folder / "adapter_config.json", {"peft_type": "LORA"})
    (folder / "adapter_model.safetensors").write_bytes(b"")
    os.utime(folder / "adapter_model.safetensors", (time_s, time_s))


def test_a_runs_state_changes_with_each_save_and_at_its_end(studio, make_run, monkeypatch):
    paths = make_run("live", over=False)
    monkeypatch.setattr(store, "read_status", lambda _: RunStatus.RUNNING)
    save(paths.snapshots / "step-000000")
    states = [adapter_choice.state_of(studio, paths.id)]
    assert adapter_choice.state_of(studio, paths.id) == states[0]
    save(paths.snapshots / "step-000010")
    states.append(adapter_choice.state_of(studio, paths.id))
    save(paths.adapter)
    states.append(adapter_choice.state_of(studio, paths.id))
    monkeypatch.setattr(store, "read_status", lambda _: RunStatus.FINISHED)
    states.append(adapter_choice.state_of(studio, paths.id))
    assert len(set(states)) == 4


def test_a_typed_folders_state_changes_with_its_file(studio, tmp_path):
    save(tmp_path / "own")
    before = adapter_choice.state_of(studio, str(tmp_path / "own"))
    os.utime(tmp_path / "own" / "adapter_model.safetensors", (2000, 2000))
    assert adapter_choice.state_of(studio, str(tmp_path / "own")) != before


def summary(training, changed, step=0):
    ranks = {"effective_rank": 1.0, "frobenius": float(changed)}
    module = {"ranks": ranks, "rank_above_noise": 0, "scaling": 2.0}
    advice = {"hypothesis": "This adapter changes nothing.", "evidence": "All are zero.", "numbers": {} if changed else {"changed": 0.0}}
    return rank_view.summary_html({"modules": [module], "r": 4, "alpha": 8, "rslora": False, "dora": False, "step": step, "title": "It",
                                   "advice": [advice], "base_model": "b", "training": training})  # fmt: skip


def test_a_run_under_way_is_told_so_far():
    assert "What It learned so far, at step 0" in summary(True, False)
    assert "changes nothing" not in summary(True, False)
    assert "Hypothesis, so far:" in summary(True, True, 10)
    assert "so far" not in summary(False, False)
    assert "changes nothing" in summary(False, False)


def test_every_answer_fills_every_output(studio):
    assert len(rank.opened(studio, "", "effective_rank")) == len(rank.blank("")) + 3
