"""Judging in the Playground: a closer look at an answer, the strength of an adapter, votes by eye and blind, a file of prompts."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest
from playwright.sync_api import Locator, expect

from studio.core.paths import StudioHome
from studio.jobs.votes import wilson_interval
from tests.browser.conftest import StudioServer
from tests.browser.playground import ANSWERED, Playground

FIRST = "Count the words in the text."
SETTINGS = "System prompt, sampling, strength"


@pytest.fixture
def short(playground: Playground) -> Playground:
    """Answers of 24 tokens."""
    playground.open(SETTINGS)
    playground.set_number("New tokens at most", 24)
    return playground


def look(playground: Playground, text: str) -> Locator:
    """Look closer at `text` as the answer; the tokens, coloured."""
    playground.find("#closer-text textarea").fill(text)
    playground.find("#closer .closer").evaluate_all("found => found.forEach(one => one.remove())")
    playground.find("#look-closer").click()
    tokens = playground.find("#closer .closer > span")
    expect(tokens.first).to_be_visible(timeout=ANSWERED)
    return tokens


def colours(tokens: Locator) -> list[str]:
    return tokens.evaluate_all("all => all.map(one => getComputedStyle(one).backgroundColor)")


def test_a_closer_look_colours_what_the_adapter_changed_and_follows_its_strength(short: Playground):
    short.ask(FIRST)
    short.open("Look closer: what the adapter changed")
    tokens = look(short, "def largest(values): return max(values)")
    assert "".join(tokens.all_inner_texts()) == "def largest(values): return max(values)"
    differences = []
    for colour, title in zip(colours(tokens), tokens.evaluate_all("all => all.map(one => one.title)"), strict=True):
        base, adapter = map(float, re.findall(r"(?:base|beside it) (-?[\d.]+)", title.splitlines()[0]))
        assert len(re.findall(r"\d+ %", title)) == 10, title  # five alternatives of either side
        red, _, blue = (float(part) for part in re.findall(r"[\d.]+", colour)[:3])
        differences.append(adapter - base)
        if abs(adapter - base) > 0.3:
            assert (red > blue) == (adapter > base), (colour, title)  # orange where it became likelier, blue where less
    assert min(differences) < -0.3 and max(differences) > 0.3
    bars = short.find("#closer .kl i")
    assert bars.count() == tokens.count()
    largest = max(float(re.search(r"([\d.]+) nats", title)[1]) for title in bars.evaluate_all("all => all.map(one => one.title)"))
    expect(short.find("#closer .how")).to_contain_text(f"largest {largest:.3f}")
    figures = short.find("#closer .stat b").all_inner_texts()
    assert len(figures) == 2 and figures[0] != figures[1]

    strength = short.find("#strength input[type=number]")
    strength.fill("0")
    strength.press("Tab")
    tokens = look(short, "def largest(values): return max(values)")
    expect(short.find("#closer .how")).to_contain_text("mean 0.000 nats, largest 0.000")
    same = short.find("#closer .stat b").all_inner_texts()
    assert same[0] == same[1] == figures[0]
    expect(short.find("#closer .legend-closer")).to_contain_text("do not part")
    short.find("#new-conversation").click()
    expect(short.turns).to_have_count(0)
    turn = short.ask(FIRST)
    answers = short.kept()["turns"][-1]["answers"]
    assert len({answer["text"] for answer in answers.values()}) == 1
    expect(turn.locator(".how").last).to_contain_text("tuned at strength 0")


def test_a_text_from_a_page_is_looked_at_as_text(short: Playground):
    short.ask(FIRST)
    short.open("Look closer: what the adapter changed")
    text = "<b onclick=1>\u202e&amp;"
    tokens = look(short, text)
    assert short.find("#closer .closer b").count() == 0
    assert "".join(tokens.all_inner_texts()).count("U+202E") <= 1  # one mark, or its bytes one by one
    assert "<b onclick=1>" in "".join(tokens.all_inner_texts())


def test_votes_by_eye_and_blind_are_tallied_with_their_interval_and_each_counts_once(short: Playground, tiny_server: StudioServer):
    paths = next(StudioHome.find(tiny_server.home).runs.glob("*-tuned"))
    turn = short.ask(FIRST)
    turn.get_by_role("button", name="tuned is better").click()
    low, high = wilson_interval(1, 1)
    interval = f"(95 % interval {100 * low:.0f} % to {100 * high:.0f} %)"
    expect(turn.locator(".verdict")).to_contain_text(f"1 better, 0 worse, 0 tied: better in 100 % of decided votes {interval}")
    expect(turn.get_by_role("button", name="is better")).to_have_count(0)

    short.page.get_by_label("Blind: hide and shuffle").check()
    orders = set()
    for count in range(2, 7):
        turn = short.ask(f"{FIRST} {count}")
        expect(turn.locator(".pane h3")).to_have_text(["Answer A", "Answer B"])
        assert turn.locator(".pane.base, .pane.adapted, .pane footer p").count() == 0
        assert "tuned" not in turn.inner_text() and "Base" not in turn.inner_text()
        turn.get_by_role("button", name="Answer A is better").click()
        expect(turn.locator(".pane h3").first).not_to_have_text("Answer A")
        names = turn.locator(".pane h3").all_inner_texts()
        orders.add(tuple(names))
        expect(turn.locator(".verdict b")).to_have_text(f"You found {names[0]} better.")
        if len(orders) == 2:
            break
    votes = [json.loads(line) for line in (paths / "votes.jsonl").read_text().splitlines()]
    assert [vote["blind"] for vote in votes] == [False] + [True] * (count - 1)
    better = sum(vote["verdict"] == "better" for vote in votes)
    low, high = wilson_interval(better, count)
    share = 100 * better / count
    expect(turn.locator(".verdict")).to_contain_text(f"{better} better, {count - better} worse, 0 tied: better in {share:.0f} %")
    expect(turn.locator(".verdict")).to_contain_text(f"(95 % interval {100 * low:.0f} % to {100 * high:.0f} %)")
    turn = short.ask("Return the largest value.")
    turn.get_by_role("button", name="Tie").click()
    expect(turn.locator(".verdict")).to_contain_text(f"{count - better} worse, 1 tied")


def bring(playground: Playground, file: Path) -> None:
    with playground.page.expect_file_chooser() as chooser:
        playground.find("#prompts-file").click()
    chooser.value.set_files(file)


def test_a_file_of_prompts_becomes_a_table_and_a_csv(short: Playground, tmp_path: Path):
    prompts = ["=1+1", '<img src=x onerror="window.hurt=1">', 'Return the largest, and "quote" it.']
    file = tmp_path / "prompts.jsonl"
    file.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts))
    short.open("Many prompts from a file")
    bring(short, file)
    table = short.find("#prompts-table")
    expect(table).to_contain_text("3 of 3 prompts answered.", timeout=ANSWERED)
    expect(table.locator("th")).to_have_text(["Prompt", "Base", "tuned"])
    expect(table.locator("tbody tr")).to_have_count(3)
    assert table.locator("img").count() == 0 and short.page.evaluate("window.hurt") is None
    with short.page.expect_download() as download:
        short.page.locator("a[download='answers.csv']").click()
    with Path(download.value.path()).open(encoding="utf-8", newline="") as saved:
        rows = list(csv.reader(saved))
    assert rows[0] == ["prompt", "Base", "tuned"]
    assert [row[0] for row in rows[1:]] == ["'=1+1", *prompts[1:]]
    assert all(base and tuned and base != tuned for _, base, tuned in rows[1:])

    file.write_text('{"prompt": "fine"}\n{"nothing": 1}\n')
    bring(short, file)
    expect(short.page.locator(".toast-body").last).to_contain_text("There is no prompt in line 2")
    expect(table.locator("tbody tr")).to_have_count(3)
