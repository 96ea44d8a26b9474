"""Ten people at once, each in a browser session of their own: first come first served, places told, nobody's answer on another's page."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import torch
from playwright.sync_api import Browser, expect
from transformers import AutoModelForCausalLM, AutoTokenizer

from studio.core.files import read_json
from studio.core.paths import StudioHome
from studio.methods.adapters import load_adapter
from tests.browser.conftest import StudioServer
from tests.browser.playground import ANSWERED, Playground
from tests.play.test_honesty import generate

PEOPLE, TOKENS, OUT_OF_TURN = 10, 20, 2
WATCH = """() => {
  window.places = []; window.ended = [];
  const look = () => {
    const place = document.querySelector('#current')?.innerText.match(/Number (\\d+) in line/);
    if (place && window.places.at(-1) !== Number(place[1])) window.places.push(Number(place[1]));
    const turns = document.querySelectorAll('#thread .turn').length;
    while (turns > window.ended.length) window.ended.push(Date.now());
  };
  new MutationObserver(look).observe(document.body, {subtree: true, childList: true, characterData: true});
}"""
"""Keeps on the page which places it was told, and when each turn was there in full."""


def prompt_of(person: int) -> str:
    return f"Count the words of text {person}. " + "list " * person


def expected_answers(model_folder: Path, adapter: Path, prompts: list[str]) -> list[dict[str, str]]:
    """What plain transformers answers to each prompt: of the base, and of the adapter."""
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    base = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32).eval()
    answers = [{"Base": generate(base, tokenizer, [{"role": "user", "content": prompt}], TOKENS)} for prompt in prompts]
    tuned = load_adapter(base, adapter, "default")
    for answer, prompt in zip(answers, prompts, strict=True):
        answer["tuned"] = generate(tuned, tokenizer, [{"role": "user", "content": prompt}], TOKENS)
    return answers


@contextlib.contextmanager
def held_up(home: Path) -> Iterator[None]:
    """Within it the model's process stands still, so that whoever asks stays in line."""
    pid = read_json(StudioHome.find(home).playground)["pid"]
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def test_ten_people_are_answered_in_turn_and_each_sees_their_own(browser: Browser, tiny_server: StudioServer, lively_llama, make_adapter):
    prompts = [prompt_of(person) for person in range(PEOPLE)]
    expected = expected_answers(lively_llama, make_adapter("lora", 1), prompts)
    people = [Playground(browser, tiny_server, viewport={"width": 900, "height": 700}) for _ in prompts]
    for person, prompt in zip(people, prompts, strict=True):
        person.open("System prompt, sampling, strength")
        person.set_number("New tokens at most", TOKENS)
        person.page.evaluate(WATCH)
        person.type(prompt)
    first = people[0]
    first.ask(prompts[0])
    with held_up(tiny_server.home):
        first.type(prompts[0])
        for place, person in enumerate(people):
            person.press_answer()
            told = "Getting the model ready" if place == 0 else f"Number {place + 1} in line"
            expect(person.find("#current")).to_contain_text(told, timeout=ANSWERED)
        gone = people.pop(4)  # somebody leaves while waiting: the others move up
        gone.close()
        del expected[4], prompts[4]

    expect(first.turns).to_have_count(2, timeout=ANSWERED)
    first.type(prompts[0])
    first.press_answer()  # another question of the same person waits behind everybody's first

    for person in people:
        expect(person.turns.first).to_be_visible(timeout=ANSWERED)
    expect(first.turns).to_have_count(3, timeout=ANSWERED)
    ended = [person.page.evaluate("window.ended") for person in people]
    # When a page has drawn an answer is told by the page, and a busy browser draws two pages out of turn now and then; the line itself
    # is tested in tests/ui/test_play_room.py.
    drawn = [ended[0][1], *(times[0] for times in ended[1:]), ended[0][2]]
    order = sorted(range(len(drawn)), key=drawn.__getitem__)
    assert all(abs(place - person) <= OUT_OF_TURN for place, person in enumerate(order)), drawn
    for place, person in enumerate(people):
        kept = person.kept()
        assert [turn["user"] for turn in kept["turns"]] == [prompts[place]] * (3 if place == 0 else 1)
        titles = {pane["id"]: pane["title"] for pane in kept["panes"]}
        assert {titles[pane]: answer["text"] for pane, answer in kept["turns"][0]["answers"].items()} == expected[place]
        told = person.page.evaluate("window.places")
        assert place == 0 or (told[0] == place + 1 + (place >= 4) and told == sorted(told, reverse=True)), told
    for person in people:
        person.close()
