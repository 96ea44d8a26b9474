"""Rows from files: JSON lines, JSON, CSV and Parquet, each with the line a person finds it at.

JSON lines and CSV are read line by line, Parquet batch by batch, so a big file costs no more memory than the rows kept of it. A JSON
array has to be parsed as a whole and is therefore limited to MAX_JSON_BYTES; a single line, to MAX_LINE_BYTES.

Only files inside the folder a person names are read: a link that leads out of it is refused, so an unpacked archive cannot point at
somebody's keys.

Does not know: what the columns mean (detect.py), nor which rows are kept (load.py).
"""

from __future__ import annotations

import codecs
import csv
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from studio.core.errors import DataError, from_os_error
from studio.core.files import is_unicode
from studio.data.broken import BrokenRow

SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")
MAX_JSON_BYTES = 512 * 2**20
MAX_LINE_BYTES = 16 * 2**20
PARQUET_BATCH = 1024
SAVE_AS = "Save it as UTF-8."
KINDS = "The studio reads .jsonl, .json, .csv and .parquet files, and folders of these."

HELD_OUT_NAMES = ("validation", "valid", "val", "dev", "eval", "test")
"""Names of a split of its own, the preferred first."""


class Row(NamedTuple):
    """One row as it stands in a file. `line` counts from 1: a line of text files, an entry of JSON arrays, a row of Parquet."""

    values: dict[str, Any]
    line: int
    file: str

    @property
    def place(self) -> str:
        return f"{self.file}, line {self.line}" if self.file else f"row {self.line}"


def find_files(path: Path) -> dict[str, list[Path]]:
    """The data files at `path` (a file, or a folder and its subfolders) by split: 'train', and a held-out name where there is one.

    A split is told by the file's name: test.jsonl, validation-00000-of-00001.parquet. Raises DataError.
    """
    root = path.resolve()
    if root.is_file():
        # A link's own name comes first: hub caches link rows.jsonl to a file named by its checksum.
        named = next((file for file in (path.absolute(), root) if file.suffix.lower() in SUFFIXES), None)
        if named is None:
            raise DataError(f"{path.name} is no data file the studio reads.", KINDS)
        return {"train": [named]}
    if not root.is_dir():
        raise DataError(f"There is no file or folder {path}.", "Check the path, or upload the file.")
    splits: dict[str, list[Path]] = {}
    for file in sorted(root.rglob("*")):
        if file.suffix.lower() in SUFFIXES and file.is_file() and not file.name.startswith("."):
            if not file.resolve().is_relative_to(root):
                raise DataError(f"{file.name} is a link that leads out of the folder {path.name}.", "Put the file itself into the folder.")
            splits.setdefault(_split_of(file), []).append(file)
    if not splits:
        raise DataError(f"The folder {path.name} holds no data file.", KINDS)
    return splits


def _split_of(file: Path) -> str:
    first = re.split(r"[^a-z]+", file.stem.lower())[0]
    return first if first in HELD_OUT_NAMES else "train"


def read_rows(file: Path) -> Iterator[Row | BrokenRow]:
    """Rows of one file in order, a BrokenRow where one cannot be read. Raises DataError where that is the whole file's fault."""
    readers = {".jsonl": _read_json_lines, ".json": _read_json, ".csv": _read_csv, ".parquet": _read_parquet}
    try:
        _check_encoding(file)
        for line, values in readers[file.suffix.lower()](file):
            if isinstance(values, BrokenRow):
                yield values
            elif isinstance(values, dict):
                yield Row(values, line, file.name)
            else:
                found = f"{file.name}, line {line}: expected an object with named columns, found {_kind(values)}."
                yield BrokenRow(DataError(found, KINDS))
    except UnicodeDecodeError as error:
        raise DataError(f"{file.name} is not UTF-8 text: {error.reason} at byte {error.start}.", SAVE_AS) from error
    except OSError as error:
        raise from_os_error(error, f"reading {file.name}") from error


def _check_encoding(file: Path) -> None:
    with file.open("rb") as start:
        if start.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
            raise DataError(f"{file.name} is not UTF-8 text: it is UTF-16.", SAVE_AS)


def _kind(value: Any) -> str:
    names = {list: "a list", str: "a text", int: "a number", float: "a number", bool: "true or false", type(None): "null"}
    return names.get(type(value), type(value).__name__)


def _read_json_lines(file: Path) -> Iterator[tuple[int, Any]]:
    with file.open("rb") as lines:
        line = 0
        while block := lines.readline(MAX_LINE_BYTES + 1):
            line += 1
            if not block.removeprefix(codecs.BOM_UTF8).strip():
                continue
            try:
                values = _read_line(block, file, line)
            except DataError as error:
                values = BrokenRow(error)
                while block and not block.endswith(b"\n"):  # the rest of a line that is too long
                    block = lines.readline(MAX_LINE_BYTES)
            yield line, values


def _read_line(block: bytes, file: Path, line: int) -> Any:
    """What a line of JSON holds. Raises DataError naming the line."""
    if len(block) > MAX_LINE_BYTES:
        raise DataError(
            f"{file.name}, line {line} is longer than {MAX_LINE_BYTES // 2**20} MiB.",
            "One row a line is expected; a JSON array goes into a .json file.",
        )
    try:
        text = block.decode("utf-8-sig" if line == 1 else "utf-8").strip()
    except UnicodeDecodeError as error:
        raise DataError(f"{file.name}, line {line} is not UTF-8 text: {error.reason} at its byte {error.start}.", SAVE_AS) from error
    return _whole(_parse(text, file, line), text, file, line)


def _parse(text: str, file: Path, line: int) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        other = "it is nested too deeply" if isinstance(error, RecursionError) else "a number has too many digits"
        reason = getattr(error, "msg", other)
        at = line + getattr(error, "lineno", 1) - 1
        raise DataError(f"{file.name}, line {at} is not valid JSON: {reason}.", "Repair or remove that line.") from error


def _whole(values: Any, text: str, file: Path, line: int) -> Any:
    r"""`values`, unless an escape in the `text` they were read from left half of a character, such as "\ud800", in them."""
    if "\\u" in text and not is_unicode(json.dumps(values, ensure_ascii=False)):
        raise DataError(f"{file.name}, line {line} holds half of a character (a lone surrogate).", "Repair or remove that line.")
    return values


def _read_json(file: Path) -> Iterator[tuple[int, Any]]:
    """An array of rows, an object that holds one, or (as many tools name it) JSON lines."""
    if _holds_lines(file):
        yield from _read_json_lines(file)
        return
    if file.stat().st_size > MAX_JSON_BYTES:
        raise DataError(f"{file.name} is larger than {MAX_JSON_BYTES // 2**20} MiB.", "Save it as JSON lines, one row a line.")
    text = file.read_text(encoding="utf-8-sig")
    data = _parse(text, file, 1)
    if isinstance(data, dict):
        lists = [value for value in data.values() if isinstance(value, list) and value and isinstance(value[0], dict)]
        data = lists[0] if len(lists) == 1 else [data]
    if not isinstance(data, list):
        raise DataError(f"{file.name} holds {_kind(data)} where a list of rows is expected.", KINDS)
    for line, values in enumerate(data, start=1):
        try:
            yield line, _whole(values, text, file, line)
        except DataError as error:
            yield line, BrokenRow(error)


def _holds_lines(file: Path) -> bool:
    with file.open("rb") as lines:
        blocks = (block.removeprefix(codecs.BOM_UTF8).strip() for block in iter(lambda: lines.readline(MAX_LINE_BYTES), b""))
        filled = filter(None, blocks)  # blank lines may stand first and between
        first, more = next(filled, b""), next(filled, b"")
    try:
        return more[:1] == b"{" and isinstance(json.loads(first.decode()), dict)
    except (ValueError, RecursionError):
        return False


def _read_csv(file: Path) -> Iterator[tuple[int, Any]]:
    """After a row that is no CSV the next begins on a new line, so that a quotation mark too many may cost several lines."""
    csv.field_size_limit(MAX_LINE_BYTES)
    # Bytes that are no UTF-8 pass as lone surrogates, which _read_cells names with their line.
    with file.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as lines:
        reader = csv.reader(lines, strict=True)
        header = next((cells for cells in iter(lambda: _read_cells(reader, f"{file.name}, line {reader.line_num + 1}"), None) if cells), [])
        if isinstance(header, DataError):
            raise header
        if len(set(header)) != len(header):
            raise DataError(f"{file.name} names a column twice: {', '.join(header)}.", "Give every column a name of its own.")
        line = reader.line_num + 1
        while (cells := _read_cells(reader, f"{file.name}, line {line}", len(header))) is not None:
            if isinstance(cells, DataError):
                yield line, BrokenRow(cells, reader.line_num - line + 1)
            elif cells:
                yield line, dict(zip(header, cells, strict=True))
            line = reader.line_num + 1


def _read_cells(reader: Any, where: str, count: int = 0) -> list[str] | DataError | None:
    """The next row's cells, [] of a blank line, None at the end; of a broken row what is wrong with it. `count`: how many are due."""
    try:
        cells = next(reader, None)
    except csv.Error as error:
        return DataError(f"{where} is not valid CSV: {error}.", "Check its quotation marks.")
    if cells and count and len(cells) != count:
        return DataError(
            f"{where} has {len(cells)} cells, the header {count}.",
            "A comma or a line break inside a text needs quotation marks around the text.",
        )
    if cells and not is_unicode("".join(cells)):
        return DataError(f"{where} is not UTF-8 text.", SAVE_AS)
    return cells


def _read_parquet(file: Path) -> Iterator[tuple[int, Any]]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(file) as table:
            line = 0
            for batch in table.iter_batches(batch_size=PARQUET_BATCH):
                for values in _batch_rows(batch, file):
                    line += 1
                    yield line, values
    except pyarrow.ArrowException as error:
        raise DataError(f"{file.name} is not a readable Parquet file: {error}", "Write it anew, or convert it to JSON lines.") from error


def _batch_rows(batch: Any, file: Path) -> list[dict[str, Any]]:
    """The rows of a batch of Parquet. Where Python has no value for a time, such as one after the year 9999, times become text: the
    column may not even be used. Raises DataError where such a time is inside a list or an object."""
    import pyarrow

    try:
        return batch.to_pylist()
    except OverflowError:
        pass
    columns: dict[str, list[Any]] = {}
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        try:
            columns[name] = (column.cast(pyarrow.string()) if pyarrow.types.is_temporal(column.type) else column).to_pylist()
        except (OverflowError, pyarrow.ArrowException) as error:
            raise DataError(f"{file.name} holds a time out of range in {name}.", "Leave that column out, or save it as text.") from error
    return [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]
