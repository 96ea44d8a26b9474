"""A DataSpec -> the examples to train on and those held out, cleaned, counted, with a fingerprint.

Cleaning: rows with nothing to learn are dropped, of equal rows the first stays, and a row that is held out is never trained on. Broken
rows refuse the dataset, or are left out on request (broken.py).

What is held out, in this order:
1. the dataset's own split (validation, test and the like);
2. rows marked `held_out`, as the starter dataset marks whole modules;
3. whole groups, where rows carry provenance.module: functions of one module resemble each other;
4. else a share of the rows.
Which rows a share or a limit takes is decided by a hash of their content, not by their order: the same rows whatever the seed of a run,
so eval losses of two runs compare. Memory holds the rows kept, at most MAX_TEXT_BYTES of text; a limit on rows makes any file fit.

Does not know: tokens (format.py), chat templates (studio.models.chat).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from itertools import chain
from typing import Any, NamedTuple

from studio.core.errors import DataError
from studio.core.paths import StudioHome
from studio.core.spec import DataSpec
from studio.data.broken import BrokenLog, BrokenRow
from studio.data.detect import Layout, detect_layout
from studio.data.examples import Example, make_example
from studio.data.read import Row
from studio.data.source import Rows, Source, open_source

MAX_TEXT_BYTES = 2 * 2**30
DETECT_ROWS = 20


@dataclass
class DataReport:
    """What became of the rows. `rows` were read, broken ones counted in lines; `held_out_by` is 'split', 'mark', 'module' or 'share'."""

    rows: int = 0
    empty: int = 0
    duplicate: int = 0
    broken: int = 0
    train: int = 0
    held_out: int = 0
    held_out_by: str = "share"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class LoadedData:
    """Examples in their order in the source. `fingerprint` is the sha256 of exactly these examples."""

    train: list[Example]
    held_out: list[Example]
    layout: Layout
    report: DataReport
    fingerprint: str

    @property
    def format(self) -> str:
        return self.layout.format

    @property
    def columns(self) -> dict[str, str]:
        return self.layout.columns


class _Kept(NamedTuple):
    key: bytes
    index: int
    example: Example


@dataclass
class _Pool:
    """Rows kept of one kind: at most `limit` of the smallest keys (0: all). `seen` counts those dropped too."""

    limit: int
    rows: list[_Kept] = field(default_factory=list)
    seen: int = 0

    def add(self, row: _Kept) -> None:
        self.rows.append(row)
        self.seen += 1
        if self.limit and len(self.rows) > 2 * self.limit + 1000:
            self.trim()

    def trim(self) -> None:
        if self.limit:
            self.rows = sorted(self.rows)[: self.limit]


class _Cleaner:
    """One pass over rows: drops what is empty or was seen before, and says which pool each of the others goes to."""

    def __init__(self, layout: Layout, spec: DataSpec, report: DataReport) -> None:
        self.layout, self.spec, self.report = layout, spec, report
        self.broken = BrokenLog()
        self.seen: set[bytes] = set()
        self.kept_bytes = 0

    def examples(self, rows: Iterator[Row | BrokenRow]) -> Iterator[tuple[Row, _Kept]]:
        for row, example in self._understood(rows):
            if example is None:
                self.report.empty += 1
                continue
            text = json.dumps(example.content, ensure_ascii=False, sort_keys=True).encode("utf-8", "surrogatepass")
            key = hashlib.blake2b(text, digest_size=16).digest()
            if key in self.seen:
                self.report.duplicate += 1
                continue
            self.seen.add(key)
            self._count(len(text))
            yield row, _Kept(key, self.report.rows, example)

    def _understood(self, rows: Iterator[Row | BrokenRow]) -> Iterator[tuple[Row, Example | None]]:
        for row in rows:
            self.report.rows += row.lines if isinstance(row, BrokenRow) else 1
            if isinstance(row, BrokenRow):
                self.broken.add(row)
                continue
            try:
                example = make_example(row, self.layout, self.spec.system_prompt)
            except DataError as error:
                self.broken.add(BrokenRow(error))
            else:
                yield row, example

    def check_broken(self) -> None:
        """Raises DataError where the broken rows of all that was read refuse the dataset."""
        self.report.broken = self.broken.count
        self.broken.check(self.report.rows, self.spec.broken_rows)

    def _count(self, size: int) -> None:
        self.kept_bytes += 0 if self.spec.max_rows else size
        if self.kept_bytes > MAX_TEXT_BYTES:
            raise DataError(
                f"The dataset holds more than {MAX_TEXT_BYTES // 2**30} GiB of text.", "Set data.max_rows to train on a part of it."
            )


def load_data(spec: DataSpec, home: StudioHome, report: Callable[[str], None] | None = None) -> LoadedData:
    """Read, clean and split the dataset. `report` is told of longer preparations. Raises DataError."""
    source = open_source(spec, home, report)
    layout = detect_layout(first_rows(source), spec)
    cleaner = _Cleaner(layout, spec, DataReport())
    train, held_out = _take_own_split(source, cleaner) if source.held_out_rows else ([], [])
    if not held_out:
        # No split of its own, or one without answers, as test sets often are.
        cleaner = _Cleaner(layout, spec, DataReport())
        train, held_out = _take_share(source.rows, cleaner)
    cleaner.check_broken()
    counts = cleaner.report
    _check_any(spec, counts, train, held_out)
    counts.train, counts.held_out = len(train), len(held_out)
    return LoadedData(train, held_out, layout, counts, _fingerprint(train, held_out))


def first_rows(source: Source, count: int = DETECT_ROWS) -> list[dict[str, Any]]:
    """The first rows as they stand in the source, broken ones passed over. Raises DataError where all are broken."""
    broken, found = BrokenLog(), []
    for row in source.rows():
        if isinstance(row, BrokenRow):
            broken.add(row)
        else:
            found.append(row.values)
        if len(found) == count:
            break
    if not found:
        broken.check(broken.count, "refuse")
    return found


def _take_own_split(source: Source, cleaner: _Cleaner) -> tuple[list[Example], list[Example]]:
    cleaner.report.held_out_by = "split"
    pools = _Pool(cleaner.spec.max_held_out_rows), _Pool(cleaner.spec.max_rows)
    for pool, rows in zip(pools, (source.held_out_rows, source.rows), strict=True):
        for _, kept in cleaner.examples(rows() if rows else iter(())):
            pool.add(kept)
    return _in_order(pools[1]), _in_order(pools[0])


def _take_share(rows: Rows, cleaner: _Cleaner) -> tuple[list[Example], list[Example]]:
    """Rows of marked or whole groups go to their pool at once; the others are shared out at the end, by key."""
    spec = cleaner.spec
    together = spec.max_rows + spec.max_held_out_rows if spec.max_rows else 0
    held, train, open_ = _Pool(spec.max_held_out_rows), _Pool(spec.max_rows), _Pool(together)
    for row, kept in cleaner.examples(rows()):
        mark = _mark(row, kept.example, spec.held_out, cleaner.report)
        (open_ if mark is None else held if mark else train).add(kept)
    if held.rows and train.rows:
        train.rows += open_.rows
    else:
        cleaner.report.held_out_by = "share"
        everything = sorted(chain(open_.rows, held.rows, train.rows))
        total = open_.seen + held.seen + train.seen
        count = min(spec.max_held_out_rows, max(1, round(spec.held_out * total)), len(everything) - 1)
        held.rows, train.rows = everything[: max(0, count)], everything[max(0, count) :]
    return _in_order(train), _in_order(held)


def _mark(row: Row, example: Example, share: float, report: DataReport) -> bool | None:
    """Whether the row is held out because it is marked so or because its module is; None where it is neither."""
    if isinstance(row.values.get("held_out"), bool):
        report.held_out_by = "mark"
        return row.values["held_out"]
    module = example.provenance.get("module")
    if module is None:
        return None
    report.held_out_by = "module"
    digest = hashlib.blake2b(str(module).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") < share * 2**64


def _in_order(pool: _Pool) -> list[Example]:
    pool.trim()
    return [kept.example for kept in sorted(pool.rows, key=lambda kept: kept.index)]


def _check_any(spec: DataSpec, counts: DataReport, train: list[Example], held_out: list[Example]) -> None:
    if train and held_out:
        return
    raise DataError(
        f"After cleaning, {spec.source} has {len(train)} rows to train on and {len(held_out)} to hold out "
        f"(read {counts.rows}, empty {counts.empty}, duplicate {counts.duplicate}).",
        "Check which column plays which part; at least two different rows are needed.",
    )


def _fingerprint(train: list[Example], held_out: list[Example]) -> str:
    digest = hashlib.sha256()
    for name, examples in (("train", train), ("held_out", held_out)):
        for example in examples:
            line = json.dumps([name, example.content], ensure_ascii=False, sort_keys=True)
            digest.update(line.encode("utf-8", "surrogatepass") + b"\n")
    return digest.hexdigest()
