"""Reading rows: every kind of file gives the rows that were written, and a broken one is named by its line."""

from __future__ import annotations

import csv
import json
import re

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from studio.core.errors import DataError
from studio.data import read
from studio.data.broken import BrokenRow
from studio.data.read import find_files, read_rows

CELLS = st.text(alphabet=st.characters(exclude_categories=("Cs", "Cc"), include_characters="\n\t"), max_size=20)
TABLES = st.lists(st.fixed_dictionaries({"prompt": CELLS, "completion": CELLS}), min_size=1, max_size=8)


def write(path, rows):
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    elif path.suffix == ".csv":
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, ["prompt", "completion"], quoting=csv.QUOTE_ALL)
            writer.writeheader()
            writer.writerows(rows)
    else:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


@settings(deadline=None, max_examples=40)
@given(rows=TABLES, suffix=st.sampled_from(read.SUFFIXES))
def test_rows_come_back_as_they_were_written(tmp_path_factory, rows, suffix):
    path = write(tmp_path_factory.mktemp("rows") / f"rows{suffix}", rows)
    assert [row.values for row in read_rows(path)] == rows


def test_lines_are_those_of_the_file(tmp_path):
    lines = tmp_path / "rows.jsonl"
    lines.write_text('{"text": "a"}\n\n{"text": "b"}\n')
    assert [row.line for row in read_rows(lines)] == [1, 3]
    table = tmp_path / "rows.csv"
    table.write_text('text,more\n"two\nlines",x\nb,y\n')
    assert [row.line for row in read_rows(table)] == [2, 4]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"text": "a"}\n{"text": \n{"text": "c"}\n', "a.jsonl, line 2 is not valid JSON"),
        ("a.jsonl", '{"text": "a"}\n\n["b"]\n', "a.jsonl, line 3: expected an object with named columns, found a list"),
        ("a.jsonl", '{"text": "a"}\n"b"\n', "line 2: expected an object with named columns, found a text"),
        ("a.jsonl", '{"text": "a"}\n{"text": "\\ud800"}\n', "a.jsonl, line 2 holds half of a character"),
        ("a.json", '[{"text": "\\ud83d\\ude00"}, {"text": ["\\ude00"]}]', "a.json, line 2 holds half of a character"),
        ("a.jsonl", '{"text": ' + "9" * 5000 + "}", "line 1 is not valid JSON: a number has too many digits"),
        ("a.jsonl", '{"text": "a"}\n' + "[" * 100_000 + "\n", "line 2 is not valid JSON: it is nested too deeply"),
        ("a.json", '[{"text": "a"},\n {"text": "b"},\n {"text" "c"}]', "a.json, line 3 is not valid JSON"),
        ("a.json", '[{"text": "a"}, 7]', "a.json, line 2: expected an object with named columns, found a number"),
        ("a.json", '"text"', "a.json holds a text where a list of rows is expected"),
        ("a.csv", "prompt,completion\na,b\nc,d,e\n", "a.csv, line 3 has 3 cells, the header 2"),
        ("a.csv", 'prompt,completion\na,"b"x\n', "a.csv, line 2 is not valid CSV"),
        ("a.csv", "prompt,prompt\na,b\n", "names a column twice"),
        ("a.parquet", "PAR1 not really", "a.parquet is not a readable Parquet file"),
    ],
)
def test_a_broken_row_is_named_by_its_line(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_text(content)
    problem = first_problem(path)
    assert message in problem.message
    assert problem.hint


def first_problem(path):
    """What is wrong with a file or with its first broken row."""
    try:
        return next(row.problem for row in read_rows(path) if isinstance(row, BrokenRow))
    except DataError as error:
        return error


JSON_BREAKS = st.sampled_from(["{", "nonsense", '{"prompt": }', "[1]", "7", "null", '{"a": "\\ud800"}', b'{"a": "\xff"}'])
CSV_BREAKS = st.sampled_from(["a,b,c", "a", '"a"x,b', b"\xff,b"])


@settings(deadline=None, max_examples=80)
@given(data=st.data(), suffix=st.sampled_from([".jsonl", ".csv"]))
def test_the_rows_around_broken_ones_are_read_and_the_broken_named(tmp_path_factory, data, suffix):
    good = {"prompt": "p", "completion": "c"}
    breaks = JSON_BREAKS if suffix == ".jsonl" else CSV_BREAKS
    lines = data.draw(st.lists(st.one_of(st.none(), breaks), min_size=1, max_size=12))
    whole = json.dumps(good) if suffix == ".jsonl" else "p,c"
    texts = ["prompt,completion"] * (suffix == ".csv") + [whole if line is None else line for line in lines]
    path = tmp_path_factory.mktemp("broken") / f"rows{suffix}"
    path.write_bytes(b"".join((text if isinstance(text, bytes) else text.encode()) + b"\n" for text in texts))
    found = list(read_rows(path))
    first = 1 + (suffix == ".csv")
    assert [isinstance(row, BrokenRow) for row in found] == [line is not None for line in lines]
    for number, row in enumerate(found, start=first):
        if isinstance(row, BrokenRow):
            assert row.problem.message.startswith(f"rows{suffix}, line {number}") and row.lines == 1
        else:
            assert (row.values, row.line) == (good, number)


@settings(deadline=None, max_examples=80)
@given(content=st.lists(st.sampled_from(['"', ",", "\n", "a", "p,c\n", "\r\n", "é"])), suffix=st.sampled_from([".jsonl", ".csv"]))
def test_every_line_is_in_a_row_or_broken_or_blank(tmp_path_factory, content, suffix):
    """Whatever a file holds: places go up, broken pieces begin where the piece before ended, and nothing is raised but a named error."""
    path = tmp_path_factory.mktemp("any") / f"rows{suffix}"
    text = "prompt,completion\n" + "".join(content)
    path.write_bytes(text.encode())
    found = list(read_rows(path))
    places = [int(re.search(r"line (\d+)", row.problem.message)[1]) if isinstance(row, BrokenRow) else row.line for row in found]
    assert places == sorted(set(places))
    lost = sum(row.lines for row in found if isinstance(row, BrokenRow))
    assert lost + sum(isinstance(row, read.Row) for row in found) <= len(text.splitlines())


def test_blank_lines_before_a_csv_header_are_passed_over(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("\n\r\nname,text\na,b\n")
    assert [(row.values, row.line) for row in read_rows(path)] == [({"name": "a", "text": "b"}, 4)]
    path.write_text("\n\n\n")
    assert list(read_rows(path)) == []


def test_a_quotation_mark_too_many_costs_the_lines_up_to_where_it_shows(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('text,more\n1,"opened\n2,b\n3,"c"\n4,d\n')
    broken, last = read_rows(path)
    assert broken.problem.message.startswith("a.csv, line 2 is not valid CSV") and broken.lines == 3
    assert (last.values, last.line) == ({"text": "4", "more": "d"}, 5)


def test_rows_before_a_broken_one_are_still_read(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a"}\nbroken\n')
    assert next(read_rows(path)).values == {"text": "a"}


def test_text_that_is_not_utf8_is_named(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes('{"text": "é"}\n'.encode("latin-1"))
    assert "a.jsonl, line 1 is not UTF-8" in first_problem(path).message
    table = tmp_path / "a.csv"
    table.write_bytes("text\nplain\né\n".encode("latin-1"))
    assert "a.csv, line 3 is not UTF-8" in first_problem(table).message
    array = tmp_path / "a.json"
    array.write_bytes('[{"text": "é"}]'.encode("latin-1"))
    assert "a.json is not UTF-8 text" in first_problem(array).message


def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path):
    for name, content in (("a.csv", "text\nhello\n"), ("a.jsonl", '{"text": "hello"}\n'), ("a.json", '[{"text": "hello"}]')):
        path = tmp_path / name
        path.write_text(content, encoding="utf-8-sig")
        assert next(read_rows(path)).values == {"text": "hello"}


@pytest.mark.parametrize("content", ['{"version": 1, "data": [{"text": "a"}]}', '{"text": "a"}', '{"text": "a"}\n{"text": "b"}\n'])
def test_json_files_of_other_shapes(tmp_path, content):
    path = tmp_path / "a.json"
    path.write_text(content)
    assert next(read_rows(path)).values == {"text": "a"}


def test_limits_are_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(read, "MAX_JSON_BYTES", 100)
    monkeypatch.setattr(read, "MAX_LINE_BYTES", 100)
    big = tmp_path / "big.json"
    big.write_text(json.dumps([{"text": "x" * 200}]))
    with pytest.raises(DataError, match="larger than"):
        list(read_rows(big))
    long = tmp_path / "long.jsonl"
    long.write_text('{"text": "a"}\n{"text": "' + "x" * 2000 + '"}\n{"text": "b"}\n')
    _, broken, last = read_rows(long)
    assert broken.problem.message.startswith("long.jsonl, line 2 is longer")
    assert (last.values, last.line) == ({"text": "b"}, 3)


def test_a_long_file_is_read_row_by_row(tmp_path):
    """The first row of a file whose second half is broken comes before the file was read to its end."""
    path = tmp_path / "a.csv"
    path.write_text("text\n" + "row\n" * 1000 + '"never closed')
    rows = read_rows(path)
    assert [next(rows).values["text"] for _ in range(1000)] == ["row"] * 1000
    assert next(rows).problem.message.startswith("a.csv, line 1002 ")


def test_files_are_found_with_their_splits(tmp_path):
    for name in ("train.jsonl", "more/part-0.csv", "test-00000-of-00001.parquet", "notes.txt", ".hidden.json", "testimonials.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    found = {split: sorted(file.name for file in files) for split, files in find_files(tmp_path).items()}
    assert found == {"train": ["part-0.csv", "testimonials.json", "train.jsonl"], "test": ["test-00000-of-00001.parquet"]}


def test_what_is_no_data_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(DataError, match=r"notes\.txt is no data file"):
        find_files(tmp_path / "notes.txt")
    with pytest.raises(DataError, match="holds no data file"):
        find_files(tmp_path)
    with pytest.raises(DataError, match="no file or folder"):
        find_files(tmp_path / "missing.jsonl")


def test_a_link_that_leads_out_of_the_folder_is_refused(tmp_path):
    secret = tmp_path / "secret.json"
    secret.write_text('[{"text": "key"}]')
    folder = tmp_path / "dataset"
    folder.mkdir()
    (folder / "rows.json").symlink_to(secret)
    with pytest.raises(DataError, match="leads out of the folder"):
        find_files(folder)


def test_a_link_is_read_by_its_own_name(tmp_path):
    blob = tmp_path / "0a1b2c"
    blob.write_text('{"text": "a"}\n', encoding="utf-8")
    link = tmp_path / "rows.jsonl"
    link.symlink_to(blob)
    (files,) = find_files(link).values()
    assert [row.values for row in read_rows(files[0])] == [{"text": "a"}]


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf_16_is_named(tmp_path, encoding):
    file = tmp_path / "rows.jsonl"
    file.write_bytes(('\ufeff{"text": "a"}\n').encode(encoding))
    with pytest.raises(DataError, match="it is UTF-16"):
        list(read_rows(file))


@pytest.mark.parametrize("kind", [pyarrow.timestamp("us"), pyarrow.timestamp("us", "UTC"), pyarrow.duration("s"), pyarrow.date32()])
def test_a_time_that_python_does_not_know_becomes_text(tmp_path, kind):
    path = tmp_path / "a.parquet"
    far = pyarrow.array([2**30 if kind == pyarrow.date32() else 2**62]).cast(pyarrow.int32() if kind == pyarrow.date32() else "int64")
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a"], "when": far.view(kind)}), path)
    (row,) = read_rows(path)
    assert row.values["text"] == "a" and isinstance(row.values["when"], str)


def test_a_time_inside_a_list_that_python_does_not_know_is_named(tmp_path):
    path = tmp_path / "a.parquet"
    far = pyarrow.ListArray.from_arrays(pyarrow.array([0, 1], pyarrow.int32()), pyarrow.array([2**62]).view(pyarrow.duration("s")))
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a"], "when": far}), path)
    with pytest.raises(DataError, match=r"a\.parquet holds a time out of range in when"):
        list(read_rows(path))


def test_json_lines_in_a_json_file_may_have_blank_lines_first_and_between(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('\n \n{"text": "a"}\n\n\n{"text": "b"}\n', encoding="utf-8-sig")
    assert [(row.values["text"], row.line) for row in read_rows(path)] == [("a", 3), ("b", 6)]
    path.write_text('\n\n[\n{"text": "a"}\n]')
    assert [row.values for row in read_rows(path)] == [{"text": "a"}]
