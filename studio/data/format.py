"""Examples -> token ids and labels, as the trainer takes them.

loss_on 'answer' trains on the answers and their end-of-turn tokens, 'all' on every token; plain text is always trained on throughout.
An example longer than max_length is dropped or cut; cutting keeps the beginning, and an example nothing of whose answer is left is
dropped with it. Nothing is padded here.

Does not know: files, rows (load.py), how a conversation is rendered (studio.models.chat).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from studio.core.errors import DataError, ModelError
from studio.core.spec import TrainingSpec
from studio.data.examples import Example

NOT_TRAINED = -100
"""The label torch's cross-entropy passes over."""


class EncodedRow(NamedTuple):
    """Token ids and their labels, of one length: a label is its token's id, or NOT_TRAINED."""

    ids: list[int]
    labels: list[int]


@dataclass(frozen=True)
class Encoded:
    """`rows` in the order of the examples. `dropped` were too long or lost their answer, `cut` were shortened; `lengths` are those of
    all examples in tokens, before anything was dropped or cut."""

    rows: list[EncodedRow]
    dropped: int
    cut: int
    lengths: list[int]

    @property
    def tokens(self) -> int:
        return sum(len(row.ids) for row in self.rows)


def encode_examples(examples: Sequence[Example], tokenizer: Any, training: TrainingSpec) -> Encoded:
    """Tokenise examples for training. Raises DataError naming the row whose conversation the chat template refuses."""
    rows: list[EncodedRow] = []
    lengths: list[int] = []
    cut = 0
    for ids, labelled in tokenize_examples(examples, tokenizer):
        lengths.append(len(ids))
        if len(ids) > training.max_length:
            if training.too_long == "drop":
                continue
            ids, labelled = ids[: training.max_length], labelled[: training.max_length]
            if any(labelled[1:]):
                cut += 1
        row = label_row(ids, labelled, training.loss_on)
        # The first token is predicted from nothing: a label there alone trains nothing.
        if any(labelled[1:]):
            rows.append(row)
    return Encoded(rows, dropped=len(lengths) - len(rows), cut=cut, lengths=lengths)


def label_row(ids: list[int], labelled: list[bool], loss_on: str) -> EncodedRow:
    """Labels for one example: every token's own id with loss_on 'all', else only the labelled ones'."""
    if loss_on == "all":
        return EncodedRow(ids, list(ids))
    return EncodedRow(ids, [token if trained else NOT_TRAINED for token, trained in zip(ids, labelled, strict=True)])


def tokenize_examples(examples: Sequence[Example], tokenizer: Any) -> Iterator[tuple[list[int], list[bool]]]:
    """Ids and mask of each example, in order. Conversations and plain texts are each tokenised in batches."""
    from studio.models.chat import encode_conversations, encode_texts

    conversations = encode_conversations(tokenizer, [_cut(example, tokenizer) for example in examples if example.messages is not None])
    texts = encode_texts(tokenizer, [example.text for example in examples if example.text is not None])
    for example in examples:
        yield next(conversations if example.messages is not None else texts)


def _cut(example: Example, tokenizer: Any) -> Any:
    from studio.models.chat import cut_conversation

    try:
        return cut_conversation(tokenizer, example.messages or [])
    except ModelError as error:
        raise DataError(f"{example.place}: {error.message}", error.hint) from error
