"""One decoding loop for any number of panes in a batch: the same prompt in every row, one key-value cache, rows leave when they end.

transformers' generate streams one row only and cannot be stopped between two tokens; this loop does both, and with temperature 0 in
float32 gives generate's tokens one for one (a test compares them). Which adapter answers in which row is the caller's `forward`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import torch

from studio.play.sampling import Sampling, pick_token

Rows = Callable[[Sequence[str]], AbstractContextManager[Any]]
"""Given the panes that are still answering, in batch order: a context within which the model answers as exactly those."""


@dataclass
class PaneState:
    """One pane while it answers. Times in seconds since the loop began."""

    name: str
    generator: torch.Generator
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
def decode(model: Any, prompt: Sequence[int], cache: Any, names: Sequence[str], as_rows: Rows, settings: Decoding) -> list[PaneState]:
    """Answer `prompt` (token ids) in every pane of `names`; `cache` may hold a prefix already. One state a pane, in order."""
    device = model.get_input_embeddings().weight.device
    panes = [PaneState(name, torch.Generator().manual_seed(settings.sampling.seed)) for name in names]
    began, past = time.perf_counter(), cache.get_seq_length()
    ids = torch.tensor([list(prompt)] * len(panes), device=device)
    room = min(settings.sampling.max_new_tokens, settings.context - past - len(prompt))
    if settings.is_cancelled():
        for pane in panes:
            pane.stopped_by = "you"
    active = [pane for pane in panes if not pane.stopped_by]
    while active:
        with as_rows([pane.name for pane in active]):
            while not any(pane.stopped_by for pane in active):
                logits = model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[:, -1].float().cpu()
                for row, pane in enumerate(active):
                    _take(pane, pick_token(logits[row], settings.sampling, pane.generator), settings, room, began)
                ids = torch.tensor([[pane.tokens[-1]] for pane in active], device=device)
        keep = [row for row, pane in enumerate(active) if not pane.stopped_by]
        active = [active[row] for row in keep]
        if active:
            cache.batch_select_indices(torch.tensor(keep, device=device))
            ids = ids[keep]
    return panes


def _take(pane: PaneState, token: int, settings: Decoding, room: int, began: float) -> None:
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
    elif len(pane.tokens) >= room:
        pane.stopped_by = "token limit" if room == settings.sampling.max_new_tokens else "end of the context"
