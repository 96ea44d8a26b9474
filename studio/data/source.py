"""Where rows come from: the starter dataset, a file or folder, or the hub; told apart by DataSpec.source.

A path that exists is read as such, whatever it is called; what looks like owner/name is asked from the hub.

Does not know: forms, cleaning, splits by share (load.py).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from studio.core.errors import DataError
from studio.core.paths import StudioHome
from studio.core.spec import DataSpec
from studio.data.broken import BrokenRow
from studio.data.read import HELD_OUT_NAMES, SUFFIXES, Row, find_files, read_rows

Rows = Callable[[], Iterator[Row | BrokenRow]]


class Source(NamedTuple):
    """`rows` and `held_out_rows` start a new pass at each call; the second is None where the dataset has no split of its own."""

    rows: Rows
    held_out_rows: Rows | None


def open_source(spec: DataSpec, home: StudioHome, report: Callable[[str], None] | None = None) -> Source:
    """The source `spec` names. Raises DataError where it cannot be found."""
    if spec.source == "starter":
        from studio.data.starter import ensure_starter_data

        return _open_path(ensure_starter_data(home, report or _say))
    path = Path(spec.source).expanduser()
    if path.exists():
        return _open_path(path)
    from studio.data.hub import HUB_ID, fetch_splits, table_rows

    if not HUB_ID.fullmatch(spec.source) or path.suffix.lower() in SUFFIXES:
        raise DataError(f"There is no file or folder {spec.source}.", "Check the path, or upload the file.")
    table, own = fetch_splits(spec)
    return Source(lambda: table_rows(table), None if own is None else lambda: table_rows(own))


def _open_path(path: Path) -> Source:
    splits = find_files(path)
    own = next((name for name in HELD_OUT_NAMES if name in splits), None)
    train = splits.get("train")
    if train is None:
        # Only files named like held-out splits: they are the dataset, not its evaluation.
        return Source(lambda: _read_all([file for files in splits.values() for file in files]), None)
    return Source(lambda: _read_all(train), None if own is None else lambda: _read_all(splits[own]))


def _read_all(files: list[Path]) -> Iterator[Row | BrokenRow]:
    return chain.from_iterable(map(read_rows, files))


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
