"""Conversations of different lengths in one batch, exactly: each prompt is read by itself, then all answer together.

A padded batch with a mask would do for exact arithmetic. In bfloat16 its answers lie as far from the row's own pass as bfloat16 lies from
float32: torch takes another attention kernel for a mask, and products over a longer batch sum in another order. So a prompt is read in a
pass of its own, what was read is put side by side, padded on the left, and from then on each row attends to its own text only, with the
very call it would make alone. Layers that remember by other means than attention are not known here: `can_batch` refuses their models.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import AttentionInterface, DynamicCache
from transformers.integrations.sdpa_attention import sdpa_attention_forward

NAME = "studio_rows"


class Rows:
    """What the model reads next: `ids` (rows, positions), row i's text beginning at column `starts[i]` of everything read so far."""

    def __init__(self, prompts: Sequence[Sequence[int]], device: Any) -> None:
        self.length = max(map(len, prompts))
        self.starts = [self.length - len(prompt) for prompt in prompts]
        self.ids = torch.tensor([[0] * start + list(prompt) for start, prompt in zip(self.starts, prompts, strict=True)], device=device)

    @property
    def differ(self) -> bool:
        """Whether lengths differ; then `read_apart` comes first, and each row attends to its own text."""
        return any(self.starts)

    def read_apart(self, model: Any, cache: Any, as_row: Callable[[int], AbstractContextManager[Any]]) -> Tensor:
        """Read each prompt by itself within `as_row(row)`, into the empty `cache`. Logits of what comes next: (rows, vocabulary)."""
        logits, read = [], []
        for row, start in enumerate(self.starts):
            read.append(DynamicCache(config=model.config))
            with as_row(row):
                ids = self.ids[row : row + 1, start:]
                logits.append(model(input_ids=ids, past_key_values=read[-1], use_cache=True, logits_to_keep=1).logits[:, -1])
        for index, layers in enumerate(zip(*(own.layers for own in read), strict=True)):
            padded = [[pad(part, (0, 0, start, 0)) for part in (layer.keys, layer.values)]
                      for layer, start in zip(layers, self.starts, strict=True)]  # fmt: skip
            cache.update(*(torch.cat(parts) for parts in zip(*padded, strict=True)), index)
        return torch.cat(logits)

    def arguments(self) -> dict[str, Tensor]:
        """The model's arguments. A padded row counts its positions from where its text begins."""
        if not self.differ:
            return {"input_ids": self.ids}
        device = self.ids.device
        columns = torch.arange(self.length - self.ids.shape[1], self.length, device=device)
        return {"input_ids": self.ids, "position_ids": (columns - torch.tensor(self.starts, device=device)[:, None]).clamp_min(0)}

    def go_on(self, tokens: Sequence[int]) -> None:
        """Each row has been read; its token of `tokens` comes next."""
        self.ids = torch.tensor(tokens, device=self.ids.device)[:, None]
        self.length += 1

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows (indices) alone."""
        self.ids = self.ids[rows]
        self.starts = [self.starts[row] for row in rows.tolist()]

    @contextlib.contextmanager
    def attention(self, model: Any) -> Iterator[None]:
        """Within it the model's rows attend to their own text."""
        config = model.config.get_text_config()
        before = config._attn_implementation
        if self.differ:
            AttentionInterface.register(NAME, self._attend)
            config._attn_implementation = NAME
        try:
            yield
        finally:
            config._attn_implementation = before

    def _attend(self, module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **options: Any) -> tuple[Tensor, None]:
        """query (rows, heads, 1, width), key and value (rows, groups, positions, width) -> (rows, 1, heads, width)."""
        attended = []
        for row, start in enumerate(self.starts):
            own = query[row : row + 1], key[row : row + 1, :, start:], value[row : row + 1, :, start:]
            attended.append(sdpa_attention_forward(module, *own, None, **options)[0])
        return torch.cat(attended), None


def can_batch(model: Any) -> bool:
    """Whether prompts of different lengths can share a batch exactly: every layer attends to the whole text, through torch's attention."""
    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    sliding = getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True)
    replaceable = model._supports_attention_backend and config._attn_implementation == "sdpa"
    return replaceable and "position_ids" in inspect.signature(model.forward).parameters and kinds == {"full_attention"} and not sliding
