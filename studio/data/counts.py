"""What became of a dataset's rows: the same figures and words in the preview, a run's log and its facts."""

from __future__ import annotations

from typing import Any

from studio.data.format import Encoded
from studio.data.load import DataReport

KEPT = {"train": "to train on", "held_out": "held out"}
LEFT_OUT = {"empty": "empty", "duplicate": "duplicate", "broken": "broken", "too_long": "too long"}


def count_rows(report: DataReport, train: Encoded, held_out: Encoded) -> dict[str, Any]:
    """DataReport's counts with `train` and `held_out` as they are trained and evaluated on, and the examples too long or cut among them."""
    return {
        **report.to_json(), "train": len(train.rows), "held_out": len(held_out.rows),
        "too_long": train.dropped + held_out.dropped, "cut": train.cut + held_out.cut,
    }  # fmt: skip


def describe_counts(counts: dict[str, Any]) -> str:
    """'878 rows to train on, 80 held out; left out: 1 empty, 0 duplicate, 0 broken, 2 too long; 0 cut'."""
    kept = f"{counts['train']:,} rows {KEPT['train']}, {counts['held_out']:,} {KEPT['held_out']}"
    left_out = ", ".join(f"{counts[name]:,} {word}" for name, word in LEFT_OUT.items())
    return f"{kept}; left out: {left_out}; {counts['cut']:,} cut"
