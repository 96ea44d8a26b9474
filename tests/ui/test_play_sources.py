"""What a question is asked of: panes and the worker's load, from what is picked; and what cannot be picked together."""

from __future__ import annotations

import pytest

from studio.core.errors import PlayError, RunNotFound
from studio.core.files import write_json
from studio.ui.conversation import Pane
from studio.ui.play_sources import adapter_choices, read_sources
from studio.ui.playground import default_settings
from studio.ui.studio import Studio


@pytest.fixture
def tuned(make_run):
    paths = make_run("tuned", spec={"model": {"id": "starter", "dtype": "float32"}, "data": {"system_prompt": "Be brief."}})
    write_json(paths.adapter / "adapter_config.json", {"peft_type": "LORA"})
    return f"run:{paths.id}"


def test_a_run_brings_its_model_and_its_system_prompt(home, tuned):
    sources = read_sources(home, "starter", "none", [tuned])
    assert sources.panes == (Pane("base", "Base"), Pane(tuned, "tuned"))
    assert sources.system == "Be brief." and sources.load["model"]["dtype"] == "float32"
    assert sources.load["adapters"] == {tuned: str(home.run(tuned.removeprefix("run:")).adapter)} and sources.load["beside"] == {}


def test_copies_of_the_base_are_panes_named_by_how_they_are_held(home, tuned):
    sources = read_sources(home, "starter", "none", [tuned], ["nf4", "int8"])
    assert [pane.title for pane in sources.panes] == ["Base (not quantized)", "tuned", "Base (NF4)", "Base (int8)"]
    assert sources.load["beside"] == {"base:nf4": "nf4", "base:int8": "int8"} and sources.load["quantization"] == "none"
    assert {pane.id for pane in sources.panes} == {"base", *sources.load["adapters"], *sources.load["beside"]}


@pytest.mark.parametrize(
    ("picked", "error", "named"),
    [
        (("", "none", []), PlayError, "No base model"),
        (("starter", "nf4", [], ["nf4"]), PlayError, "already: NF4"),
        (("starter", "none", ["run:a", "run:b", "/c"], ["nf4", "int8"]), PlayError, "5 panes"),
        (("starter", "none", ["run:gone"]), RunNotFound, "gone"),
        (("starter", "none", ["/nowhere"]), PlayError, "holds no adapter"),
    ],
)
def test_what_cannot_be_asked_is_named(picked, error, named, home):
    with pytest.raises(error, match=named):
        read_sources(home, *picked)


def test_a_run_whose_settings_cannot_be_read_is_not_offered(home, tuned, make_run):
    broken = make_run("zz-newest")
    write_json(broken.adapter / "adapter_config.json", {"peft_type": "LORA"})
    broken.spec.write_text('{"name": ')
    studio = Studio(home)
    assert [value for _, value in adapter_choices(studio)] == [tuned]
    assert default_settings(studio)["adapters"] == [tuned]
