"""One decoding loop for any number of panes in a batch: a prompt a row, one key-value cache, rows leave when they end.

transformers' generate streams one row only and cannot be stopped between two tokens; this loop does both, and with temperature 0 in
float32 gives generate's tokens one for one (a test compares them). Shorter prompts are padded on the left and the padding is masked;
`can_pad` says for which models that is exact. Which adapter answers in which row is the caller's `as_rows`.
"""

from __future__ import annotations

import contextlib
import inspect
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import torch

from studio.play.sampling import Sampling, pick_token

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


class Rows:
    """What the model reads next, a row a pane. `mask` is (rows, length so far), 1 where there is text; None where no row is padded."""

    def __init__(self, prompts: Sequence[Sequence[int]], device: Any) -> None:
        longest = max(map(len, prompts))
        self.ids = torch.tensor([[0] * (longest - len(prompt)) + list(prompt) for prompt in prompts], device=device)
        starts = torch.tensor([longest - len(prompt) for prompt in prompts], device=device)
        self.mask = (torch.arange(longest, device=device) >= starts[:, None]).long() if starts.any() else None

    def arguments(self) -> dict[str, Any]:
        """The model's arguments. A padded row counts its positions from where its text begins."""
        if self.mask is None:
            return {"input_ids": self.ids}
        positions = (self.mask.cumsum(-1) - 1).clamp_min(0)[:, -self.ids.shape[1] :]
        return {"input_ids": self.ids, "attention_mask": self.mask, "position_ids": positions}

    def go_on(self, tokens: Sequence[int]) -> None:
        """Each row has been read; `tokens` come next."""
        self.ids = torch.tensor(tokens, device=self.ids.device)[:, None]
        if self.mask is not None:
            self.mask = torch.nn.functional.pad(self.mask, (0, 1), value=1)

    def keep(self, rows: torch.Tensor) -> None:
        self.ids = self.ids[rows]
        self.mask = None if self.mask is None else self.mask[rows]


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
    while active:
        with as_rows([pane.name for pane in active]), _lone_positions(model):
            while not any(pane.stopped_by for pane in active):
                logits = model(**rows.arguments(), past_key_values=cache, use_cache=True, logits_to_keep=1).logits[:, -1].float().cpu()
                for row, pane in enumerate(active):
                    _take(pane, pick_token(logits[row], settings.sampling, pane.generator), settings, began)
                rows.go_on([pane.tokens[-1] for pane in active])
        kept = [row for row, pane in enumerate(active) if not pane.stopped_by]
        active = [active[row] for row in kept]
        if active:
            kept_rows = torch.tensor(kept, device=rows.ids.device)
            cache.batch_select_indices(kept_rows)
            rows.keep(kept_rows)
    return panes


def can_pad(model: Any) -> bool:
    """Whether padding on the left changes nothing: every layer attends to the whole text, and positions can be told."""
    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    sliding = getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True)
    return "position_ids" in inspect.signature(model.forward).parameters and kinds == {"full_attention"} and not sliding


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
