"""Detection: the form and the columns of datasets people have, corrections, and named refusals."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from studio.core.errors import DataError
from studio.core.spec import COLUMN_ROLES, DataSpec
from studio.data.detect import NAMES, ROLES, detect_layout, parse_turns

TURNS = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]


@pytest.mark.parametrize(
    ("row", "form", "columns"),
    [
        ({"prompt": "a", "completion": "b"}, "prompt_completion", {"prompt": "prompt", "completion": "completion"}),
        ({"question": "a", "answer": "b"}, "prompt_completion", {"prompt": "question", "completion": "answer"}),
        ({"Question": "a", "Answer": "b", "id": 3}, "prompt_completion", {"prompt": "Question", "completion": "Answer"}),
        ({"input": "a", "output": "b"}, "prompt_completion", {"prompt": "input", "completion": "output"}),
        ({"instruction": "a", "output": "b"}, "alpaca", {"instruction": "instruction", "output": "output"}),
        (
            {"instruction": "a", "input": "", "output": "b", "text": "c"},
            "alpaca",
            {"instruction": "instruction", "output": "output", "input": "input"},
        ),
        (
            {"instruction": "a", "context": "c", "response": "b", "category": "d"},
            "alpaca",
            {"instruction": "instruction", "output": "response", "input": "context"},
        ),
        ({"messages": TURNS, "prompt": "a"}, "messages", {"messages": "messages"}),
        (
            {"conversations": [{"from": "human", "value": "a"}], "system": "s"},
            "messages",
            {"messages": "conversations", "system": "system"},
        ),
        ({"messages": json.dumps(TURNS)}, "messages", {"messages": "messages"}),
        ({"text": "a"}, "text", {"text": "text"}),
        ({"text": "a", "label": 1}, "text", {"text": "text"}),
        ({"sentences": "a"}, "text", {"text": "sentences"}),
        ({"messages": "not a list", "text": "a"}, "text", {"text": "text"}),
    ],
)
def test_known_forms_are_detected(row, form, columns):
    layout = detect_layout([row], DataSpec())
    assert (layout.format, layout.columns, layout.found) == (form, columns, list(row))


def test_a_column_missing_in_the_first_row_is_still_found():
    assert detect_layout([{"prompt": "a"}, {"prompt": "a", "completion": "b"}], DataSpec()).format == "prompt_completion"


def test_the_form_can_be_corrected():
    row = {"instruction": "a", "input": "", "output": "b", "text": "c"}
    assert detect_layout([row], DataSpec(format="text")).columns == {"text": "text"}
    layout = detect_layout([row], DataSpec(format="prompt_completion", columns={"prompt": "instruction", "completion": "output"}))
    assert layout.columns == {"prompt": "instruction", "completion": "output"}


def test_corrected_columns_decide_the_form():
    row = {"title": "a", "body": "b", "text": "c"}
    layout = detect_layout([row], DataSpec(columns={"prompt": "title", "completion": "body"}))
    assert (layout.format, layout.columns) == ("prompt_completion", {"prompt": "title", "completion": "body"})


def test_wrong_columns_are_refused_naming_those_there_are():
    rows = [{"title": "a", "author": "b"}]
    with pytest.raises(DataError, match="title, author") as error:
        detect_layout(rows, DataSpec())
    assert "prompt, completion" in error.value.hint
    with pytest.raises(DataError, match="form alpaca: title, author"):
        detect_layout(rows, DataSpec(format="alpaca"))
    with pytest.raises(DataError, match="no column summary") as error:
        detect_layout(rows, DataSpec(columns={"text": "summary"}))
    assert "title, author" in error.value.hint
    with pytest.raises(DataError, match="no such role: answers"):
        detect_layout(rows, DataSpec(columns={"answers": "title"}))


def test_a_dataset_without_columns_is_refused():
    for rows in ([], [{}]):
        with pytest.raises(DataError, match="no rows with columns"):
            detect_layout(rows, DataSpec())


@given(
    st.dictionaries(
        st.sampled_from([name for names in NAMES.values() for name in names] + ["id", "Größe", ""]), st.text(max_size=5), min_size=1
    )
)
def test_any_columns_give_a_complete_layout_or_a_named_error(row):
    try:
        layout = detect_layout([row], DataSpec())
    except DataError as error:
        assert all(name in error.message for name in row)
        return
    assert set(ROLES[layout.format]) <= set(layout.columns)
    assert set(layout.columns.values()) <= set(row)
    assert len(set(layout.columns.values())) == len(layout.columns)


def test_the_roles_a_spec_takes_are_those_that_are_looked_for():
    assert set(COLUMN_ROLES) == set(NAMES)


def test_a_cell_is_parsed_unless_it_holds_half_of_a_character():
    assert parse_turns(json.dumps([{"role": "user", "content": "😀"}])) == [{"role": "user", "content": "😀"}]
    half = json.dumps([{"role": "user", "content": "\ud800"}])
    assert parse_turns(half) == half
