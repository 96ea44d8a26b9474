"""The measured sentence on quality, from measured numbers."""

from __future__ import annotations

import html

import pytest

from studio.ui.quantization_effect import effect_html, verdict


def measured(loss):
    types = {"nf4": {"weight_error": 0.1, "output_error": 0.05, "loss": loss}}
    return {"module": "m.0.q", "rows": 8, "tokens": 1000, "loss": 1.0, "types": types}


@pytest.mark.parametrize(
    ("loss", "told"),
    [(1.2, "NF4 does lose quality here: the loss rises by 0.200"), (1.005, "loses no quality"), (0.99, "loses no quality")],
)
def test_the_sentence_follows_the_loss(loss, told):
    assert told in verdict(measured(loss))


def test_the_table_gives_the_difference_and_names_its_text():
    shown = html.unescape(effect_html(measured(1.2)))
    for text in ("10.00 %", "5.00 %", "1.2000", "+0.2000", "1,000 answer tokens of 8 rows", "as stored"):
        assert text in shown
