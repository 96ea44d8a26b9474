"""A conversation over several panes: whose history is whose, what an edit takes away, and what is refused on the way in."""

from __future__ import annotations

import json

import pytest

from studio.core.errors import PlayError
from studio.ui.conversation import Conversation, Pane, Turn

BASE = {"id": "base", "title": "Base"}


def answer(text):
    return {"text": text, "tokens": 3, "seconds": 1.0, "first_token_s": 0.5, "memory_bytes": 0.0, "prompt_tokens": 9,
            "stopped_by": "end of answer",
            "blocks": [{"code": "x", "language": "python", "python": True, "first_line": 0, "end_line": 1, "formatted": "",
                        "unformatted": ""}]}  # fmt: skip


def made():
    panes = (Pane("base", "Base"), Pane("run:a", "A"))
    turns = (Turn("one", {"base": answer("b1"), "run:a": answer("a1")}), Turn("two", {"base": answer("b2"), "run:a": answer("a2")}))
    return Conversation("Be brief.", panes, turns)


def test_each_pane_is_sent_its_own_answers_and_the_same_questions():
    for pane, letter in (("base", "b"), ("run:a", "a")):
        messages = made().messages(pane, "three")
        assert [message["content"] for message in messages] == ["Be brief.", "one", f"{letter}1", "two", f"{letter}2", "three"]
        assert [message["role"] for message in messages] == ["system", "user", "assistant", "user", "assistant", "user"]


def test_editing_a_message_takes_it_and_what_came_after_away():
    assert [message["content"] for message in made().before(1).messages("base", "new")] == ["Be brief.", "one", "b1", "new"]
    assert made().before(0).turns == ()


def test_it_comes_back_from_the_browser_as_it_was():
    assert Conversation.from_json(made().to_json()) == made()
    assert Conversation.from_json("") == Conversation()


def test_a_begun_conversation_keeps_its_panes_and_its_system_prompt():
    assert made().asked_of(made().panes[:1], "Other.").system == "Be brief."
    assert Conversation().asked_of(made().panes, "Other.").system == "Other."
    with pytest.raises(PlayError, match="begun with other adapters"):
        made().asked_of((Pane("run:b", "B"),), "")


def test_a_turn_that_is_gone_is_named():
    with pytest.raises(PlayError, match="no longer there"):
        made().with_changed(2, vote={})


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("{", "no JSON"), ("[]", "no conversation"), ("{}", "no conversation"), ('{"peft_studio_conversation": 1}', "damaged"),
        (json.dumps({"peft_studio_conversation": 1, "system": 3, "panes": [], "turns": []}), "damaged"),
        (json.dumps({"peft_studio_conversation": 1, "system": "", "panes": [], "turns": []}), "panes"),
        (json.dumps({"peft_studio_conversation": 1, "system": "", "panes": [BASE], "turns": [{"user": []}]}), "damaged"),
        ("x" * 4_000_001, "too long"),
    ],
)  # fmt: skip
def test_files_that_hold_no_conversation_are_named(text, named):
    with pytest.raises(PlayError, match=named):
        Conversation.from_json(text)


@pytest.mark.parametrize("how", [{"prompt_tokens": {}}, {"copies": "x"}, {"order": 5}, {"passes": 1}, {"strengths": {"base": "x"}}, 7])
def test_how_a_turn_was_answered_is_damaged_too(how):
    data = {"peft_studio_conversation": 1, "system": "", "panes": [BASE], "turns": [{"user": "q", "answers": {}, "how": how}]}
    with pytest.raises(PlayError, match="damaged"):
        Conversation.from_json(json.dumps(data))


@pytest.mark.parametrize("number", ["1e400", '"nonsense"', "NaN", "9" * 5000])
@pytest.mark.parametrize("key", ["tokens", "seconds"])
def test_numbers_that_are_none_are_damage(key, number):
    answers = {"base": {"text": "a", key: 123456}}
    data = {"peft_studio_conversation": 1, "system": "", "panes": [BASE], "turns": [{"user": "q", "answers": answers}]}
    text = json.dumps(data).replace("123456", number)
    with pytest.raises(PlayError, match=r"damaged|no JSON"):
        Conversation.from_json(text)


def test_nesting_without_end_is_no_conversation():
    with pytest.raises(PlayError, match="no JSON"):
        Conversation.from_json("[" * 200_000)
