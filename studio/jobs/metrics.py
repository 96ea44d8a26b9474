"""A run's metrics for plots: read once, kept as columns, grown by what is appended, thinned out to what a screen can show.

metrics.jsonl is only appended to. A resumed run writes steps anew that it had already done; the later line wins here, so a curve
never doubles back. A file that was replaced or shortened is read from its beginning.
"""

from __future__ import annotations

import math
import threading
from array import array
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson

from studio.core.files import read_lines
from studio.core.paths import RunPaths
from studio.core.records import StepRecord, is_number, losses_around

COLUMNS = ("step", "epoch", "loss", "eval_loss", "learning_rate", "grad_norm", "tokens", "tokens_per_s", "memory_bytes", "seconds")
WHOLE = {"step", "tokens", "memory_bytes"}
ALWAYS = {"step", "epoch", "tokens", "seconds"}
SPARK_POINTS = 32
TABLES_KEPT = 8
PIECE = 1_000


def read_metrics(paths: RunPaths, offset: int = 0) -> tuple[list[StepRecord], int]:
    """Records from byte `offset` on, and the offset to go on from. A torn last line is left for the next call."""
    lines, end = read_lines(paths.metrics, offset)
    return [StepRecord.from_json(line) for line in lines if _is_step(line)], end


class MetricTable:
    """One run's metrics as columns of doubles (NaN where a line has no such value). Safe to share between threads."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._clear()

    def _clear(self) -> None:
        self._columns = {name: array("d") for name in COLUMNS}
        self._offset = 0
        self._file = 0
        self.unread = 0
        """Lines that no run writes, which were passed over."""

    def __len__(self) -> int:
        return len(self._columns["step"])

    def update(self) -> bool:
        """Take in what was appended since the last call; True when there was something."""
        with self._lock:
            try:
                state = self.path.stat()
            except OSError:
                return False
            if state.st_ino != self._file or state.st_size < self._offset:
                self._clear()
                self._file = state.st_ino
            if state.st_size == self._offset:
                return False
            lines, self._offset = _read_block(self.path, self._offset)
            # In pieces: a hundred thousand records at once are slow to allocate, and are only needed for a moment.
            for start in range(0, len(lines), PIECE):
                steps = [line for line in _parse(lines[start : start + PIECE]) if _is_step(line)]
                self.unread += len([line for line in lines[start : start + PIECE] if line.strip()]) - len(steps)
                self._extend(steps)
            return bool(lines)

    def _extend(self, lines: list[dict[str, Any]]) -> None:
        """Whole columns at once where the steps only go forward, which is all but always; else line by line."""
        marks = [(line["step"], "eval_loss" in line) for line in lines]
        steps = self._columns["step"]
        forward = marks == sorted(marks) and len(set(marks)) == len(marks) and (not steps or not marks or marks[0][0] > steps[-1])
        if not forward:
            for line in lines:
                self._append(line)
            return
        for name, column in self._columns.items():
            values = [line.get(name) for line in lines]
            column.extend([value if isinstance(value, (int, float)) else math.nan for value in values])

    def _append(self, line: dict[str, Any]) -> None:
        steps = self._columns["step"]
        if steps and line["step"] <= steps[-1]:
            self._go_back_to(line["step"], "eval_loss" in line)
        for name, column in self._columns.items():
            value = line.get(name)
            column.append(value if isinstance(value, (int, float)) else math.nan)

    def _go_back_to(self, step: int, is_eval: bool) -> None:
        """Drop the rows that the line to come takes the place of: later steps, and this step's row of the same kind."""
        steps, evals = self._columns["step"], self._columns["eval_loss"]
        keep = len(steps)
        while keep and (steps[keep - 1] > step or (steps[keep - 1] == step and (evals[keep - 1] == evals[keep - 1]) == is_eval)):
            keep -= 1
        for column in self._columns.values():
            del column[keep:]

    def records(self, max_points: int = 0) -> list[StepRecord]:
        """The rows as records, thinned to about `max_points` where that is above 0. See downsample for what is kept."""
        with self._lock:
            kept = _thin(self._columns["loss"], self._columns["eval_loss"], max_points) if max_points else range(len(self))
            return [self._record(row) for row in kept]

    def series(self, name: str) -> tuple[list[int], list[float]]:
        """Steps and values of one column, where it has a value."""
        with self._lock:
            pairs = [(int(s), v) for s, v in zip(self._columns["step"], self._columns[name], strict=True) if v == v]
        return [step for step, _ in pairs], [value for _, value in pairs]

    def _record(self, row: int) -> StepRecord:
        values: dict[str, Any] = {}
        for name, column in self._columns.items():
            value = column[row]
            if value == value:
                values[name] = int(value) if name in WHOLE else value
            elif name in ALWAYS:
                values[name] = 0
        return StepRecord(**values)


_tables: OrderedDict[Path, MetricTable] = OrderedDict()
_tables_lock = threading.Lock()


def metric_table(paths: RunPaths) -> MetricTable:
    """The run's table, brought up to date. The tables of the runs looked at last stay in memory."""
    with _tables_lock:
        table = _tables.pop(paths.metrics, None) or MetricTable(paths.metrics)
        _tables[paths.metrics] = table
        while len(_tables) > TABLES_KEPT:
            _tables.popitem(last=False)
    table.update()
    return table


def downsample(records: Sequence[StepRecord], max_points: int) -> list[StepRecord]:
    """At most `max_points` records (at least 4): the first, the last, and the lowest and highest loss of each stretch between.

    Evaluations are few and are all kept while they fit into half of the points; where there are more they are thinned alike.
    """
    losses = array("d", (math.nan if record.loss is None else record.loss for record in records))
    evals = array("d", (math.nan if record.eval_loss is None else record.eval_loss for record in records))
    return [records[row] for row in _thin(losses, evals, max_points)]


def _thin(losses: Sequence[float], evals: Sequence[float], max_points: int) -> Sequence[int]:
    """Row numbers to keep, in order."""
    if len(losses) <= max_points:
        return range(len(losses))
    max_points = max(4, max_points)
    evaluated = [row for row, value in enumerate(evals) if value == value]
    if evaluated:
        evaluated = _extremes(evaluated, evals, max_points // 2)
    taken = set(evaluated)
    trained = [row for row in range(len(losses)) if row not in taken and evals[row] != evals[row]]
    return sorted(taken | set(_extremes(trained, losses, max_points - len(evaluated))))


def _extremes(rows: list[int], values: Sequence[float], max_points: int) -> list[int]:
    """First, last, and of each of (max_points - 2) / 2 stretches the rows with the lowest and the highest value."""
    if len(rows) <= max_points:
        return rows
    if max_points < 4:
        return [rows[0], rows[-1]][:max_points]
    stretches = (max_points - 2) // 2
    inner = rows[1:-1]
    kept = {rows[0], rows[-1]}
    for i in range(stretches):
        part = inner[i * len(inner) // stretches : (i + 1) * len(inner) // stretches]
        known = [row for row in part if values[row] == values[row]] or part[:1]
        if known:
            kept |= {min(known, key=values.__getitem__), max(known, key=values.__getitem__)}
    return sorted(kept)


def last_value(path: Path, name: str) -> float | None:
    """The last value of a column, looked for in the file's last lines only."""
    for line in reversed(_tail_lines(path, 4096)):
        value = line.get(name)
        if isinstance(value, (int, float)):
            return float(value)
    return None


def read_losses_around(path: Path) -> tuple[float | None, float | None]:
    """Held-out loss before the first step and at the last evaluation, None where there was none. Only lines that name one are parsed."""
    lines = _parse([line for line in _read_block(path, 0)[0] if b'"eval_loss"' in line])
    evaluations = (line for line in lines if _is_step(line) and is_number(line.get("eval_loss")))
    return losses_around((line["step"], float(line["eval_loss"])) for line in evaluations)


def sparkline(path: Path, points: int = SPARK_POINTS) -> tuple[float, ...]:
    """About `points` training losses, evenly spaced in the file; a long file is not read as a whole."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            if size <= 16_384:
                file.seek(0)
                lines = file.read().splitlines()
                trained = [line for line in lines if b'"loss"' in line]
                picked = trained if len(trained) <= points else [trained[i * len(trained) // points] for i in range(points)]
            else:
                picked = []
                for i in range(points):
                    file.seek(i * (size - 1024) // points)
                    found = [line for line in file.read(1024).split(b"\n")[1:-1] if b'"loss"' in line]
                    picked += found[:1]
    except OSError:
        return ()
    values = (line.get("loss") for line in _parse(picked))
    return tuple(float(value) for value in values if isinstance(value, (int, float)))


def _tail_lines(path: Path, size_bytes: int) -> list[dict[str, Any]]:
    try:
        with path.open("rb") as file:
            start = max(0, file.seek(0, 2) - size_bytes)
            file.seek(start)
            lines = file.read().split(b"\n")
    except OSError:
        return []
    return _parse(lines[1:-1] if start else lines[:-1])


def _read_block(path: Path, offset: int) -> tuple[list[bytes], int]:
    """The whole lines from byte `offset` on, and the offset behind them."""
    try:
        with path.open("rb") as file:
            file.seek(offset)
            block = file.read()
    except OSError:
        return [], offset
    end = block.rfind(b"\n") + 1
    return block[:end].splitlines(), offset + end


def _parse(lines: list[bytes]) -> list[dict[str, Any]]:
    """The lines that are JSON objects, parsed as one array: half the time. One broken line costs the speed, not the others."""
    lines = [line for line in lines if line]
    try:
        data = orjson.loads(b"[" + b",".join(lines) + b"]")
    except ValueError:
        data = None
    if data is None or len(data) != len(lines):
        data = [_parse_line(line) for line in lines]
    return [item for item in data if isinstance(item, dict)]


def _parse_line(line: bytes) -> Any:
    try:
        return orjson.loads(line)
    except ValueError:
        return None


def _is_step(line: dict[str, Any]) -> bool:
    step = line.get("step")
    return type(step) is int and 0 <= step < 2**53
