"""Insides as figures: known counts, norms and shares in, the same numbers drawn."""

from __future__ import annotations

import pytest

from studio.plots import insides


def place(layer, name, active, hidden=2.0, change=0.5, ratio=0.25):
    return {"layer": layer, "place": name, "active": active, "hidden_norm": hidden, "change_norm": change, "ratio": ratio}


def adapter(*places, tokens=4):
    return {"tokens": tokens, "places": list(places)}


def test_units_are_sorted_and_keep_their_numbers():
    info = insides.units_info(adapter(place(0, "mlp.down_proj", [0, 4, 2]), place(1, "mlp.down_proj", [1, 1, 3])))
    assert info.rows["MLP"] == insides.UnitsRows([0, 1], [[4, 2, 0], [3, 1, 1]], [[1, 2, 0], [2, 0, 1]])
    assert (info.total, info.silent, info.always) == (6, 1, 1)
    heat = insides.units_figure(info).data[0]
    assert [list(row) for row in heat.z] == [[4, 2, 0], [3, 1, 1]]
    assert [list(row) for row in heat.customdata] == [[1, 2, 0], [2, 0, 1]]
    assert "of 4 tokens" in heat.hovertemplate


def test_only_a_silent_unit_is_grey():
    figure = insides.units_figure(insides.units_info(adapter(place(0, "mlp", [0, 1, 4]))))
    scale = figure.layout.coloraxis.colorscale
    grey = max(at for at, colour in scale if colour == insides.SILENT)
    assert 0 < grey < 1 / 4
    assert (figure.layout.coloraxis.cmin, figure.layout.coloraxis.cmax) == (0, 4)


def test_attention_and_mlp_stand_apart():
    report = adapter(place(0, "self_attn.o_proj", [1]), place(0, "mlp.down_proj", [2]), place(1, "attn.c_proj", [3]))
    info = insides.units_info(report)
    assert {kind: rows.layers for kind, rows in info.rows.items()} == {"attention": [0, 1], "MLP": [0]}
    assert [text.text for text in insides.units_figure(info).layout.annotations] == ["after attention", "after the MLP"]
    assert len(insides.norms_figure(insides.norms_info(report)).data) == 4


def test_very_wide_rows_are_thinned_and_counted_whole():
    info = insides.units_info(adapter(place(0, "mlp", list(range(2000))), tokens=1999))
    counts = info.rows["MLP"].counts[0]
    assert len(counts) == insides.DRAWN_UNITS
    assert (counts[0], counts[-1], info.total, info.silent, info.always) == (1999, 0, 2000, 1, 1)


def test_norms_of_a_fresh_adapter_are_said_and_others_drawn():
    fresh = insides.norms_figure(insides.norms_info(adapter(place(0, "mlp", [1], change=0.0, ratio=0.0))))
    assert "exactly nothing" in fresh.layout.annotations[0].text
    report = adapter(place(0, "mlp", [1]), place(1, "mlp", [1], hidden=0.0, change=0.0, ratio=None))
    hidden, change = insides.norms_figure(insides.norms_info(report)).data
    assert (list(hidden.x), list(hidden.y), list(change.y)) == ([0, 1], [2.0, None], [0.5, None])
    assert list(change.customdata) == [25.0, None]


def test_the_mass_is_drawn_from_nothing_to_all():
    report = {"layers": [0, 1], "mass": [[0.25, 0.5], [1.0, 0.0]], "even_share": 0.4}
    figure = insides.mass_figure(insides.mass_info(report))
    assert [list(row) for row in figure.data[0].z] == report["mass"]
    assert (figure.layout.coloraxis.cmin, figure.layout.coloraxis.cmax) == (0, 1)
    assert insides.largest(report["mass"]) == (1, 0)
    assert not insides.mass_figure(insides.MassInfo([], [], 0.5)).data


@pytest.mark.parametrize(("name", "kind"), [("self_attn.o_proj", "attention"), ("attention.dense", "attention"), ("mlp.c_proj", "MLP")])
def test_a_place_is_named_by_its_module(name, kind):
    assert insides.kind_of(name) == kind
