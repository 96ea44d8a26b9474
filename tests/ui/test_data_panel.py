"""The dataset under the eye: the offer to leave broken rows out, and counts in the log's own words."""

from __future__ import annotations

from studio.core.errors import BrokenRows, DataError
from studio.data.counts import describe_counts
from studio.ui.data_panel import offer, preview_html

COUNTS = {"rows": 40, "train": 20, "held_out": 4, "empty": 1, "duplicate": 2, "broken": 3, "too_long": 10, "cut": 0}


def test_rows_can_be_left_out_only_where_they_are_what_is_wrong():
    assert offer(None)["visible"] is offer(DataError("No.").to_json())["visible"] is False
    shown = offer(BrokenRows("3 of 40 rows are broken", count=3).to_json())
    assert (shown["visible"], shown["value"]) == (True, "Leave these 3 rows out")
    assert offer(BrokenRows("a row is broken").to_json())["value"] == "Leave this row out"


def test_the_preview_and_the_log_tell_the_same_counts():
    assert describe_counts(COUNTS) == "20 rows to train on, 4 held out; left out: 1 empty, 2 duplicate, 3 broken, 10 too long; 0 cut"
    html = preview_html({"counts": COUNTS})
    for label, value in (("to train on", 20), ("held out", 4), ("empty", 1), ("duplicate", 2), ("broken", 3), ("too long", 10)):
        assert f"<span>{label}</span><b>{value}</b>" in html
