"""The prompt as the model sees it: the rendered text, and its tokens one by one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from studio.models.chat import Message, render_prompt
from studio.play.engine import Engine
from studio.play.injection import BASE


def render_tokens(engine: Engine, messages: Sequence[Message]) -> dict[str, Any]:
    """{text, tokens: [{id, text, special}], context}. Raises PlayError and ModelError as an answer would."""
    loaded, _ = engine.ready([BASE])
    ids = engine.encode(messages)
    special = set(loaded.tokenizer.all_special_ids)
    tokens = [{"id": token, "text": show_token(loaded.tokenizer, token), "special": token in special} for token in ids]
    return {"text": render_prompt(loaded.tokenizer, messages), "tokens": tokens, "context": engine.context}


def show_token(tokenizer: Any, token: int) -> str:
    """One token's own text; half a character shows as a replacement mark."""
    return tokenizer.decode([token], skip_special_tokens=False, clean_up_tokenization_spaces=False)
