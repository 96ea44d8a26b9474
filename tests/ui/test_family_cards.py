"""The comparison's cards without a browser: every family, counted and claimed, escaped, folded."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from studio.core.paths import StudioHome
from studio.core.spec import RunSpec
from studio.models.comparison import compare_families
from studio.models.hardware import Hardware
from studio.models.plan import make_plan
from studio.models.shape import find_shape
from studio.ui.drawings import DRAWINGS, card_css
from studio.ui.family_cards import families_html
from studio.ui.plan_panel import plan_html

MACHINE = Hardware("cpu", "A CPU", 24 * 10**9, 24 * 10**9, True, 2, "As the test says.")


def starter(**method: object):
    spec = RunSpec.parse({"method": method or {"family": "lora"}})
    shape = find_shape("starter", StudioHome(Path("/nowhere")))
    return make_plan(spec, shape, MACHINE), compare_families(spec, shape, MACHINE)


def test_each_family_is_drawn_counted_and_claimed() -> None:
    plan, families = starter(family="qlora")
    page = plan_html(plan, families)
    cards = re.findall(r"<article.*?</article>", page)
    assert len(cards) == 4 and page.count('<article class="chosen">') == 1
    for card, family in zip(cards, families, strict=True):
        assert f"draw-{family.card.family}" in card
        assert card.index("Counted here</h5>") < card.index("The lecture says</h5>")
        assert card.count("<tr>") == 1 + len(family.card.parts)
    assert "2.442 M parameters" in cards[1] and "111 MB in nf4" in cards[1]
    assert "851,968 of 1,236,666,368, 0.0689 %" in cards[0]


def test_the_cards_stay_folded_and_small() -> None:
    """The plan travels at every change of the form."""
    page = families_html(starter()[1])
    assert page.startswith('<details class="families"><summary')
    assert len(page) < 10_000
    assert page.index("The lecture is the one on") < page.index("The lecture says"), "what it is comes before what it says"


def test_every_drawing_has_its_rule() -> None:
    for family in DRAWINGS:
        assert f".draw-{family} " in card_css()


def test_what_a_name_holds_is_shown_as_text() -> None:
    family = starter()[1][0]
    part = dataclasses.replace(family.card.parts[0], place="<b>x", shapes="<i>, 2")
    page = families_html([dataclasses.replace(family, card=dataclasses.replace(family.card, parts=(part,)))])
    assert "<i>, 2" not in page and "&lt;b&gt;x" in page
