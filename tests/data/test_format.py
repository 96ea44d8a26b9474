"""Formatting: labels are the answer and its end, too long is dropped or cut, and the counts say so."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from studio.core.errors import DataError
from studio.core.spec import TrainingSpec
from studio.data.examples import Example
from studio.data.format import NOT_TRAINED, encode_examples
from studio.models.chat import encode_prompt


def pair(prompt, completion):
    turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": completion}]
    return Example(messages=turns, provenance={"file": "rows.jsonl", "line": 3})


SHORT = pair("Return the sum.", "def total(numbers):")
LONG = pair("Return the sum.", "def total(numbers):\n" + "    result = 0\n" * 40)


def decode(tokenizer, ids):
    return tokenizer.decode(ids, clean_up_tokenization_spaces=False)


def test_labels_are_the_answer_and_its_end(tokenizer):
    [row] = encode_examples([SHORT], tokenizer, TrainingSpec()).rows
    trained = [label for label in row.labels if label != NOT_TRAINED]
    assert decode(tokenizer, trained) == "def total(numbers):<|im_end|>"
    prompt = encode_prompt(tokenizer, SHORT.messages[:1])
    assert row.ids[: len(prompt)] == prompt
    assert row.labels[: len(prompt)] == [NOT_TRAINED] * len(prompt)


def test_loss_on_all_trains_on_every_token(tokenizer):
    [row] = encode_examples([SHORT], tokenizer, TrainingSpec(loss_on="all")).rows
    assert row.labels == row.ids


def test_plain_text_is_trained_on_throughout(tokenizer):
    [row] = encode_examples([Example(text="def total(numbers):")], tokenizer, TrainingSpec()).rows
    assert row.labels == row.ids
    assert decode(tokenizer, row.ids) == "def total(numbers):<|im_end|>"


def test_conversations_and_texts_keep_their_order(tokenizer):
    examples = [Example(text="first"), SHORT, Example(text="third"), LONG]
    rows = encode_examples(examples, tokenizer, TrainingSpec(max_length=2000)).rows
    assert [decode(tokenizer, row.ids)[:5] for row in rows] == ["first", "<|im_", "third", "<|im_"]
    alone = [encode_examples([example], tokenizer, TrainingSpec(max_length=2000)).rows[0] for example in examples]
    assert rows == alone


def test_too_long_is_dropped_and_counted(tokenizer):
    encoded = encode_examples([SHORT, LONG], tokenizer, TrainingSpec(max_length=100))
    assert (len(encoded.rows), encoded.dropped, encoded.cut) == (1, 1, 0)
    assert len(encoded.lengths) == 2
    assert encoded.lengths[1] > 100
    assert encoded.tokens == len(encoded.rows[0].ids) == encoded.lengths[0]


def test_too_long_is_cut_at_its_end(tokenizer):
    whole = encode_examples([LONG], tokenizer, TrainingSpec(max_length=2000)).rows[0]
    encoded = encode_examples([SHORT, LONG], tokenizer, TrainingSpec(max_length=100, too_long="cut"))
    assert (len(encoded.rows), encoded.dropped, encoded.cut) == (2, 0, 1)
    assert encoded.rows[1].ids == whole.ids[:100]
    assert encoded.rows[1].labels == whole.labels[:100]


def test_an_example_whose_answer_is_cut_away_is_dropped(tokenizer):
    asked = pair("Return the largest value. " * 30, "def largest(values):")
    encoded = encode_examples([SHORT, asked], tokenizer, TrainingSpec(max_length=60, too_long="cut"))
    assert (len(encoded.rows), encoded.dropped, encoded.cut) == (1, 1, 0)


@settings(deadline=None, max_examples=50)
@given(
    texts=st.lists(st.tuples(st.text(min_size=1, max_size=60), st.text(min_size=1, max_size=60)), max_size=5),
    max_length=st.integers(8, 90),
    too_long=st.sampled_from(["drop", "cut"]),
    loss_on=st.sampled_from(["answer", "all"]),
)
def test_every_row_fits_and_has_something_to_learn(tokenizer, texts, max_length, too_long, loss_on):
    training = TrainingSpec(max_length=max_length, too_long=too_long, loss_on=loss_on)
    encoded = encode_examples([pair(*text) for text in texts], tokenizer, training)
    assert len(encoded.rows) + encoded.dropped == len(encoded.lengths) == len(texts)
    for row in encoded.rows:
        assert len(row.ids) == len(row.labels) <= max_length
        assert any(label != NOT_TRAINED for label in row.labels[1:])
        assert all(label in (token, NOT_TRAINED) for token, label in zip(row.ids, row.labels, strict=True))
    if too_long == "drop":
        assert encoded.cut == 0
        assert sorted(len(row.ids) for row in encoded.rows) == sorted(length for length in encoded.lengths if length <= max_length)


def test_a_conversation_the_template_refuses_is_named_by_its_row(tokenizer):
    import copy

    strict = copy.deepcopy(tokenizer)
    strict.chat_template = "{{ raise_exception('user and assistant must take turns') }}"
    with pytest.raises(DataError, match=r"rows\.jsonl, line 3: .*must take turns"):
        encode_examples([SHORT], strict, TrainingSpec())
