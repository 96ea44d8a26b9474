"""Conversation -> tokens, with the mask of what is trained on: the one place that renders a chat template.

Training and playground both come through here, so the prompt a model was trained on is, token for token, the prompt it is asked.

How the answers are found: the conversation is rendered up to each answer with the generation header (`add_generation_prompt`) and up to
the answer's end without it. The text between the two is the answer with its end-of-turn token; that is trained on, everything before it
and what follows the end-of-turn token is not. Each piece is tokenised by itself, because that is how the model meets it when it
generates: no token straddles the border between prompt and answer. This needs a template that only ever adds to what it rendered before;
one that rewrites earlier turns is refused by name.

Templates run in transformers' sandboxed Jinja environment. A model without one gets PLAIN_TEMPLATE:

    SYSTEM TEXT

    ### Question:
    USER TEXT

    ### Answer:
    ASSISTANT TEXT<end-of-text token>

A beginning-of-text token appears once at most: where the template writes it or, with plain text and PLAIN_TEMPLATE, where the tokenizer
adds one by itself. Templates that print the date get a fixed one, so that a prompt does not change overnight.

Does not know: which rows there are (studio.data), how long they may be (studio.data.format), tool calls and images.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

from studio.core.errors import ModelError

PLAIN_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ message['content'] }}\n\n"
    "{% elif message['role'] == 'assistant' %}### Answer:\n{{ message['content'] }}{{ eos_token or '' }}\n\n"
    "{% else %}### Question:\n{{ message['content'] }}\n\n{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}### Answer:\n{% endif %}"
)

# The date Llama 3's template falls back to where it cannot read a clock. Left to the clock, the prompt would differ from day to day.
TEMPLATE_DATE = "26 Jul 2024"

BATCH = 1000
ANCHOR = "\n"

Message = dict[str, Any]


class EncodedText(NamedTuple):
    """Token ids, and for each whether it is trained on."""

    ids: list[int]
    labelled: list[bool]


class Piece(NamedTuple):
    """A stretch of rendered text, tokenised by itself."""

    text: str
    is_answer: bool


def encode_prompt(tokenizer: Any, messages: Sequence[Message]) -> list[int]:
    """Token ids of `messages` followed by the header after which the model answers. Raises ModelError."""
    pieces = _cut_prompt(tokenizer, list(messages))
    return [token for ids in _tokenize(tokenizer, [pieces]) for token in ids]


def encode_conversation(tokenizer: Any, messages: Sequence[Message]) -> EncodedText:
    """Token ids of `messages`, answers marked as trained on. Raises ModelError."""
    return next(encode_conversations(tokenizer, [cut_conversation(tokenizer, messages)]))


def encode_conversations(tokenizer: Any, conversations: Sequence[list[Piece]]) -> Iterator[EncodedText]:
    """The same for many conversations already cut by `cut_conversation`: tokenised in batches, given back in order."""
    waiting = iter(conversations)
    while batch := list(islice(waiting, BATCH)):
        tokens = _tokenize(tokenizer, batch)
        for pieces in batch:
            yield _join(tokenizer, [(piece, next(tokens)) for piece in pieces])


def encode_text(tokenizer: Any, text: str, *, closed: bool = True) -> EncodedText:
    """Plain text without any template: trained on throughout. `closed` ends it with the end-of-text token, as training does."""
    return next(encode_texts(tokenizer, [text], closed=closed))


def encode_texts(tokenizer: Any, texts: Sequence[str], *, closed: bool = True) -> Iterator[EncodedText]:
    """The same for many texts: tokenised in batches, given back in order."""
    start, close = _start_ids(tokenizer), _end_ids(tokenizer) if closed else []
    waiting = iter(texts)
    while batch := list(islice(waiting, BATCH)):
        for ids in tokenizer(batch, add_special_tokens=False, verbose=False)["input_ids"]:
            body = ids[len(start) :] if ids[: len(start)] == start else list(ids)
            end = [] if body[-1:] == close else close
            yield EncodedText(start + body + end, [False] * len(start) + [True] * (len(body) + len(end)))


def render_prompt(tokenizer: Any, messages: Sequence[Message]) -> str:
    """The text `encode_prompt` tokenises, as the model sees it. Raises ModelError."""
    return _render(tokenizer, list(messages), generate=True)


def cut_conversation(tokenizer: Any, messages: Sequence[Message]) -> list[Piece]:
    """The rendered conversation up to its last answer, cut where answers begin and end.

    Raises ModelError where the template fails, rewrites earlier turns, or there is no answer.
    """
    turns = list(messages)
    answers = [index for index, message in enumerate(turns) if message.get("role") == "assistant"]
    if not answers:
        raise ModelError("The conversation has no answer: there is nothing to train on.", "Add a turn of the role assistant.")
    pieces: list[Piece] = []
    done = ""
    for index in answers:
        for end, generate in ((index, True), (index + 1, False)):
            text = _render(tokenizer, turns[:end], generate=generate)
            if not text.startswith(done):
                raise _rewriting(index)
            pieces.append(Piece(text[len(done) :], is_answer=not generate))
            done = text
    return pieces


def _cut_prompt(tokenizer: Any, turns: list[Message]) -> list[Piece]:
    """The prompt cut exactly as `cut_conversation` cuts it; in one piece where a template rewrites earlier answers."""
    whole = _render(tokenizer, turns, generate=True)
    if any(message.get("role") == "assistant" for message in turns):
        pieces = _try_cut(tokenizer, turns)
        done = "".join(piece.text for piece in pieces)
        if pieces and whole.startswith(done):
            return [*pieces, Piece(whole[len(done) :], is_answer=False)]
    return [Piece(whole, is_answer=False)]


def _try_cut(tokenizer: Any, turns: list[Message]) -> list[Piece]:
    try:
        return cut_conversation(tokenizer, turns)
    except ModelError:
        return []


def _rewriting(index: int) -> ModelError:
    return ModelError(
        f"The model's chat template rewrites what came before message {index + 1}: training would see another prompt than the playground.",
        "Train on conversations with one answer each, or on plain text; reasoning models often drop earlier reasoning this way.",
    )


def _render(tokenizer: Any, turns: list[Message], *, generate: bool) -> str:
    import jinja2

    template = None if getattr(tokenizer, "chat_template", None) else PLAIN_TEMPLATE
    try:
        return tokenizer.apply_chat_template(
            turns, chat_template=template, tokenize=False, add_generation_prompt=generate, date_string=TEMPLATE_DATE
        )
    except (jinja2.TemplateError, ValueError, TypeError, KeyError, AttributeError) as error:
        roles = ", ".join(str(turn.get("role")) for turn in turns)
        raise ModelError(
            f"The model's chat template refuses a conversation of the roles {roles}: {error}",
            "Many templates take no system prompt, or want user and assistant in turn, beginning with user.",
        ) from error


def _tokenize(tokenizer: Any, conversations: list[list[Piece]]) -> Iterator[list[int]]:
    """The ids of every piece, in order. The first piece of a conversation carries the beginning-of-text token PLAIN_TEMPLATE leaves out."""
    start = [] if getattr(tokenizer, "chat_template", None) else _start_ids(tokenizer)
    anchor = _anchor_ids(tokenizer)
    places = [(piece.text, place == 0) for pieces in conversations for place, piece in enumerate(pieces)]
    texts = [text if first or not anchor else ANCHOR + text for text, first in places]
    # Not verbose: how long an example may be is studio.data.format's business.
    encoded = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
    for (text, first), ids in zip(places, encoded, strict=True):
        if first:
            yield [*start, *ids]
        elif not anchor:
            yield list(ids)
        elif ids[: len(anchor)] == anchor:
            yield ids[len(anchor) :]
        else:
            yield tokenizer(text, add_special_tokens=False)["input_ids"]


def _anchor_ids(tokenizer: Any) -> list[int]:
    """The ids of ANCHOR where the tokenizer puts a space before any text; tokenising behind it keeps that space out of an answer."""
    first = tokenizer.convert_ids_to_tokens(tokenizer("x", add_special_tokens=False)["input_ids"])[0]
    return tokenizer(ANCHOR, add_special_tokens=False)["input_ids"] if first[:1] in ("\u2581", "\u0120") else []


def _join(tokenizer: Any, pieces: list[tuple[Piece, list[int]]]) -> EncodedText:
    special = set(tokenizer.all_special_ids) | {token for token, added in tokenizer.added_tokens_decoder.items() if added.special}
    ids: list[int] = []
    labelled: list[bool] = []
    for place, (piece, tokens) in enumerate(pieces):
        ends = [index for index, token in enumerate(tokens) if token in special] if piece.is_answer else []
        if piece.is_answer and not ends and place == len(pieces) - 1:
            # A template that marks no end of turn would leave a model that never stops.
            tokens = [*tokens, *_end_ids(tokenizer)]
        trained = (ends[-1] + 1 if ends else len(tokens)) if piece.is_answer else 0
        ids += tokens
        labelled += [index < trained for index in range(len(tokens))]
    return EncodedText(ids, labelled)


def _start_ids(tokenizer: Any) -> list[int]:
    """[bos] where the tokenizer begins a text with it by itself, else nothing."""
    bos = tokenizer.bos_token_id
    return [bos] if bos is not None and tokenizer("x")["input_ids"][:1] == [bos] else []


def _end_ids(tokenizer: Any) -> list[int]:
    return [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
