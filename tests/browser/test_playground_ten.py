"""Ten people at once, each in a browser session of their own: first come first served, places told, nobody's answer on another's page."""

from __future__ import annotations

from pathlib import Path

import torch
from playwright.sync_api import Browser, expect
from transformers import AutoModelForCausalLM, AutoTokenizer

from studio.methods.adapters import load_adapter
from tests.browser.conftest import StudioServer
from tests.browser.playground import ANSWERED, Playground, held_up
from tests.play.test_honesty import generate

PEOPLE, TOKENS = 10, 20
WATCH = """() => {
  window.places = [];
  const look = () => {
    const place = document.querySelector('#current')?.innerText.match(/Number (\\d+) in line/);
    if (place && window.places.at(-1) !== Number(place[1])) window.places.push(Number(place[1]));
  };
  new MutationObserver(look).observe(document.body, {subtree: true, childList: true, characterData: true});
}"""
"""Keeps on the page which places it was told."""


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


def test_ten_people_are_answered_in_turn_and_each_sees_their_own(browser: Browser, tiny_server: StudioServer, lively_llama, make_adapter):
    prompts = [prompt_of(person) for person in range(PEOPLE)]
    expected = expected_answers(lively_llama, make_adapter("lora", 1), prompts)
    people = [Playground(browser, tiny_server, viewport={"width": 900, "height": 700}) for _ in prompts]
    for person, prompt in zip(people, prompts, strict=True):
        person.open("System prompt, sampling, strength")
        person.set_number("New tokens at most", TOKENS)
        person.page.evaluate(WATCH)
        person.type(prompt)
    first, *others = people
    first.ask(prompts[0])
    with held_up(tiny_server.home):
        first.type(prompts[0])
        for place, person in enumerate([*others, first]):  # another question of the same person waits behind everybody's first
            person.press_answer()
            told = "Getting the model ready" if place == 0 else f"Number {place + 1} in line"
            expect(person.find("#current")).to_contain_text(told, timeout=ANSWERED)
        gone = people.pop(4)  # somebody leaves while waiting: those behind move up, those before do not
        gone.close()
        del expected[4], prompts[4]
        for place, person in enumerate(others[:3] + others[4:] + [first]):
            told = "Getting the model ready" if place == 0 else f"Number {place + 1} in line"
            expect(person.find("#current")).to_contain_text(told, timeout=ANSWERED)

    for place, person in enumerate(people):
        expect(person.turns).to_have_count(2 if person is first else 1, timeout=ANSWERED)
        kept = person.kept()
        titles = {pane["id"]: pane["title"] for pane in kept["panes"]}
        assert {turn["user"] for turn in kept["turns"]} == {prompts[place]}
        assert {titles[pane]: answer["text"] for pane, answer in kept["turns"][0]["answers"].items()} == expected[place]
        told = person.page.evaluate("window.places")
        assert told == sorted(told, reverse=True)
    for person in people:
        person.close()
