"""Broken rows: how many there are, which are named, and whether a dataset is refused for them.

A row is broken where its file cannot be read at that place (no JSON, a cell too many) or where it holds something other than its column
should (no list of turns). What is merely empty or there twice is not broken. DataSpec.broken_rows decides: 'refuse' the dataset, naming
the first, or 'leave_out'. A dataset most of whose rows are broken is refused in any case: then it is the form that is misread.

Does not know: how rows are read (read.py) or understood (examples.py).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from studio.core.errors import BrokenRows, DataError

NAMED = 5
"""So many broken rows are told with their reason."""


class BrokenRow(NamedTuple):
    """Stands where a row should. `problem` names its line; `lines` is how many lines of the file are lost with it."""

    problem: DataError
    lines: int = 1


@dataclass
class BrokenLog:
    """The broken rows of one pass: all are counted, in lines, the first NAMED are kept."""

    count: int = 0
    first: list[DataError] = field(default_factory=list)
    pieces: int = 0

    def add(self, row: BrokenRow) -> None:
        self.count += row.lines
        self.pieces += 1
        if len(self.first) < NAMED:
            self.first.append(row.problem)

    def check(self, rows: int, choice: str) -> None:
        """Raises BrokenRows where `choice` is 'refuse', DataError where most of all `rows` are broken; nothing where none is."""
        if not self.count:
            return
        advice = self.first[0].hint
        if 2 * self.count > rows:
            advice += " More than half of the rows are broken: this may not be the form it seems to be."
            raise DataError(self._sentence(rows), advice)
        if choice == "refuse":
            advice += " Or leave the broken rows out, which are then counted: data.broken_rows=leave_out."
            raise BrokenRows(self._sentence(rows), advice, self.count)

    def _sentence(self, rows: int) -> str:
        if self.pieces == 1:
            return self.first[0].message
        more = [f"• and {self.pieces - len(self.first):,} more"] if self.pieces > len(self.first) else []
        return "\n".join([f"{self.count:,} of {rows:,} rows are broken:", *(f"• {error.message}" for error in self.first), *more])
