"""The four families on the chosen model as cards: drawn, counted, and beside that the lecture's words and figures, marked as such.

One folded piece of HTML inside the plan: no component of its own, nothing to fetch when it is opened.
"""

from __future__ import annotations

from collections.abc import Sequence

from studio.core.units import show_bytes, show_count
from studio.models.comparison import Check, FamilyComparison
from studio.ui.markup import escape, raw_table

LECTURE = "The lecture is the one on parameter-efficient fine-tuning whose content this studio shows on real models."
SUMMARY = "What each method adds to this model, and what the lecture says"

KEEP_OPEN = """
let open = false;
element.addEventListener('click', event => {
  if (event.target.closest('summary')) open = !event.target.closest('details').open;
});
watch('value', () => element.querySelector('.families')?.toggleAttribute('open', open));
"""
"""The plan is drawn anew at every change of the form; who opened the cards finds them open."""

HOW = (
    "Counted: from this model's config, for the settings chosen; the other methods at their defaults. All four leave the base frozen. "
    f"{LECTURE} Its claims stand beside what is counted."
)


def families_html(families: Sequence[FamilyComparison]) -> str:
    """The folded cards, in the order of the families."""
    cards = "".join(_card(item) for item in families)
    body = f'<p class="how">{escape(HOW)}</p><div class="family-cards">{cards}</div>'
    return f'<details class="families"><summary title="{escape(LECTURE)}">{escape(SUMMARY)}</summary>{body}</details>'


def _card(item: FamilyComparison) -> str:
    card = item.card
    head = f'<header><i class="draw-{card.family}"></i><h4>{escape(card.title)}</h4><code>{escape(card.formula)}</code></header>'
    chosen = ' class="chosen"' if item.current else ""
    return f"<article{chosen}>{head}{_counted(item)}{_claimed(item)}</article>"


def _counted(item: FamilyComparison) -> str:
    card = item.card
    held = "" if item.quantization == "none" else f" in {item.quantization}"
    share, disk, base = f"{100 * card.share:.3g} % of all", show_bytes(card.adapter_bytes), show_bytes(item.base_bytes)
    figures = f"<b>{show_count(card.parameters)} parameters</b> <small>{share} · {disk} on disk · base {base}{held}</small>"
    rows = [(escape(part.place.rpartition(".")[2]), _unbroken(part.shapes), show_count(part.parameters)) for part in card.parts]
    parts = raw_table((f"in {card.layers} layers" if card.layers > 1 else "in all", "shapes", "each"), rows, "parts")
    return f'<h5>Counted here</h5><p class="sum">{figures}</p><p>{escape(card.added)} {escape(card.merges)}</p>{parts}'


def _unbroken(shapes: str) -> str:
    """'A 8 × 576, B 576 × 8' breaks at its comma only."""
    return ", ".join(escape(shape).replace(" ", "&nbsp;") for shape in shapes.split(", "))


def _claimed(item: FamilyComparison) -> str:
    said = item.lecture
    words = f"Adds {said.added}: {said.core}. Good for {said.good_for}. Training size: {said.training_size}. "
    words += f"Change of architecture: {said.architecture_change}."
    return f'<div class="claim"><h5>The lecture says</h5><p>{escape(words)}</p>{"".join(map(_check, item.checks))}</div>'


def _check(check: Check) -> str:
    kind, word = ("good", "holds") if check.agrees else ("warn", "does not hold")
    counted = f"<b>{escape(check.how)}, it {word}:</b> {escape(check.found)}."
    return f'<p>It claims: {escape(check.claim)}.</p><p class="check {kind}">{counted}</p>'
