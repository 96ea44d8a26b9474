"""The crossing between widgets and spec: what is shown reads back as it was."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from studio.core.catalog import parse_preset, preset_names
from studio.core.spec import RunSpec
from studio.ui.form import FAMILY_GROUP, PARTS, Form, read_texts, show_texts


@pytest.fixture(scope="module")
def form() -> Form:
    """Every setting there is."""
    made = Form()
    made.field("name")
    for part, kind in PARTS.items():
        for name in kind.model_fields:
            if name != "family":
                made.field(f"{part}.{name}")
    made.add("method.family", made.field("training.loss_on"))
    made.field("training.loss_on")
    return made


def there_and_back(form: Form, spec: RunSpec) -> RunSpec:
    values = {field.widget: field.widget.value for field in form.fields.values()}
    return RunSpec.parse(form.spec_data({**values, form.fields["method.family"].widget: spec.method.family, **form.updates(spec)}))


@pytest.mark.parametrize("name", preset_names())
def test_a_preset_reads_back_as_it_is(form: Form, name: str) -> None:
    assert there_and_back(form, parse_preset(name)) == parse_preset(name)


@pytest.mark.parametrize("family", list(FAMILY_GROUP))
def test_defaults_read_back_as_they_are(form: Form, family: str) -> None:
    spec = RunSpec.parse({"method": {"family": family}})
    assert there_and_back(form, spec) == spec


@given(st.lists(st.text(alphabet="a-\\ \n\té\xa0").map(lambda text: text.strip("\n")).filter(str.strip), max_size=5))
@example(["Write it.\n\nOne\n---\nTwo", "---", "\\---", " --- ", "\\n stays two characters"])
def test_prompts_of_several_lines_read_back_as_they_were(prompts: list[str]) -> None:
    assert read_texts(show_texts(prompts)) == prompts


def test_prompts_are_shown_with_their_line_breaks() -> None:
    assert show_texts(["Write.\n\nReturn.", "Again."]) == "Write.\n\nReturn.\n---\nAgain."
    assert read_texts("\n\n---\n One\r\n\r\nTwo \n\n--- \n---\nThree\n") == [" One\n\nTwo ", "Three"]
    assert read_texts("") == read_texts(None) == []
