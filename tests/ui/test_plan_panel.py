"""The plan where the number of rows is not known: no time is made up, and none is shown as nothing."""

from __future__ import annotations

from studio.core.catalog import load_preset
from studio.core.paths import StudioHome
from studio.ui import train
from studio.ui.studio import Studio


def test_unread_data_have_no_time(home: StudioHome) -> None:
    studio = Studio(home)
    data = load_preset("quickstart")
    plan, verdict = train.show_plan(studio, {**data, "data": {"source": "rows.jsonl"}})
    assert "known once the data are read" in plan and "known once the data are read" in verdict
    assert "0 s" not in plan and "0 steps" not in plan and "0 rows" not in plan
    plan, verdict = train.show_plan(studio, {**data, "data": {"source": "rows.jsonl", "max_rows": 80}})
    assert "10 steps" in plan and "about" in verdict


def test_problems_take_the_place_of_both(home: StudioHome) -> None:
    plan, verdict = train.show_plan(Studio(home), {"training": {"epochs": "<b>", "batch_size": 0}})
    assert "training.epochs" in plan and "training.batch_size" in plan and "and 1 more" in verdict and "<b>'" not in verdict
