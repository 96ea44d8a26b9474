"""The lecture's worked examples as the page shows them, and what it says where the lecture is wrong."""

from __future__ import annotations

import base64
import html
import re
import struct
import zlib

import numpy as np
import pytest

from studio.core.errors import AnalysisError
from studio.ui import lora_calculator, low_rank_picture, nf4_by_hand, rank_by_hand


def text(markup):
    return html.unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", markup)))


def column(markup, index):
    return [text(re.findall(r"<td>(.*?)</td>", row)[index]).strip() for row in re.findall(r"<tr>(<td>.*?)</tr>", markup)]


@pytest.mark.parametrize(("book", "codes"), [("nf4", [8, 4, 15, 7, 7, 13]), ("teaching", [6, 1, 15, 5, 4, 14])])
def test_the_lectures_weights_get_the_nearest_codes(book, codes):
    assert column(nf4_by_hand.walk_html(nf4_by_hand.LECTURE, book), 2) == [str(code) for code in codes]


def test_nf4_packs_two_codes_a_byte_the_first_one_high():
    assert re.findall(r"0x(\w\w)", nf4_by_hand.walk_html(nf4_by_hand.LECTURE, "nf4")) == ["84", "f7", "7d"]


def test_both_codes_the_lecture_prints_wrongly_are_named_with_their_distances():
    shown = text(nf4_by_hand.walk_html(nf4_by_hand.LECTURE, "teaching"))
    assert "For 0.05 (scaled -0.357) it prints code 5, 0.083 away; code 6 is nearer, 0.057 away." in shown
    assert "For -0.02 (scaled -0.527) it prints code 5, 0.087 away; code 4 is nearer, 0.063 away." in shown
    assert "not the nearest" not in text(nf4_by_hand.walk_html("1, 2", "teaching"))


def test_the_lectures_matrix_is_reduced_with_every_step_named():
    shown = text(rank_by_hand.reduction_html(rank_by_hand.LECTURE))
    places = [shown.index(step) for step in ("R2 - 2·R1", "R3 - R1", "R3 / -1", "R1 - 2·R3")]
    assert places == sorted(places)
    assert "Rank 2 full rank would be 3" in shown
    assert "Nullity 1" in shown
    assert "e-16" not in shown


@pytest.mark.parametrize("typed", ["1 a\n2 3", "1 2\n3", "", " ".join(["1"] * 1000), "1/0"])
def test_a_matrix_that_is_none_is_refused_in_a_sentence(typed):
    with pytest.raises(AnalysisError) as caught:
        rank_by_hand.reduction_html(typed)
    assert caught.value.hint


def test_what_is_refused_is_said_where_the_result_would_be():
    assert "is not a number" in text(rank_by_hand.reduced_or_why("1 a"))
    refused = text(lora_calculator.layer_or_why(-1, 64, 8))
    assert refused
    assert "trained" not in refused


@pytest.mark.parametrize("rank", [1, 10, 64])
def test_as_many_neurons_are_independent_as_the_rank(rank):
    drawing = rank_by_hand.neurons_html(rank)
    assert drawing.count('class="independent"') == rank
    assert drawing.count('class="dependent"') == 100 - rank


def test_the_lectures_layer_and_its_printed_count():
    shown = text(lora_calculator.layer_html(512, 1024, 50))
    for number in ("524,288", "25,600", "51,200", "76,800", "6.83 × fewer", "5,242,880"):
        assert number in shown
    assert "5,242,880" not in text(lora_calculator.layer_html(2048, 2048, 8))


def test_factors_larger_than_their_layer_are_said_to_be():
    assert "more than the layer itself" in text(lora_calculator.layer_html(8, 8, 8))
    assert "A size is missing" in text(lora_calculator.layer_html(None, 8, 8))


def test_the_picture_at_full_rank_is_the_picture():
    def decode(uri):
        data = base64.b64decode(uri.partition(",")[2])
        width, height = struct.unpack(">II", data[16:24])
        body = data[data.index(b"IDAT") + 4 : data.index(b"IEND") - 8]
        return np.frombuffer(zlib.decompress(body), np.uint8).reshape(height, 1 + 3 * width)[:, 1:].reshape(height, width, 3)

    whole, few = re.findall(r'src="(data:[^"]+)"', low_rank_picture.picture_html(low_rank_picture.HEIGHT))
    assert np.array_equal(decode(whole), low_rank_picture.landscape())
    assert np.array_equal(decode(few), low_rank_picture.landscape())
    blank = re.findall(r'src="(data:[^"]+)"', low_rank_picture.picture_html(0))[1]
    assert not decode(blank).any()
