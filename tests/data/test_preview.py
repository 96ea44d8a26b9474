"""The preview: what it shows is what load and format do, and a problem leaves the rest to be seen."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from studio.core.errors import DataError, ModelNotFound
from studio.core.spec import DataSpec, ModelSpec, TrainingSpec
from studio.data import preview as module
from studio.data.counts import count_rows
from studio.data.format import encode_examples
from studio.data.load import load_data
from studio.data.preview import DataPreview, Previewer, measure_lengths, shorten
from studio.models.chat import encode_prompt


def pairs(count):
    return [
        {"prompt": f"Return the value {index}.", "completion": "def total(numbers):\n    return 0\n" * (index + 1)}
        for index in range(count)
    ]


@pytest.fixture
def previewer(home, tokenizer):
    return Previewer(home, lambda model: tokenizer)


def look(previewer, path, training=None, **data):
    return previewer.preview(DataSpec(source=str(path), **data), ModelSpec(), training or TrainingSpec(), lambda text: None)


def test_it_shows_rows_layout_and_counts(previewer, write_rows, home, tokenizer):
    path = write_rows([*pairs(20), {"prompt": "", "completion": "x"}, *pairs(2)])
    shown = look(previewer, path, TrainingSpec(max_length=200))
    loaded = load_data(DataSpec(source=str(path)), home)
    encoded = encode_examples(loaded.train, tokenizer, TrainingSpec(max_length=200))
    assert encoded.dropped > 0
    assert shown.rows == pairs(5)
    assert (shown.format, shown.columns) == ("prompt_completion", {"prompt": "prompt", "completion": "completion"})
    assert shown.all_columns == ["prompt", "completion"]
    held_out = encode_examples(loaded.held_out, tokenizer, TrainingSpec(max_length=200))
    assert shown.counts == count_rows(loaded.report, encoded, held_out)
    assert shown.counts["too_long"] == encoded.dropped + held_out.dropped
    assert sum(shown.counts[name] for name in ("train", "held_out", "empty", "duplicate", "too_long")) == shown.counts["rows"] == 23
    assert (shown.counts["empty"], shown.counts["duplicate"]) == (1, 2)
    assert shown.fingerprint == loaded.fingerprint
    assert shown.measured == len(loaded.train) == sum(shown.lengths.counts)
    assert shown.lengths.longest == max(encoded.lengths)
    assert shown.problem is None


def test_the_sample_is_what_is_trained_on_and_the_prompt_what_is_asked(previewer, write_rows, home, tokenizer):
    path = write_rows(pairs(20))
    shown = look(previewer, path, system_prompt="Be brief.")
    [example, *_] = load_data(DataSpec(source=str(path), system_prompt="Be brief."), home).train
    text = "".join(text for text, _ in shown.sample)
    assert text.startswith(shown.prompt)
    assert shown.prompt == "<|im_start|>system\nBe brief.<|im_end|>\n" + (
        f"<|im_start|>user\n{example.messages[1]['content']}<|im_end|>\n<|im_start|>assistant\n"
    )
    assert "".join(text for text, trained in shown.sample if trained) == example.messages[-1]["content"] + "<|im_end|>"
    assert len([text for text, trained in shown.sample if not trained][:-1]) == len(encode_prompt(tokenizer, example.messages[:-1]))
    assert shown.sample_place == example.place


def test_characters_of_several_tokens_are_shown_whole(previewer, write_rows):
    path = write_rows([{"text": f"größe 漢字 🙂 {index}"} for index in range(5)])
    shown = look(previewer, path, TrainingSpec(loss_on="all"))
    assert "🙂" in [text.strip() for text, _ in shown.sample]
    assert not any("\ufffd" in text for text, _ in shown.sample)
    assert shown.prompt == ""
    assert all(trained for _, trained in shown.sample)


def test_columns_that_are_not_understood_are_shown_to_be_corrected(previewer, write_rows):
    path = write_rows([{"title": f"title {index}", "body": f"body {index}"} for index in range(10)])
    shown = look(previewer, path, columns={})
    assert shown.format == "text"
    path = write_rows([{"title": f"title {index}", "author": f"author {index}"} for index in range(10)], "other.jsonl")
    shown = look(previewer, path)
    assert shown.problem["error"] == "DataError"
    assert (shown.all_columns, len(shown.rows), shown.format) == (["title", "author"], 5, "")
    corrected = look(previewer, path, columns={"prompt": "title", "completion": "author"})
    assert corrected.problem is None
    assert corrected.format == "prompt_completion"


def test_a_broken_row_further_down_leaves_the_first_ones_to_be_seen(previewer, write_rows):
    path = write_rows(pairs(100))
    path.write_text(path.read_text() + "{broken\n")
    shown = look(previewer, path)
    assert "line 101" in shown.problem["message"]
    assert len(shown.rows) == 5
    assert shown.format == "prompt_completion"


def test_a_broken_first_row_is_an_error(previewer, write_rows, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("{broken\n")
    with pytest.raises(DataError, match="line 1"):
        look(previewer, path)
    with pytest.raises(DataError, match="no rows"):
        look(previewer, write_rows([], "none.jsonl"))


def test_a_missing_model_leaves_the_data_to_be_seen(home, write_rows):
    def refuse(model):
        raise ModelNotFound("There is no such model.", "Choose another.")

    shown = look(Previewer(home, refuse), write_rows(pairs(20)))
    assert shown.problem == {"error": "ModelNotFound", "message": "There is no such model.", "hint": "Choose another."}
    assert shown.counts["train"] == 18
    assert shown.lengths is None


def test_where_nothing_fits_the_lengths_still_show(previewer, write_rows):
    shown = look(previewer, write_rows(pairs(10)), TrainingSpec(max_length=8))
    assert "within 8 tokens" in shown.problem["message"]
    assert sum(shown.lengths.counts) == 9
    assert (shown.counts["too_long"], shown.counts["train"], shown.counts["held_out"]) == (10, 0, 0)


def test_held_out_rows_none_of_which_fits_are_a_problem_as_they_are_for_a_run(previewer, write_rows):
    folder = write_rows(pairs(2), "set/train.jsonl").parent
    write_rows(pairs(30)[-2:], "set/test.jsonl")
    shown = look(previewer, folder, TrainingSpec(max_length=100))
    assert "None of the 2 held-out examples is left within 100 tokens" in shown.problem["message"]


def test_data_and_tokenizer_stay_warm_until_they_change(home, write_rows, tokenizer, monkeypatch):
    loads = []
    monkeypatch.setattr(module, "load_data", lambda *args: loads.append("data") or load_data(*args))
    previewer = Previewer(home, lambda model: loads.append("tokenizer") or tokenizer)
    path = write_rows(pairs(10))
    look(previewer, path)
    look(previewer, path, TrainingSpec(max_length=64))
    assert loads == ["data", "tokenizer"]
    write_rows(pairs(12))
    assert look(previewer, path).counts["rows"] == 12
    assert loads == ["data", "tokenizer", "data"]


def test_it_travels_as_json(previewer, write_rows):
    shown = look(previewer, write_rows(pairs(10)))
    assert DataPreview.from_json(json.loads(json.dumps(shown.to_json()))) == shown
    assert DataPreview.from_json(DataPreview().to_json()) == DataPreview()


@given(st.lists(st.integers(0, 5000), min_size=1, max_size=50))
def test_the_histogram_counts_every_length_once(lengths):
    histogram = measure_lengths(lengths)
    assert len(histogram.edges) == len(histogram.counts) + 1 <= module.BINS + 1
    for low, high, count in zip(histogram.edges, histogram.edges[1:], histogram.counts, strict=False):
        assert count == sum(low <= length < high for length in lengths)
    assert sum(histogram.counts) == len(lengths)
    assert histogram.longest == max(lengths)


def test_long_cells_are_shortened_and_odd_ones_become_text():
    assert shorten("a" * 2000) == "a" * 1000 + "…"
    assert shorten({"turns": [{"content": "b" * 2000}] * 9})["turns"] == [{"content": "b" * 1000 + "…"}] * 5
    assert shorten([float("nan"), 1.5, b"x", None]) == ["nan", 1.5, "b'x'", None]
