"""What a preset chose for its own dataset follows another dataset, unless a person changed it; and the form says that it was changed."""

from __future__ import annotations

import pytest

from studio.core.catalog import load_preset, parse_preset, preset_names
from studio.core.spec import RunSpec
from studio.ui.start_from import CHANGED, SAMPLES, follow, followed_html, mark_changed

QUICKSTART = parse_preset("quickstart")


def changed(**parts):
    data = QUICKSTART.to_json()
    return {**data, **{part: {**data[part], **values} if isinstance(values, dict) else values for part, values in parts.items()}}


def test_another_dataset_clears_what_was_chosen_for_the_presets_own():
    assert follow(changed(data={"source": "rows.jsonl"}), QUICKSTART) == {
        "name": "", "data.max_rows": 0, "data.max_held_out_rows": 150, SAMPLES: [],
    }  # fmt: skip


def test_what_a_person_changed_stays():
    touched = changed(name="mine", data={"source": "rows.jsonl", "max_rows": 500}, training={"sample_prompts": ["Say."]})
    assert follow(touched, QUICKSTART) == {"data.max_held_out_rows": 150}


def test_another_model_takes_the_presets_name_and_nothing_else():
    assert follow(changed(model={"id": "Qwen/Qwen2.5-0.5B-Instruct"}), QUICKSTART) == {"name": ""}


@pytest.mark.parametrize("name", preset_names())
def test_the_presets_own_dataset_brings_everything_back(name):
    preset = parse_preset(name)
    away = preset.to_json()
    away["data"]["source"] = "rows.jsonl"
    for path, value in follow(away, preset).items():
        part, _, setting = path.partition(".")
        away.update({part: value} if not setting else {part: {**away[part], setting: value}})
    assert follow(away, preset) == {}, "done once"
    back = {**away, "data": {**away["data"], "source": preset.data.source}}
    changes = follow(back, preset)
    assert changes["name"] == preset.name
    for path, value in changes.items():
        part, _, setting = path.partition(".")
        back.update({part: value} if not setting else {part: {**back[part], setting: value}})
    assert RunSpec.parse(back) == preset


def test_the_form_is_marked_where_it_is_no_longer_the_preset():
    same = load_preset("quickstart")
    assert mark_changed("quickstart", same) == mark_changed("quickstart" + CHANGED, same) == "quickstart"
    assert mark_changed("quickstart", {**same, "name": "mine"}) == "quickstart (changed)"
    assert mark_changed("quickstart", {**same, "training": {"epochs": "many"}}) == "quickstart (changed)"
    assert mark_changed("", same) == ""


def test_the_note_names_the_settings_and_escapes():
    html = followed_html({"data.max_rows": 0, "data.max_held_out_rows": 150, SAMPLES: []}, "<b>")
    assert "Rows at most" in html and "no longer applies" in html and "own again" not in html
    assert "Rows at most" in html and "Sample prompts" in html and "held-out prompts" in html and "<b></b>" not in html
    assert followed_html({}, "quickstart") == ""
    assert "own again" in followed_html({"name": "quickstart"}, "quickstart")
