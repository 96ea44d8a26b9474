"""One decoding loop for any number of panes in a batch: a prompt a row, one key-value cache, rows leave when they end.

transformers' generate streams one row only and cannot be stopped between two tokens; this loop does both, and with temperature 0 in
float32 gives generate's tokens one for one (a test compares them). Which adapter answers in which row is the caller's `as_rows`.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import torch

from studio.core.sampling import Sampling
from studio.play.batch_rows import Rows
from studio.play.sampling import pick_token

AsRows = Callable[[Sequence[str]], AbstractContextManager[Any]]
"""Given the panes that are still answering, in batch order: a context within which the model answers as exactly those."""


@dataclass
class PaneState:
    """One pane while it answers. Times in seconds since the loop began."""

    name: str
    generator: torch.Generator
    room: int
    """Tokens the context leaves for the answer."""
    tokens: list[int] = field(default_factory=list)
    first_token_s: float = 0.0
    seconds: float = 0.0
    stopped_by: str = ""


@dataclass(frozen=True)
class Decoding:
    """What a loop needs besides the panes. `on_token(pane, token)` is called for every token that is not a stop token."""

    sampling: Sampling
    stop_ids: frozenset[int]
    context: int
    on_token: Callable[[str, int], None]
    is_cancelled: Callable[[], bool]


@torch.inference_mode()
def decode(
    model: Any, prompts: Sequence[Sequence[int]], cache: Any, names: Sequence[str], as_rows: AsRows, settings: Decoding
) -> list[PaneState]:  # fmt: skip
    """Answer a prompt (token ids) in each pane of `names`; `cache` may hold a prefix already. One state a pane, in order."""
    began, past = time.perf_counter(), cache.get_seq_length()
    panes = [
        PaneState(name, torch.Generator().manual_seed(settings.sampling.seed), settings.context - past - len(prompt))
        for name, prompt in zip(names, prompts, strict=True)
    ]
    rows = Rows(prompts, model.get_input_embeddings().weight.device)
    if settings.is_cancelled():
        for pane in panes:
            pane.stopped_by = "you"
    active = [pane for pane in panes if not pane.stopped_by]
    logits = None
    if active and rows.differ:
        with _lone_positions(model):
            logits = rows.read_apart(model, cache, lambda row: as_rows([names[row]]))
    while active:
        with as_rows([pane.name for pane in active]), rows.attention(model), _lone_positions(model):
            while not any(pane.stopped_by for pane in active):
                if logits is None:
                    logits = model(**rows.arguments(), past_key_values=cache, use_cache=True, logits_to_keep=1).logits[:, -1]
                for pane, scores in zip(active, logits.float().cpu(), strict=True):
                    _take(pane, pick_token(scores, settings.sampling, pane.generator), settings, began)
                logits = None
                rows.go_on([pane.tokens[-1] for pane in active])
        kept = [row for row, pane in enumerate(active) if not pane.stopped_by]
        active = [active[row] for row in kept]
        if active:
            kept_rows = torch.tensor(kept, device=rows.ids.device)
            cache.batch_select_indices(kept_rows)
            rows.keep(kept_rows)
    return panes


@contextlib.contextmanager
def _lone_positions(model: Any) -> Iterator[None]:
    """Within it the output layer reads positions that lie by themselves.

    The last position cut out of a longer prompt keeps the prompt's strides, and torch.matmul then multiplies by way of a transposed copy
    of the whole output matrix: on the starter model 56 MB at every first token, more time than the rest of a short prompt takes.
    """
    hook = model.get_output_embeddings().register_forward_pre_hook(
        lambda layer, given: (given[0].clone(memory_format=torch.contiguous_format), *given[1:])
    )
    try:
        yield
    finally:
        hook.remove()


def _take(pane: PaneState, token: int, settings: Decoding, began: float) -> None:
    """Book one token to a pane and say why it ends, if it does."""
    pane.seconds = time.perf_counter() - began
    pane.first_token_s = pane.first_token_s or pane.seconds
    pane.tokens.append(token)
    if token in settings.stop_ids:
        pane.stopped_by = "end of answer"
        return
    settings.on_token(pane.name, token)
    if settings.is_cancelled():
        pane.stopped_by = "you"
    elif len(pane.tokens) >= settings.sampling.max_new_tokens:
        pane.stopped_by = "token limit"
    elif len(pane.tokens) >= pane.room:
        pane.stopped_by = "end of the context"
