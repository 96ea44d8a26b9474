"""The Runs tab without a browser: what is listed, drawn, skipped and compared, for which folders."""

from __future__ import annotations

import json
import os
from collections.abc import Callable

import gradio as gr
import psutil
import pytest

from studio.core.errors import RunError
from studio.core.files import write_json
from studio.core.paths import RunPaths, StudioHome
from studio.core.records import Progress, StepRecord
from studio.jobs import notes, store
from studio.jobs.metrics import metric_table
from studio.ui import cockpit, runs, runs_actions, runs_compare, runs_forms, runs_list
from studio.ui.runs_widgets import Buttons, Cockpit, Comparison
from studio.ui.studio import Studio

Make = Callable[..., RunPaths]
SKIP = gr.skip()


@pytest.fixture
def studio(home: StudioHome) -> Studio:
    return Studio(home)


def looked(run: str = "", **more: object) -> runs.Looked:
    return runs.Looked(run, **more)  # type: ignore[arg-type]


def again(values: list, at: runs.Looked) -> runs.Looked:
    """The same page, once it has drawn these values."""
    return at._replace(seen=values[0], seen_list=values[1])


def is_drawn(value: object) -> bool:
    return value != SKIP


def test_runs_are_found_by_every_word_in_any_place(home: StudioHome, make_run: Make) -> None:
    make_run("alpha", tags=("baseline",))
    make_run("beta", spec={"method": {"family": "prefix"}})
    make_run("waits", over=False)
    listed = store.list_runs(home)

    def found(query: str) -> set[str]:
        return {run.name for run in runs_list.find_runs(listed, query)}

    assert found("") == {"alpha", "beta", "waits"}
    assert found("BASELINE") == found("lora alp") == {"alpha"}
    assert found("prefix finished") == {"beta"}
    assert found("waiting") == {"waits"}
    assert found("alpha beta") == set()


def test_names_are_text_in_the_list_and_in_the_comparison(home: StudioHome, make_run: Make) -> None:
    run = make_run("x", spec={"name": "<img src=x onerror=alert(1)>"}, tags=("<b>",))
    html = runs_list.list_html(store.list_runs(home), run.id)
    records = [store.read_run(home, run.id)] * 2
    html += runs_compare.comparison_html(records) + runs_compare.differences_html(records)
    assert "<img" not in html and "<b><" not in html
    assert "&lt;img" in html


def test_a_long_history_is_shown_a_page_at_a_time(home: StudioHome, make_run: Make) -> None:
    for number in range(runs_list.PAGE + 5):
        make_run(f"run-{number:03d}")
    listed = store.list_runs(home)
    first = runs_list.list_html(listed, "")
    assert first.count('class="run-line') == runs_list.PAGE
    assert "Show more (5 older)" in first
    assert runs_list.list_html(listed, "", shown=100).count('class="run-line') == runs_list.PAGE + 5


def test_ticking_again_unticks_and_a_ninth_takes_the_place_of_the_first() -> None:
    text = ""
    for name in "abcdefgh":
        text = runs_list.toggle(text, name)
    assert runs_list.toggle(text, "b") == "a,c,d,e,f,g,h"
    assert runs_list.toggle(text, "i") == "b,c,d,e,f,g,h,i"


def test_nothing_is_drawn_again_while_nothing_moves(studio: Studio, make_run: Make) -> None:
    run = make_run("one")
    page = looked(run.id)
    first = runs.draw(studio, page)
    assert len(first) == 5 + len(Buttons._fields) + Cockpit.DRAWN + Comparison.DRAWN
    second = runs.draw(studio, again(first, page))
    assert [value for value in second[2:] if is_drawn(value)] == []
    with run.metrics.open("a") as file:
        file.write(json.dumps({"step": 11, "loss": 0.5}) + "\n")
    third = runs.draw(studio, again(second, page))
    assert is_drawn(third[5 + len(Buttons._fields)])


def test_a_run_deleted_by_another_page_leaves_an_empty_cockpit(studio: Studio, make_run: Make) -> None:
    run = make_run("one")
    page = looked(run.id)
    first = runs.draw(studio, page)
    notes.delete_run(studio.home, run.id)
    assert "No runs yet" in str(runs.draw(studio, again(first, page))[5 + len(Buttons._fields)])


def test_settings_of_a_newer_studio_are_told_in_place(studio: Studio, make_run: Make) -> None:
    run = make_run("one")
    run.spec.write_text('{"from": "the future"}')
    drawn = runs.draw(studio, looked(run.id))
    assert "do not fit this version" in str(drawn[5 + len(Buttons._fields)])


def test_two_ticked_runs_are_compared_and_one_is_not(studio: Studio, make_run: Make) -> None:
    ids = [make_run(name, loss).id for name, loss in (("a", 1.0), ("b", 1.2))]
    one = runs.draw(studio, looked(ids[0], compared=ids[0]))
    assert (one[3]["visible"], one[4]["visible"]) == (True, False)
    both = runs.draw(studio, looked(ids[0], compared=",".join(ids)))
    assert (both[3]["visible"], both[4]["visible"]) == (False, True)
    assert "2 runs compared" in both[-4]
    assert [trace["name"] for trace in json.loads(both[-3])["data"]] == ["a", "a", "b", "b"]
    gone = runs.draw(studio, looked(ids[0], compared=f"{ids[0]},20260101-000000-gone"))
    assert gone[3]["visible"] is True


def test_only_what_differs_is_in_the_table(home: StudioHome, make_run: Make) -> None:
    first = make_run("a", spec={"method": {"family": "lora", "rank": 4}, "training": {"learning_rate": 1e-4}})
    second = make_run("b", spec={"method": {"family": "adapter"}, "training": {"seed": 7}})
    found = dict(runs_compare.differences([store.read_run(home, run.id) for run in (first, second)]))
    assert found["method.family"] == ["lora", "adapter"]
    assert found["method.rank"] == ["4", "–"]
    assert found["training.learning_rate"] == ["0.0001", "default"]
    assert found["training.seed"] == ["42", "7"]
    assert "training.epochs" not in found and "data.source" not in found and "name" not in found


@pytest.mark.parametrize(
    ("other", "warned"),
    [({}, 0), ({"fingerprint": "another"}, 1), ({"spec": {"training": {"loss_on": "all"}}}, 1), ({"spec": {"training": {"seed": 1}}}, 0)],
)
def test_losses_on_different_data_are_warned_of(home: StudioHome, make_run: Make, other: dict, warned: int) -> None:
    records = [store.read_run(home, run.id) for run in (make_run("a"), make_run("b", **other))]
    assert len(runs_compare.data_warnings(records)) == warned
    assert ("fingerprints differ" in runs_compare.comparison_html(records)) is ("fingerprint" in other)


def test_costs_come_from_the_result(home: StudioHome, make_run: Make) -> None:
    (cost,) = runs_compare.run_costs([store.read_run(home, make_run("a", 1.25).id)])
    assert cost == ("a", 1.25, 1000, 10**9, 10.0)


def test_waiting_runs_can_be_put_forward(studio: Studio, make_run: Make) -> None:
    ids = [make_run(name, over=False).id for name in "abc"]
    drawn = runs.draw(studio, looked(ids[2]))
    visible = dict(zip(Buttons._fields, drawn[5:], strict=False))
    assert (visible["earlier"]["visible"], visible["later"]["visible"], visible["delete"]["visible"]) == (True, False, False)
    assert "Number 3 of 3" in drawn[5 + len(Buttons._fields)]
    runs_actions.move_run(studio, ids[2], -1)
    assert "Number 2 of 3" in runs.draw(studio, looked(ids[2]))[5 + len(Buttons._fields)]


def test_the_plan_stands_beside_the_measured_memory(studio: Studio, make_run: Make) -> None:
    header = runs.draw(studio, looked(make_run("a").id))[5 + len(Buttons._fields)]
    assert "1 GB" in header and "900 MB planned (+11 %)" in header


def under_way(paths: RunPaths, stopping: bool) -> str:
    """The header of a run whose process is this one, ten seconds into training."""
    paths.process.write_text(json.dumps({"pid": os.getpid(), "started": psutil.Process().create_time()}))
    paths.progress.write_text('{"phase": "training", "step": 2, "total_steps": 6}')
    lines = [{"step": s, "loss": 2.0, "memory_bytes": 10**8, "seconds": 5.0 * s} for s in (1, 2)]
    paths.metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
    if stopping:
        paths.stop.touch()
    record = store.read_run(StudioHome(paths.folder.parents[1]), paths.id)
    return cockpit.header_html(record, metric_table(paths).records())


def test_the_plan_is_compared_only_when_the_run_has_ended(make_run: Make) -> None:
    header = under_way(make_run("a", over=False), stopping=False)
    assert "900 MB planned" in header and "planned (" not in header and "20 s left" in header


def test_an_evaluation_before_the_first_step_shows_that_it_moves(make_run: Make, home: StudioHome) -> None:
    run = make_run("a", over=False)
    write_json(run.process, {"pid": os.getpid(), "started": psutil.Process().create_time()})
    write_json(run.progress, vars(Progress("evaluating", 0, 100, 12, 20)))
    assert "Evaluating 12 of 20 batches · step 0 of 100" in cockpit.header_html(store.read_run(home, run.id), [])


def test_a_run_that_saves_has_no_time_left(make_run: Make) -> None:
    header = under_way(make_run("a", over=False), stopping=True)
    assert "Finishing this step, then saving · step 2 of 6" in header and "left" not in header


def test_the_losses_of_a_run_that_has_ended_are_those_of_its_result(studio: Studio, make_run: Make) -> None:
    run = make_run("a")
    run.metrics.write_text('{"step": 0, "eval_loss": 2.0}\n')
    header = runs.draw(studio, looked(run.id))[5 + len(Buttons._fields)]
    assert "<b>1.000</b><small>-50.0 % from 2.000" in header


def test_a_run_without_an_evaluation_after_training_claims_no_change(studio: Studio, make_run: Make) -> None:
    """In its header, in the list and in the comparison."""
    run = make_run("a")
    data = json.loads(run.result.read_text()) | {"status": "stopped", "eval_loss_after": None}
    write_json(run.result, data)
    run.metrics.write_text("".join(run.metrics.read_text().splitlines(keepends=True)[:-1]))
    header = runs.draw(studio, looked(run.id))[5 + len(Buttons._fields)]
    assert "<b>2.000</b><small>before training" in header and "% from" not in header
    assert "2.000" not in runs_list.list_html(store.list_runs(studio.home), run.id)
    records = [store.read_run(studio.home, run.id)] * 2
    assert "2.000" not in runs_compare.results_html(records)
    assert [cost[1] for cost in runs_compare.run_costs(records)] == [None, None]


@pytest.mark.parametrize(
    ("over", "shown"),
    [(True, "<b>100</b><small>median tokens per second"), (False, "<b>7</b><small>tokens per second")],
)
def test_a_run_that_is_over_shows_its_usual_speed(make_run: Make, home: StudioHome, over: bool, shown: str) -> None:
    """Not that of its last step, which may have stood still while the machine did something else."""
    run = make_run("a", over=over)
    records = [StepRecord(step, loss=1.0, tokens_per_s=speed) for step, speed in enumerate((20.0, 100.0, 110.0, 120.0, 7.0), 1)]
    assert shown in cockpit.header_html(store.read_run(home, run.id), records)


def test_a_run_that_goes_on_is_starting_until_its_process_says_more(make_run: Make, home: StudioHome) -> None:
    run = make_run("a", over=False)
    write_json(run.progress, vars(Progress("stopped", 4, 12)))
    os.utime(run.progress, (1_700_000_000, 1_700_000_000))
    write_json(run.process, {"pid": os.getpid(), "started": psutil.Process().create_time()})
    header = cockpit.header_html(store.read_run(home, run.id), [StepRecord(step, loss=1.0, seconds=9.0 * step) for step in (1, 2, 3, 4)])
    assert "<p>Starting</p>" in header and "Stopped" not in header and "left" not in header


def test_notes_are_kept_and_forms_filled_from_them(studio: Studio, make_run: Make) -> None:
    run = make_run("a")
    runs_forms.save_notes(studio, run.id, " better name ", "x, y,, x", "text")
    record = store.read_run(studio.home, run.id)
    assert (record.name, record.notes.tags) == ("better name", ["x", "y"])
    filled = runs_forms.fill(studio, run.id)
    assert filled[4:7] == ["better name", "x, y", "text"]
    assert filled[0]["visible"] is False  # no checkpoint to go on from
    with pytest.raises(RunError, match="at most 100"):
        runs_forms.save_notes(studio, run.id, "n" * 300, "", "")


def test_a_run_that_ends_while_it_is_watched_can_go_on_and_be_exported(studio: Studio, make_run: Make) -> None:
    """The timer's drawing opens both forms and names the checkpoints, without touching what is chosen or typed in them."""
    run = make_run("a", over=False)
    first = len(Buttons._fields) + 5 + 7
    waiting = runs.draw(studio, looked(run.id))
    assert (waiting[first]["visible"], waiting[first + 2]["visible"]) == (False, False)
    for file in ("checkpoints/step-000005/state.json", "adapter/adapter_config.json"):
        (run.folder / file).parent.mkdir(parents=True)
        (run.folder / file).write_text("{}")
    run.result.write_text('{"status": "finished"}')
    resume, checkpoint, export = runs.draw(studio, again(waiting, looked(run.id)))[first : first + 3]
    assert (resume["visible"], export["visible"]) == (True, True)
    assert checkpoint["choices"] == [runs_forms.LAST, "step-000005"] and "value" not in checkpoint


def test_a_total_within_the_checkpoint_is_refused(studio: Studio, make_run: Make) -> None:
    run = make_run("a")
    for step in (5, 10):
        (run.checkpoints / f"step-{step:06d}").mkdir(parents=True)
        (run.checkpoints / f"step-{step:06d}" / "state.json").write_text("{}")
    assert runs_forms.fill(studio, run.id)[1]["choices"] == [runs_forms.LAST, "step-000010", "step-000005"]
    with pytest.raises(RunError, match="not beyond"):
        runs_forms.go_on(studio, run.id, runs_forms.LAST, 10)
    assert run.result.exists()


@pytest.mark.parametrize(("over", "offered"), [(True, {"delete"}), (False, {"cancel"})])
def test_a_run_whose_settings_cannot_be_read_can_be_taken_away(studio: Studio, make_run: Make, over: bool, offered: set[str]) -> None:
    paths = make_run("torn", over=over)
    paths.spec.write_text('{"name": ')
    buttons = runs.draw(studio, looked(paths.id))[5 : 5 + len(Buttons._fields)]
    shown = {name for name, value in zip(Buttons._fields, buttons, strict=True) if value.get("visible")}
    assert shown == offered


def test_a_run_with_a_senseless_result_is_shown_as_unreadable(studio: Studio, make_run: Make) -> None:
    good, bad = make_run("good"), make_run("bad")
    bad.result.write_text('{"status": "finished", "steps": "many", "eval_loss_after": [1]}')
    drawn = runs.draw(studio, looked(bad.id))
    assert "unreadable" in drawn[2]["rows"] and good.id in drawn[2]["rows"]
    assert "result.json" in drawn[5 + len(Buttons._fields)]
