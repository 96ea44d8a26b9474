"""Loading: what is dropped is counted, what is held out is never trained on, and the same rows come out every time."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from studio.core.errors import BrokenRows, DataError
from studio.core.spec import DataSpec
from studio.data import load
from studio.data.load import load_data


def pairs(count, start=0):
    return [{"prompt": f"question {index}", "completion": f"answer {index}"} for index in range(start, start + count)]


def contents(examples):
    return {json.dumps(example.content) for example in examples}


def test_rows_are_cleaned_counted_and_split(write_rows, home):
    rows = [*pairs(50), {"prompt": "", "completion": "x"}, {"prompt": "y"}, *pairs(3)]
    data = load_data(DataSpec(source=str(write_rows(rows)), held_out=0.2), home)
    counts = {"rows": 55, "empty": 2, "duplicate": 3, "broken": 0, "train": 40, "held_out": 10}
    assert data.report.to_json() == {**counts, "held_out_by": "share"}
    assert (len(data.train), len(data.held_out)) == (40, 10)
    assert (data.format, data.columns) == ("prompt_completion", {"prompt": "prompt", "completion": "completion"})
    assert not contents(data.train) & contents(data.held_out)
    assert [example.provenance["line"] for example in data.train] == sorted(example.provenance["line"] for example in data.train)


@settings(deadline=None, max_examples=40)
@given(
    numbers=st.lists(st.integers(0, 30), min_size=2, max_size=60),
    share=st.floats(0.01, 0.89),
    max_rows=st.integers(0, 20),
    max_held_out=st.integers(1, 20),
)
def test_no_row_is_both_trained_on_and_held_out(tmp_path_factory, numbers, share, max_rows, max_held_out):
    from studio.core.paths import StudioHome

    folder = tmp_path_factory.mktemp("data")
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps({"text": f"text {number}"}) + "\n" for number in numbers))
    spec = DataSpec(source=str(path), held_out=share, max_rows=max_rows, max_held_out_rows=max_held_out)
    different = len(set(numbers))
    if different < 2:
        with pytest.raises(DataError, match="at least two different rows"):
            load_data(spec, StudioHome(folder))
        return
    data = load_data(spec, StudioHome(folder))
    assert 1 <= len(data.held_out) <= max_held_out
    assert 1 <= len(data.train) <= (max_rows or different)
    assert not contents(data.train) & contents(data.held_out)
    assert data.report.duplicate == len(numbers) - different
    if not max_rows:
        assert len(data.train) + len(data.held_out) == different


def test_the_same_rows_are_held_out_whatever_their_order(write_rows, home):
    first = load_data(DataSpec(source=str(write_rows(pairs(60)))), home)
    turned = load_data(DataSpec(source=str(write_rows(pairs(60)[::-1], "turned.jsonl"))), home)
    assert contents(first.held_out) == contents(turned.held_out)


def test_limits_take_part_of_the_rows_and_the_same_part_each_time(write_rows, home, monkeypatch):
    path = str(write_rows(pairs(4000)))
    spec = DataSpec(source=path, max_rows=30, max_held_out_rows=10)
    data = load_data(spec, home)
    assert (len(data.train), len(data.held_out)) == (30, 10)
    assert load_data(spec, home).fingerprint == data.fingerprint
    everything = load_data(DataSpec(source=path, max_held_out_rows=10), home)
    assert contents(everything.held_out) == contents(data.held_out), "a limit on training rows leaves the evaluation as it is"
    lines = [example.provenance["line"] for example in data.train]
    assert max(lines) > 2000, "a part of the file, not its beginning"


def test_the_fingerprint_is_that_of_the_rows_used(write_rows, home):
    rows = pairs(20)
    data = load_data(DataSpec(source=str(write_rows(rows))), home)
    noted = [{**row, "id": 3} for row in rows]
    assert load_data(DataSpec(source=str(write_rows(noted, "b.jsonl"))), home).fingerprint == data.fingerprint
    rows[5]["completion"] += "."
    assert load_data(DataSpec(source=str(write_rows(rows, "c.jsonl"))), home).fingerprint != data.fingerprint
    assert len(data.fingerprint) == 64


def test_a_dataset_with_its_own_split_is_evaluated_on_it(write_rows, home):
    folder = write_rows(pairs(20), "set/train.jsonl").parent
    write_rows([*pairs(5, start=100), *pairs(2)], "set/test.jsonl")
    data = load_data(DataSpec(source=str(folder)), home)
    assert data.report.held_out_by == "split"
    assert len(data.held_out) == 7
    assert len(data.train) == 18, "two rows of the test split stood in the training split, too"
    assert not contents(data.train) & contents(data.held_out)


def test_validation_is_preferred_over_test(write_rows, home):
    folder = write_rows(pairs(20), "set/train.jsonl").parent
    write_rows(pairs(5, start=100), "set/test.jsonl")
    write_rows(pairs(4, start=200), "set/validation.jsonl")
    assert len(load_data(DataSpec(source=str(folder)), home).held_out) == 4


def test_a_split_without_answers_is_no_evaluation(write_rows, home):
    folder = write_rows(pairs(20), "set/train.jsonl").parent
    write_rows([{"prompt": "hidden", "completion": ""}], "set/test.jsonl")
    data = load_data(DataSpec(source=str(folder)), home)
    assert (data.report.held_out_by, len(data.held_out), len(data.train)) == ("share", 2, 18)
    assert (data.report.rows, data.report.duplicate) == (20, 0)


def test_a_folder_of_nothing_but_a_test_file_is_the_dataset(write_rows, home):
    folder = write_rows(pairs(10), "set/test.jsonl").parent
    assert load_data(DataSpec(source=str(folder)), home).report.train == 9


def test_marked_rows_are_held_out(write_rows, home):
    rows = [{**row, "held_out": index % 4 == 0} for index, row in enumerate(pairs(40))]
    data = load_data(DataSpec(source=str(write_rows(rows))), home)
    assert data.report.held_out_by == "mark"
    assert {example.provenance["line"] for example in data.held_out} == set(range(1, 41, 4))


def test_whole_modules_are_held_out(write_rows, home):
    rows = [{**row, "provenance": {"module": f"module {index % 25}", "line": index}} for index, row in enumerate(pairs(400))]
    data = load_data(DataSpec(source=str(write_rows(rows)), held_out=0.3), home)
    modules = [{example.provenance["module"] for example in part} for part in (data.train, data.held_out)]
    assert data.report.held_out_by == "module"
    assert not modules[0] & modules[1]
    assert len(modules[0] | modules[1]) == 25
    assert 4 <= len(modules[1]) <= 12


def test_no_rows_after_cleaning_is_a_named_error(write_rows, home):
    rows = [{"prompt": "a", "completion": ""}, {"prompt": "", "completion": "b"}]
    with pytest.raises(DataError, match=r"has 0 rows to train on.*read 2, empty 2"):
        load_data(DataSpec(source=str(write_rows(rows))), home)
    with pytest.raises(DataError, match="no rows with columns"):
        load_data(DataSpec(source=str(write_rows([], "none.jsonl"))), home)


def test_a_broken_row_further_down_is_named(write_rows, home):
    path = write_rows(pairs(100))
    path.write_text(path.read_text() + "{broken\n")
    with pytest.raises(DataError, match=r"rows\.jsonl, line 101"):
        load_data(DataSpec(source=str(path)), home)


def broken_file(write_rows, good, broken):
    path = write_rows(pairs(good))
    path.write_text(path.read_text() + "{broken\n" * broken)
    return str(path)


def test_broken_rows_refuse_the_data_and_say_how_many_and_how_to_leave_them_out(write_rows, home):
    with pytest.raises(BrokenRows) as caught:
        load_data(DataSpec(source=broken_file(write_rows, 20, 7)), home)
    assert caught.value.count == 7
    assert caught.value.message.startswith("7 of 27 rows are broken:\n• rows.jsonl, line 21 is not valid JSON")
    assert "line 25 " in caught.value.message and "line 26 " not in caught.value.message
    assert caught.value.message.endswith("• and 2 more")
    assert "data.broken_rows=leave_out" in caught.value.hint


def test_broken_rows_are_left_out_and_counted_on_request(write_rows, home):
    path = write_rows(pairs(20))
    whole = load_data(DataSpec(source=str(path)), home)
    lines = path.read_text().splitlines()
    lines[3:3] = ["{broken", '["no object"]']
    lines.append(json.dumps({"prompt": {"no": "text"}, "completion": "c"}))
    path.write_text("\n".join(lines))
    data = load_data(DataSpec(source=str(path), broken_rows="leave_out"), home)
    assert (data.report.broken, data.report.rows, data.report.empty) == (3, 23, 0)
    assert data.fingerprint == whole.fingerprint
    assert (data.train, data.held_out) != ([], [])


def test_a_broken_row_is_left_out_of_a_split_of_its_own_too(write_rows, home):
    folder = write_rows(pairs(20), "set/train.jsonl").parent
    test = write_rows(pairs(5, start=100), "set/test.jsonl")
    test.write_text(test.read_text() + "{broken\n")
    data = load_data(DataSpec(source=str(folder), broken_rows="leave_out"), home)
    assert (data.report.held_out_by, data.report.held_out, data.report.broken) == ("split", 5, 1)


@pytest.mark.parametrize("choice", ["refuse", "leave_out"])
def test_mostly_broken_data_are_refused_in_any_case(write_rows, home, choice):
    with pytest.raises(DataError, match="21 of 41 rows are broken") as caught:
        load_data(DataSpec(source=broken_file(write_rows, 20, 21), broken_rows=choice), home)
    assert not isinstance(caught.value, BrokenRows), "not to be left out"
    assert "leave_out" not in caught.value.hint
    half = DataSpec(source=broken_file(write_rows, 20, 20), broken_rows="leave_out")
    assert load_data(half, home).report.broken == 20


def test_wrong_columns_are_refused(write_rows, home):
    path = write_rows([{"title": "a", "author": "b"}])
    with pytest.raises(DataError, match="title, author"):
        load_data(DataSpec(source=str(path)), home)


@pytest.mark.parametrize(
    "source", ["missing.jsonl", "/no/such/folder", "./nothing", "~/nothing-here", "a/b/c", "https://example.org/x.json"]
)
def test_a_source_that_is_not_there_is_named(source, home):
    with pytest.raises(DataError, match="no file or folder"):
        load_data(DataSpec(source=source), home)


def test_too_much_text_is_refused_unless_rows_are_limited(write_rows, home, monkeypatch):
    monkeypatch.setattr(load, "MAX_TEXT_BYTES", 1000)
    path = str(write_rows(pairs(200)))
    with pytest.raises(DataError, match="GiB of text") as error:
        load_data(DataSpec(source=path), home)
    assert "max_rows" in error.value.hint
    assert len(load_data(DataSpec(source=path, max_rows=10), home).train) == 10


def test_a_limit_on_rows_bounds_what_is_kept(write_rows, home, monkeypatch):
    largest = []
    trim = load._Pool.trim
    monkeypatch.setattr(load._Pool, "trim", lambda pool: (largest.append(len(pool.rows)), trim(pool)))
    load_data(DataSpec(source=str(write_rows(pairs(5000))), max_rows=50, max_held_out_rows=10), home)
    assert max(largest) < 1200


def test_the_system_prompt_of_the_settings_reaches_every_example(write_rows, home):
    data = load_data(DataSpec(source=str(write_rows(pairs(10))), system_prompt="Be brief."), home)
    assert all(example.messages[0] == {"role": "system", "content": "Be brief."} for example in data.train)
