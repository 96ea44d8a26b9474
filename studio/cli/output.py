"""What the command line prints: tables and JSON on standard output, progress on standard error."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any, TextIO

from studio.core.paths import RunPaths
from studio.core.records import Progress
from studio.core.units import show_duration
from studio.jobs.metrics import metric_table
from studio.jobs.store import read_progress

BAR_WIDTH = 24


def say(text: str) -> None:
    """A line for the person, which is not part of the result."""
    print(text, file=sys.stderr, flush=True)


def print_json(data: Any) -> None:
    """The result as one line on standard output."""
    print(json.dumps(data, ensure_ascii=False), flush=True)


def print_table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Columns as wide as their widest cell, two blanks between."""
    print("\n".join(table_lines(headers, rows)))


def table_lines(headers: Sequence[str], rows: Iterable[Sequence[str]], right: Iterable[int] = ()) -> list[str]:
    """The same as lines. `right` are the columns that end flush, as numbers do."""
    lines = [list(headers), *[list(row) for row in rows]]
    widths = [max(len(line[i]) for line in lines) for i in range(len(headers))]
    flush = [str.rjust if i in set(right) else str.ljust for i in range(len(headers))]
    return ["  ".join(put(cell, width) for put, cell, width in zip(flush, line, widths, strict=True)).rstrip() for line in lines]


def show_loss(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


class ProgressLine:
    """A run's progress: one line that redraws itself on a terminal; elsewhere a line per phase and per tenth of the way.

    A quarter of a long evaluation is a line as well.
    """

    def __init__(self, paths: RunPaths, out: TextIO | None = None) -> None:
        self.paths = paths
        self.out = out or sys.stderr
        self._last: tuple[str, int, int] = ("", -1, -1)
        self._drawn = 0

    def show(self, status: str) -> None:
        progress = read_progress(self.paths)
        phase, share, text = self.describe(status, progress)
        now = (phase, int(share * 10), 4 * progress.batch // max(1, progress.batches))
        if self.out.isatty():
            self.out.write("\r" + text.ljust(self._drawn))
            self._drawn = len(text)
        elif now != self._last:
            self.out.write(text + "\n")
        self._last = now
        self.out.flush()

    def close(self) -> None:
        if self._drawn:
            self.out.write("\n")
            self.out.flush()

    def describe(self, status: str, progress: Progress) -> tuple[str, float, str]:
        """Phase, share done, and both in words with loss, pace and time left."""
        table = metric_table(self.paths)
        share = min(1.0, progress.step / progress.total_steps) if progress.total_steps else 0.0
        works = status in ("running", "stopping") and progress.phase
        phase, words = (progress.phase, progress.sentence) if works else (status, status)
        if not progress.total_steps:
            return phase, share, words
        filled = round(share * BAR_WIDTH)
        parts = [f"[{'█' * filled}{'·' * (BAR_WIDTH - filled)}] {progress.step}/{progress.total_steps}", words]
        for name, label in (("loss", "loss"), ("eval_loss", "eval loss")):
            _, values = table.series(name)
            if values:
                parts.append(f"{label} {values[-1]:.3f}")
        _, pace = table.series("tokens_per_s")
        if pace:
            parts.append(f"{pace[-1]:.0f} tokens/s")
        _, seconds = table.series("seconds")
        if seconds and 0 < progress.step < progress.total_steps:
            parts.append(f"{show_duration(seconds[-1] / progress.step * (progress.total_steps - progress.step))} left")
        return phase, share, "  ".join(parts)
