"""Rows of every form become the same conversation; what is broken is named by its line."""

from __future__ import annotations

import json

import pytest

from studio.core.errors import DataError
from studio.core.spec import DataSpec
from studio.data.detect import detect_layout
from studio.data.examples import make_example
from studio.data.read import Row

TURNS = [{"role": "user", "content": "Question"}, {"role": "assistant", "content": "  Answer"}]


def example_of(values, system_prompt="", spec=None):
    return make_example(Row(values, 7, "rows.jsonl"), detect_layout([values], spec or DataSpec()), system_prompt)


@pytest.mark.parametrize(
    "values",
    [
        {"prompt": "Question", "completion": "  Answer"},
        {"prompt": TURNS[:1], "completion": TURNS[1:]},
        {"instruction": "Question", "input": "", "output": "  Answer"},
        {"instruction": "Question", "input": None, "output": "  Answer"},
        {"messages": TURNS},
        {"messages": json.dumps(TURNS)},
        {"messages": [*TURNS, {"role": "user", "content": "never answered"}]},
        {"messages": [{"role": "assistant", "content": "Hello!"}, *TURNS]},
        {"conversations": [{"from": "human", "value": "Question"}, {"from": "gpt", "value": "  Answer"}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "Question"}]}, TURNS[1]]},
    ],
)
def test_every_form_becomes_the_same_conversation(values):
    example = example_of(values)
    assert example.messages == TURNS
    assert example.text is None
    assert example.provenance == {"file": "rows.jsonl", "line": 7}


def test_alpaca_joins_instruction_and_input():
    example = example_of({"instruction": "Sort.", "input": "3 1", "output": "1 3"})
    assert example.messages[0]["content"] == "Sort.\n\n3 1"


def test_plain_text_is_kept_as_it_stands():
    example = example_of({"text": "  def f():\n"})
    assert (example.text, example.messages) == ("  def f():\n", None)


def test_the_system_prompt_comes_from_the_row_else_from_the_settings():
    assert example_of({"messages": TURNS}, "Be brief.").messages[0] == {"role": "system", "content": "Be brief."}
    assert example_of({"prompt": "a", "completion": "b", "system": "Own."}, "Be brief.").messages[0]["content"] == "Own."
    own = [{"role": "system", "content": "Own."}, *TURNS]
    assert example_of({"messages": own}, "Be brief.").messages == own


def test_provenance_given_in_the_row_is_kept():
    given = {"package": "p", "module": "p.m", "line": 3}
    example = example_of({"prompt": "a", "completion": "b", "provenance": given})
    assert example.provenance == given
    assert example.place == "p.m, line 3"


@pytest.mark.parametrize(
    "values",
    [
        {"prompt": "", "completion": "b"},
        {"prompt": "a", "completion": " \n"},
        {"prompt": "a", "completion": None},
        {"instruction": " ", "input": "", "output": "b"},
        {"text": "\n "},
        {"messages": [{"role": "user", "content": "never answered"}]},
        {"messages": [{"role": "assistant", "content": "never asked"}]},
        {"messages": [{"role": "system", "content": "only"}, {"role": "user", "content": "a"}]},
        {"messages": [TURNS[0], {"role": "assistant", "content": ""}, *TURNS]},
        {"messages": [{"role": "user", "content": ""}, TURNS[1]]},
    ],
)
def test_rows_with_nothing_to_learn_are_empty(values):
    assert example_of(values) is None


def test_rows_without_the_column_are_empty():
    layout = detect_layout([{"prompt": "a", "completion": "b"}], DataSpec())
    assert make_example(Row({"prompt": "a"}, 1, ""), layout) is None
    layout = detect_layout([{"messages": TURNS}], DataSpec())
    assert make_example(Row({"other": 1}, 1, ""), layout) is None


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"prompt": {"a": 1}, "completion": "b"}, "line 7: the column prompt holds a dict"),
        ({"messages": [{"role": "narrator", "content": "a"}]}, "line 7: turn 1 is spoken by 'narrator'"),
        ({"messages": [*TURNS, "text"]}, "line 7: turn 3 is no object"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "line 7: turn 1 holds something other than text"),
    ],
)
def test_a_row_that_makes_no_sense_is_named_by_its_line(values, message):
    with pytest.raises(DataError) as error:
        example_of(values)
    assert message in error.value.message
    assert error.value.message.startswith("rows.jsonl")
    assert error.value.hint


def test_a_cell_that_is_no_list_of_turns_is_named():
    layout = detect_layout([{"messages": TURNS}], DataSpec())
    with pytest.raises(DataError, match="row 9: the column messages holds no list of turns"):
        make_example(Row({"messages": "hello"}, 9, ""), layout)


def test_numbers_are_read_as_text():
    assert example_of({"question": "6 * 7?", "answer": 42}).messages[1]["content"] == "42"


def test_an_answer_before_the_first_question_is_left_out_and_the_system_prompt_stays():
    system = {"role": "system", "content": "Own."}
    greeting = {"role": "assistant", "content": "Hello!"}
    assert example_of({"messages": [system, greeting, greeting, *TURNS]}).messages == [system, *TURNS]


def test_a_cell_that_holds_half_of_a_character_is_one_broken_row():
    layout = detect_layout([{"messages": json.dumps(TURNS)}], DataSpec())
    half = json.dumps([{"role": "user", "content": "\ud800"}, TURNS[1]])
    with pytest.raises(DataError, match="row 9: the column messages holds no list of turns"):
        make_example(Row({"messages": half}, 9, ""), layout)
