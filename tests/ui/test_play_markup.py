"""What people and models wrote is shown as text: never as markup, never hidden, never turned around."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from studio.core.errors import PlayError
from studio.ui import play_markup
from studio.ui.code_view import answer_html, show_code, show_text
from studio.ui.conversation import Conversation, Pane, Turn
from studio.ui.play_closer import closer_html, read_prompts, write_table

EVIL = "<script>alert(1)</script><img src=x onerror=\"alert(2)\">' onmouseover='alert(3)"

TEST = {"name": EVIL, "passed": False, "message": EVIL}


def answer(text, **more):
    return {"text": text, "tokens": 40, "seconds": 2.0, "first_token_s": 0.5, "stopped_by": "token limit", "blocks": []} | more


def conversation(**turn):
    panes = (Pane("base", "Base"), Pane(f"run:{EVIL}", EVIL))
    return Conversation("", panes, (Turn(EVIL, {pane.id: answer(EVIL) for pane in panes}, **turn),))


@pytest.mark.parametrize("html", [
    play_markup.thread_html(conversation()),
    play_markup.thread_html(conversation(runs={"base": {"summary": EVIL, "stdout": EVIL, "tests": [TEST]}})),
    play_markup.thread_html(conversation(vote={"winner": "base", "tally": EVIL})),
    play_markup.writing_html(EVIL, [Pane("base", EVIL)], {"base": EVIL}, ["base"]),
    play_markup.rendered_html({"tokens": [{"id": 1, "text": EVIL, "special": False}], "context": 9}),
    play_markup.diff_html([{"kind": "added", "text": EVIL}], EVIL, EVIL),
    answer_html(f"```\n{EVIL}\n```", [{"code": EVIL, "language": EVIL, "python": False, "first_line": 1, "end_line": 2}]),
    show_code(EVIL, "python"),
])  # fmt: skip
def test_no_markup_gets_through(html):
    found = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attributes: found.extend([tag, *(name for name, _ in attributes)])
    parser.feed(html)
    assert found and not [name for name in found if name in ("script", "img") or name.startswith("on")]


@pytest.mark.parametrize("character", ["\u202e", "\u2066", "\u200b", "\ufeff", "\x00", "\x1b", "\U000e0041"])
def test_unseen_characters_are_seen(character):
    assert character not in show_text(f"a{character}b")
    assert f"U+{ord(character):04X}" in show_text(f"a{character}b")
    assert character not in show_code(f"x = '{character}'", "python")


def test_ordinary_text_stays_as_it_is():
    assert show_text("שלום 日本 👩‍💻\n\ttab") == "שלום 日本 👩‍💻\n\ttab"


def test_code_is_set_off_from_the_words_around_it_and_loses_nothing():
    text = "Here:\n```python\nx = 1\n```\nThat is all."
    html = answer_html(text, [{"code": "x = 1", "language": "python", "python": True, "first_line": 2, "end_line": 3}])
    assert re.sub(r"<[^>]+>", "|", html).replace("|", "") == "Here:x = 1That is all."
    assert '<pre class="code"' in html and "```" not in html


def test_formatted_code_is_shown_with_what_was_written_behind_a_switch():
    block = {"code": "x=1", "language": "python", "python": True, "first_line": 1, "end_line": 2}
    html = answer_html("```python\nx=1\n```", [block | {"formatted": "x = 1", "unformatted": ""}])
    shown, hidden = re.findall(r"<pre class=\"code\" tabindex=\"0\"( hidden)?>(.*?)</pre>", html)
    assert (shown[0], re.sub("<[^>]+>", "", shown[1])) == ("", "x = 1")
    assert (hidden[0], re.sub("<[^>]+>", "", hidden[1])) == (" hidden", "x=1")
    assert 'data-do="layout"' in html and "what runs is the code as written" in html
    html = answer_html("```python\nx=1\n```", [block | {"formatted": "", "unformatted": f"It does not parse {EVIL}"}])
    assert "Shown as written. It does not parse &lt;script&gt;" in html and "data-do" not in html


def test_the_figures_under_an_answer():
    html = play_markup.thread_html(
        conversation(how={"mixed_batch": True, "dtype": "bfloat16", "quantization": "none", "prompt_tokens": 12})
    )
    assert "40 tokens · 20.0 tokens/s · first after 0.50 s · 2 s · ended by token limit" in html
    assert "Answered together in one batch by one model in memory (bfloat16) · prompt 12 tokens · always the likeliest token." in html
    passes = {"mixed_batch": False, "passes": [["base"], [f"run:{EVIL}"]], "temperature": 1.0, "seed": 7}
    html = play_markup.thread_html(conversation(how=passes))
    assert "Answered in 2 passes (Base, then " in html and "seed 7" in html


def test_copies_of_the_base_are_told_with_how_each_is_held_and_how_much_it_takes():
    how = {"passes": [["base"], ["x"]], "dtype": "bfloat16", "quantization": "none", "copies": {"x": "NF4"}, "apart": "By itself."}
    html = play_markup.thread_html(conversation(how=how))
    assert "Answered in 2 passes (Base, then x) by 2 copies of the base in memory (bfloat16, NF4)" in html
    assert "likeliest token. By itself.</p>" in html
    loaded = {"loaded": True, "quantization": "none", "dtype": "bfloat16", "base_bytes": 269_000_000, "memory_bytes": 900_000_000}
    loaded |= {"adapters": {"a": ""}, "copies": {"x": {"quantization": "nf4", "dtype": "bfloat16", "base_bytes": 113_000_000}}}
    assert "the base in bfloat16 (269 MB) and in NF4 (113 MB), with 1 adapter; the process holds 900 MB." in play_markup.memory_html(loaded)


def test_a_blind_turn_tells_nothing_before_the_vote_and_all_after():
    panes = (Pane("base", "Base"), Pane("run:x", "Tuned"))
    turn = Turn("q", {"base": answer("one"), "run:x": answer("two")}, how={"blind": True, "order": ["run:x", "base"]})
    html = play_markup.thread_html(Conversation("", panes, (turn,)))
    shown = re.sub(r'data-pane="[^"]*"', "", html)
    assert "Tuned" not in shown and ">Base<" not in shown and "tokens/s" not in shown and html.index("two") < html.index("one")
    voted = Turn("q", turn.answers, how=turn.how, vote={"winner": "run:x", "tally": ""})
    html = play_markup.thread_html(Conversation("", panes, (voted,)))
    assert "Tuned" in html and "tokens/s" in html and "You found Tuned better." in html


def test_the_closer_look_names_where_paths_part():
    def side(logprob, word, kl=0.0):
        return {"logprob": logprob, "kl": kl, "top": [[word, 0.5]]}

    tokens = [{"text": "a", "panes": {"base": side(-1.0, "a"), "t": side(-1.0, "a")}},
              {"text": "<b>", "panes": {"base": side(-3.0, "c"), "t": side(-0.5, "<b>", 1.25)}}]  # fmt: skip
    html = closer_html({"tokens": tokens, "perplexity": {"base": 7.389, "t": 2.117}}, [Pane("base", "Base"), Pane("t", "Tuned")])
    assert (
        "first at token 2" in html and "7.39" in html and "2.12" in html and "mean 0.625 nats, largest 1.250" in html and "<b>&" not in html
    )


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("a.txt", "one\n\n two \n", ["one", "two"]),
        ("a.jsonl", '{"prompt": "one"}\n"two"\n', ["one", "two"]),
        ("a.json", '[{"instruction": "one"}, "two"]', ["one", "two"]),
        ("a.csv", 'id,prompt\n1,"one, or so"\n2,two\n', ["one, or so", "two"]),
    ],
)
def test_prompts_are_read_from_every_kind_of_file(name, text, found, tmp_path):
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert read_prompts(tmp_path / name) == found


@pytest.mark.parametrize(
    ("name", "text", "named"),
    [
        ("a.txt", "\n", "holds no prompts"),
        ("a.jsonl", '{"prompt": "one"}\n{', "Line 2"),
        ("a.csv", "id\n1\n", "row 1"),
        ("a.json", "[", "no JSON"),
    ],
)
def test_files_without_prompts_are_named(name, text, named, tmp_path):
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(PlayError, match=named):
        read_prompts(tmp_path / name)


def test_a_table_holds_no_formulas():
    path = write_table([Pane("base", "Base")], [["p", "=1+1"]])
    assert path.read_text(encoding="utf-8").splitlines() == ["prompt,Base", "p,'=1+1"]
