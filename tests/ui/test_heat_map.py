"""The heat map as HTML: every value in its place, nothing that is not escaped."""

from __future__ import annotations

import re

from studio.ui import heat_map
from studio.ui.heat_map import Cell

WORDS = heat_map.Words("Title.", "Read it.", "low", "high", "file")


def cell(layer, module, value, name=None):
    return Cell(name or f"m.{layer}.{module}", "m", layer, module, value)


def buttons(html):
    return re.findall(r"<button[^>]*?--t:([\d.]+)[^>]*data-module=\"([^\"]*)\"[^>]*>([^<]*)</button>", html)


def test_columns_follow_a_layers_computation_and_rows_its_number():
    cells = [cell(layer, module, 1.0) for layer in (10, 2) for module in ("mlp.down_proj", "self_attn.q_proj", "self_attn.v_proj")]
    info = heat_map.heat_info(cells, "dB")
    assert info.rows == [("m", 2), ("m", 10)]
    assert [heat_map.short_name(column) for column in info.columns] == ["q", "v", "down"]


def test_each_cell_shows_its_value_and_its_place_on_the_scale():
    html = heat_map.heat_html(heat_map.heat_info([cell(0, "q", 10.0), cell(1, "q", 20.0), cell(2, "q", 15.0)], "dB"), WORDS, "m.2.q")
    assert buttons(html) == [("0.000", "m.0.q", "10.0"), ("1.000", "m.1.q", "20.0"), ("0.500", "m.2.q", "15.0")]
    assert html.count('aria-pressed="true"') == html.count('tabindex="0"') == 1


def test_a_missing_module_and_a_missing_value_are_no_zero():
    html = heat_map.heat_html(heat_map.heat_info([cell(0, "q", 1.0), cell(0, "k", None), cell(1, "q", 2.0)], "dB"), WORDS, "")
    assert [text for _, _, text in buttons(html)] == ["1.0", "–", "2.0"]
    assert "<td></td>" in html


def test_names_from_a_file_are_escaped():
    html = heat_map.heat_html(heat_map.heat_info([cell(0, "<b>q", 1.0, name='m.0."><script>')], "dB"), WORDS, "")
    assert "<script>" not in html
    assert "<b>q" not in html


def test_what_was_picked_survives_its_way_through_a_text_box():
    assert heat_map.split_picked("12|model.layers.12.mlp.up_proj") == (12, "model.layers.12.mlp.up_proj")
    assert heat_map.split_picked("|lm_head") == (None, "lm_head")


def test_zeros_alone_are_drawn_empty_and_without_a_scale():
    html = heat_map.heat_html(heat_map.heat_info([cell(0, "q", 0.0), cell(1, "q", 0.0)], "dB"), WORDS, "")
    assert [share for share, _, _ in buttons(html)] == ["0.000", "0.000"]
    assert "heat-scale" not in html
