"""A preview's figures reach the plan, for as long as they are of these files and settings."""

from __future__ import annotations

import os

import pytest

from studio.core.errors import DataError, ModelNotFound
from studio.core.spec import RunSpec
from studio.data import measured
from studio.data.format import NOT_TRAINED, encode_examples
from studio.data.load import load_data
from studio.data.preview import Previewer


def rows(count):
    return [{"prompt": f"Return {index}.", "completion": f"def total(): return {index}\n" * (index + 1)} for index in range(count)]


def spec_of(path, **training):
    return RunSpec.parse({"data": {"source": str(path)}, "training": training})


@pytest.fixture
def look(home, tokenizer):
    previewer = Previewer(home, lambda model: tokenizer)

    def preview(spec):
        found = previewer.preview(spec.data, spec.model, spec.training, lambda text: None).to_json()
        measured.remember(home, spec, found)
        return found

    return preview


def test_the_size_is_that_of_the_rows_trained_on(look, home, write_rows, tokenizer):
    spec = spec_of(write_rows(rows(30)), max_length=100)
    assert measured.measured_size(home, spec) is None
    look(spec)
    loaded = load_data(spec.data, home)
    encoded = encode_examples(loaded.train, tokenizer, spec.training)
    assert encoded.dropped
    size = measured.measured_size(home, spec)
    tokens = sum(len(row.ids) for row in encoded.rows)
    labelled = sum(label != NOT_TRAINED for row in encoded.rows for label in row.labels)
    held_out = encode_examples(loaded.held_out, tokenizer, spec.training)
    assert (size.rows, size.held_out_rows, size.source) == (len(encoded.rows), len(held_out.rows), "measured")
    assert size.mean_tokens == pytest.approx(tokens / len(encoded.rows))
    assert size.longest_tokens == max(len(row.ids) for row in encoded.rows)
    assert size.labelled_share == pytest.approx(labelled / tokens)


def test_what_changes_the_rows_is_said_or_assumed_anew(look, home, write_rows):
    path = write_rows(rows(10))
    look(spec_of(path, max_length=4000))
    assert measured.measured_size(home, spec_of(path, max_length=3000)).source == "measured"
    shorter = measured.measured_size(home, spec_of(path, max_length=20))
    assert shorter.longest_tokens == 20
    assert "at most 4,000 tokens" in shorter.source
    assert measured.measured_size(home, spec_of(path, max_length=4000, loss_on="all")).labelled_share == 1
    os.utime(path, (1, 1))
    assert measured.measured_size(home, spec_of(path, max_length=4000)) is None


def test_a_problem_of_the_data_is_kept_until_they_change_and_one_of_the_model_is_not(home, look, write_rows):
    path = write_rows(rows(10))
    spec = spec_of(path, max_length=8)
    assert look(spec)["problem"]
    assert "None of the" in measured.measured_problem(home, spec)
    assert measured.measured_problem(home, spec_of(path, max_length=500)) == ""
    measured.remember(home, spec, {"problem": DataError("Line 3 is no JSON.", "Mend it.").to_json()})
    assert measured.measured_problem(home, spec) == "Line 3 is no JSON.\nMend it."
    measured.remember(home, spec, {"problem": ModelNotFound("No such model.").to_json()})
    assert "Line 3" in measured.measured_problem(home, spec)
    os.utime(path, (1, 1))
    assert measured.measured_problem(home, spec) == ""


@pytest.mark.parametrize("limits", [{"max_rows": 7}, {"max_held_out_rows": 2}, {"held_out": 0.3}, {"max_rows": 9, "held_out": 0.5}])
def test_how_many_rows_are_taken_changes_their_number_and_no_length(look, home, write_rows, limits):
    path = write_rows(rows(30))
    whole = spec_of(path, max_length=4000)
    look(whole)
    fewer = whole.model_copy(update={"data": whole.data.model_copy(update=limits)})
    before, now = measured.measured_size(home, whole), measured.measured_size(home, fewer)
    loaded = load_data(fewer.data, home)
    assert (now.rows, now.held_out_rows) == (len(loaded.train), len(loaded.held_out))
    assert (now.mean_tokens, now.longest_tokens, now.labelled_share) == (before.mean_tokens, before.longest_tokens, before.labelled_share)
    assert now.source == "measured, the number of rows worked out"


def test_a_problem_may_be_that_of_too_many_rows(home, write_rows):
    spec = spec_of(write_rows(rows(10)))
    measured.remember(home, spec, {"problem": DataError("Too much text.", "Set data.max_rows.").to_json()})
    fewer = spec.model_copy(update={"data": spec.data.model_copy(update={"max_rows": 5})})
    assert measured.measured_problem(home, spec) and not measured.measured_problem(home, fewer)


@pytest.mark.parametrize("source", ["", "~nobody/x", "/", "a\0b", "x" * 5000])
def test_half_a_path_has_no_times_and_no_traceback(source):
    assert isinstance(measured._times(source), list)
