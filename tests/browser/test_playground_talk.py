"""Talking in the Playground: turns, edit, retry, export and import, the rendered prompt, the memory, and input that cannot be used."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from playwright.sync_api import expect
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.browser.conftest import StudioServer
from tests.browser.playground import ANSWERED, Playground, held_up
from tests.play.test_honesty import generate

FIRST, SECOND = "Count the words in the text.", "Return the largest value."


def test_a_conversation_is_asked_edited_retried_exported_and_brought_in_elsewhere(playground: Playground, browser, tiny_server, tmp_path):
    playground.page.get_by_role("button", name="System prompt, sampling, strength").click()
    playground.set_number("New tokens at most", 24)
    first = playground.ask(FIRST)
    expect(first.locator(".pane h3")).to_have_text(["Base", "tuned"])
    expect(first.locator(".how").last).to_contain_text("together in one batch")
    second = playground.ask(SECOND)
    expect(second.locator(".how").last).to_contain_text("together in one batch")
    kept = playground.kept()
    assert [turn["user"] for turn in kept["turns"]] == [FIRST, SECOND]

    playground.retry(second)
    expect(playground.turns).to_have_count(2)
    assert playground.kept()["turns"][1]["answers"]["base"]["text"] == kept["turns"][1]["answers"]["base"]["text"]

    playground.turns.first.get_by_role("button", name="Edit").click()
    expect(playground.find("#prompt textarea")).to_have_value(FIRST)
    playground.type("Count the lines.")
    playground.press_answer()
    expect(playground.turns).to_have_count(1, timeout=ANSWERED)
    expect(playground.turns.first.locator(".question")).to_contain_text("Count the lines.")

    with playground.page.expect_download() as download:
        playground.page.get_by_role("button", name="Export").click()
    file = tmp_path / "conversation.json"
    download.value.save_as(file)
    assert [turn["user"] for turn in json.loads(file.read_text())["turns"]] == ["Count the lines."]

    playground.page.get_by_role("button", name="New conversation").click()
    expect(playground.find("#thread")).to_contain_text("Nothing asked yet")
    other = Playground(browser, tiny_server)
    with other.page.expect_file_chooser() as chooser:
        other.page.get_by_role("button", name="Import").click()
    chooser.value.set_files(file)
    expect(other.turns).to_have_count(1)
    expect(other.turns.first).to_contain_text("Count the lines.")
    other.reload()
    expect(other.turns.first).to_contain_text("Count the lines.")
    other.ask(FIRST)
    other.reload()
    expect(other.turns).to_have_count(2)
    other.close()


def test_while_an_answer_comes_what_is_typed_stays_and_clicks_are_answered(playground: Playground, tiny_server: StudioServer):
    first = playground.ask(FIRST)
    toast = playground.page.locator(".toast-body")
    with held_up(tiny_server.home):
        playground.type(SECOND)
        playground.press_answer()
        expect(playground.find("#current")).to_contain_text(SECOND)
        playground.type("Return the smallest value.")
        again = [first.get_by_role("button", name=name) for name in ("Edit", "Retry")]
        for button in (*again, playground.find("#new-conversation")):
            button.click()
            expect(toast).to_contain_text("busy with a question")
            toast.get_by_test_id("toast-close").click()
            expect(toast).to_have_count(0)
    expect(playground.turns).to_have_count(2, timeout=ANSWERED)
    expect(playground.find("#prompt textarea")).to_have_value("Return the smallest value.")
    assert [turn["user"] for turn in playground.kept()["turns"]] == [FIRST, SECOND]


def test_an_edit_is_told_cancelled_and_forgotten_by_an_import(playground: Playground, tmp_path: Path):
    playground.page.get_by_role("button", name="System prompt, sampling, strength").click()
    playground.set_number("New tokens at most", 24)
    playground.ask(FIRST)
    playground.ask(SECOND)
    first = playground.turns.first
    cancel = playground.find("#cancel-edit")
    expect(cancel).to_be_hidden()
    first.get_by_role("button", name="Edit").click()
    expect(cancel).to_have_text("Cancel the edit of question 1")
    cancel.click()
    expect(playground.find("#prompt textarea")).to_have_value("")
    expect(cancel).to_be_hidden()
    (tmp_path / "kept.json").write_text(json.dumps(playground.kept()))
    first.get_by_role("button", name="Edit").click()
    expect(cancel).to_be_visible()
    with playground.page.expect_file_chooser() as chooser:
        playground.page.get_by_role("button", name="Import").click()
    chooser.value.set_files(tmp_path / "kept.json")
    expect(cancel).to_be_hidden()
    playground.ask("Return the smallest value.")
    expect(playground.turns).to_have_count(3)


def test_two_clicks_on_one_vote_count_once(playground: Playground, tiny_server: StudioServer):
    turn = playground.ask(FIRST)
    turn.get_by_role("button", name="tuned is better").dblclick()
    expect(playground.turns.first.locator(".verdict")).to_contain_text("1 better")
    expect(playground.page.locator(".toast-body")).to_contain_text(re.compile("busy with|has changed since"))
    (votes,) = tiny_server.home.glob("runs/*/votes.jsonl")
    assert len(votes.read_text().splitlines()) == 1


def test_a_file_that_holds_no_conversation_is_refused_and_the_conversation_stays(playground: Playground, tmp_path: Path):
    playground.ask(FIRST)
    for name, text, said in (("a.json", "{", "no JSON"), ("b.json", '{"turns": 3}', "no conversation"),
                             ("c.json", '{"peft_studio_conversation": 1, "panes": 3}', "damaged")):  # fmt: skip
        (tmp_path / name).write_text(text)
        with playground.page.expect_file_chooser() as chooser:
            playground.page.get_by_role("button", name="Import").click()
        chooser.value.set_files(tmp_path / name)
        expect(playground.page.locator(".toast-body").last).to_contain_text(said)
        expect(playground.turns).to_have_count(1)


def test_the_prompt_as_text_and_tokens_is_what_the_model_reads(playground: Playground, lively_llama: Path):
    playground.type(FIRST)
    playground.page.get_by_role("button", name="The prompt as the model sees it").click()
    playground.find("#render-prompt").click()
    tokenizer = AutoTokenizer.from_pretrained(lively_llama)
    text = tokenizer.apply_chat_template([{"role": "user", "content": FIRST}], tokenize=False, add_generation_prompt=True)
    shown = playground.find("#rendered .prompt-tokens")
    expect(shown).to_be_visible(timeout=ANSWERED)
    assert shown.inner_text().replace("⏎", "") == text
    ids = [int(span.get_attribute("title") or -1) for span in shown.locator("> span").all()]
    assert ids == tokenizer(text, add_special_tokens=False)["input_ids"]
    expect(shown.locator(".special").first).to_have_text("<|im_start|>")
    expect(playground.find("#play-memory")).to_contain_text("In memory: the base")


@pytest.mark.parametrize(("prompt", "said"), [("   ", "The prompt is empty"), ("list " * 700, r"[\d,]+ too long to leave room")])
def test_a_prompt_that_cannot_be_answered_is_named_and_stays_typed(playground: Playground, prompt: str, said: str):
    playground.ask(FIRST)
    playground.type(prompt)
    playground.press_answer()
    expect(playground.page.locator(".toast-body").last).to_contain_text(re.compile(said), timeout=ANSWERED)
    expect(playground.find("#prompt textarea")).to_have_value(prompt)
    expect(playground.find("#current")).to_be_empty()
    expect(playground.turns).to_have_count(1)


ODD = '<img src=x onerror="window.hurt=1"><script>window.hurt=1</script><b>bold</b> & \u202egnp.exe\u202c שלום {{7*7}}'


def test_markup_and_turned_text_in_a_prompt_are_shown_as_they_are(playground: Playground):
    turn = playground.ask(ODD)
    question = turn.locator(".question pre")
    expect(question).to_contain_text('<img src=x onerror="window.hurt=1"><script>window.hurt=1</script><b>bold</b> &')
    expect(question).to_contain_text("U+202Egnp.exeU+202C שלום {{7*7}}")
    assert question.locator("img, script, b").count() == 0
    assert playground.page.evaluate("window.hurt") is None
    playground.reload()
    expect(playground.turns).to_have_count(1)
    assert playground.kept()["turns"][0]["user"] == ODD
    assert playground.page.evaluate("window.hurt") is None


def test_the_memory_is_freed_by_its_button_and_the_next_question_takes_it_again(playground: Playground, lively_llama: Path):
    model = AutoModelForCausalLM.from_pretrained(lively_llama, dtype=torch.float32).eval()
    expected = generate(model, AutoTokenizer.from_pretrained(lively_llama), [{"role": "user", "content": FIRST}], 256)
    for _ in range(2):
        turn = playground.ask(FIRST)
        expect(playground.find("#play-memory")).to_contain_text("the process holds")
        assert playground.kept()["turns"][-1]["answers"]["base"]["text"] == expected
        figures = re.compile(r"tokens · .* tokens/s · first after .* s · .* · ended by \w+")
        expect(turn.locator(".pane footer p").first).to_have_text(figures)
        playground.find("#free-memory").click()
        expect(playground.find("#play-memory")).to_contain_text("No model in memory")
        playground.find("#new-conversation").click()
        expect(playground.turns).to_have_count(0)
