"""Whatever JSON a run's files hold (another program's, a newer studio's, a torn disk's), its cockpit opens, and the others are listed."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from studio.__main__ import main
from studio.cli.output import ProgressLine
from studio.core.paths import RunPaths, StudioHome
from studio.core.records import RunStatus
from studio.jobs import store
from studio.ui import runs, runs_forms
from studio.ui.runs_widgets import Buttons
from studio.ui.studio import Studio

Make = Callable[..., RunPaths]

JUNK = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**400), 10**400) | st.integers(-5, 5) | st.floats() | st.text(max_size=4)
    | st.sampled_from(["\ud800", "\0", 10**400, 1e308, -1e308, 2**63, "finished", "training"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)  # fmt: skip
FIELDS = {
    "plan.json": ["memory_bytes", "trainable_parameters", "total_parameters", "share"],
    "environment.json": ["versions", "git", "data_fingerprint", "data_rows", "device", "compute_dtype"],
    "result.json": ["status", "steps", "eval_loss_before", "eval_loss_after", "seconds", "samples", "total_parameters", "peak_memory_bytes",
                    "trainable_parameters", "adapter_bytes", "error"],
    "progress.json": ["phase", "step", "total_steps", "batch", "batches", "seconds"],
    "notes.json": ["name", "tags", "text"],
    "process.json": ["pid", "started"],
    "queue.json": ["order"],
    "metrics.jsonl": ["step", "loss", "eval_loss", "learning_rate", "grad_norm", "tokens", "tokens_per_s", "memory_bytes", "seconds"],
    "samples.jsonl": ["step", "prompt", "answer"],
}  # fmt: skip


@st.composite
def damages(draw: st.DrawFn) -> tuple[str, str]:
    """A file's name, and what it is to hold: its own fields with any values, or no object at all."""
    name = draw(st.sampled_from(sorted(FIELDS)))
    known = st.dictionaries(st.sampled_from(FIELDS[name]), JUNK)
    whole = {"result.json": {"status": "finished"}, "metrics.jsonl": {"step": 3}}.get(name, {})
    lines = draw(st.lists(st.one_of(known.map(lambda found: {**whole, **found}), JUNK), min_size=1, max_size=4))
    return name, "".join(json.dumps(line) + "\n" for line in (lines if name.endswith("l") else lines[:1]))


@pytest.fixture
def studio(home: StudioHome) -> Studio:
    return Studio(home)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(damages(), st.booleans())
def test_any_json_in_any_file_of_a_run_is_read(studio: Studio, make_run: Make, damage: tuple[str, str], over: bool) -> None:
    name, text = damage
    sound, bad = (_anew(make_run, which, over or which == "sound") for which in ("sound", "bad"))
    (studio.home.root / name if name == "queue.json" else bad.folder / name).write_text(text)
    alone = runs.draw(studio, runs.Looked(bad.id))
    beside = runs.draw(studio, runs.Looked(bad.id, f"{bad.id},{sound.id}"))
    for drawn in (alone, beside):
        assert sound.id in drawn[2]["rows"] and bad.id in drawn[2]["rows"]
        json.dumps(drawn, default=str, ensure_ascii=False).encode()  # as the page is sent it
    runs_forms.fill(studio, bad.id)
    runs.choose_at_start(studio, "")
    ProgressLine(bad, io.StringIO()).show("running")
    for arguments in (["runs"], ["show", bad.id, "--json"]):
        with contextlib.redirect_stdout(io.StringIO()) as said:
            assert main(["--home", str(studio.home.root), *arguments]) == 0
        said.getvalue().encode()


def _anew(make_run: Make, name: str, over: bool) -> RunPaths:
    """The run as it was before the last example."""
    home = StudioHome.find()
    shutil.rmtree(home.runs / f"20260101-000000-{name}", ignore_errors=True)
    home.queue.unlink(missing_ok=True)
    return make_run(name, over=over)


def header(studio: Studio, run: RunPaths) -> str:
    return runs.draw(studio, runs.Looked(run.id))[5 + len(Buttons._fields)]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("plan.json", '{"memory_bytes": "much"}'), ("plan.json", "[1]"), ("environment.json", '{"versions": ["torch"]}'),
        ("environment.json", "{"), ("metrics.jsonl", '{"step": "one", "loss": 2}\n'), ("metrics.jsonl", "what\n"),
    ],
)  # fmt: skip
def test_a_file_that_no_run_writes_is_named_in_the_cockpit(studio: Studio, make_run: Make, name: str, text: str) -> None:
    run = make_run("a")
    assert "no run writes" not in header(studio, run)
    (run.folder / name).write_text(text)
    (run.folder / "notes.json").write_text("{}")  # changed, as far as the page can see
    assert f"{name} holds values that no run writes" in header(studio, run)
    assert store.read_status(run) is RunStatus.FINISHED


def test_counts_beyond_any_number_make_a_result_unreadable(home: StudioHome, make_run: Make) -> None:
    run = make_run("a")
    run.result.write_text(f'{{"status": "finished", "steps": {10**400}}}')
    assert [found.status for found in store.list_runs(home)] == [RunStatus.UNREADABLE]


def test_half_a_character_in_a_name_does_not_hide_the_list(studio: Studio, make_run: Make, tmp_path: Path) -> None:
    run, other = make_run("a"), make_run("b")
    run.notes.write_text('{"name": "x\\ud800y"}')
    drawn: list[Any] = runs.draw(studio, runs.Looked(other.id))
    assert "x?y" in drawn[2]["rows"] and other.id in drawn[2]["rows"]
