"""Prompts of different lengths in one batch, exactly: padded on the left, and each row attends to its own text only.

Everything but attention works on positions one by one, so padding is only computed in vain there. A mask would keep it out of attention,
but with one torch takes another kernel, and in bfloat16 the answers then lie as far from the row's own pass as bfloat16 lies from
float32. Here each row's attention is the very call it would be alone. Masks and layers that remember by other means than attention are
not known here: `can_batch` refuses their models.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

NAME = "studio_rows"


class Rows:
    """What the model reads next: `ids` (rows, positions), row i's text beginning at column `starts[i]` of everything read so far."""

    def __init__(self, prompts: Sequence[Sequence[int]], device: Any) -> None:
        self.length = max(map(len, prompts))
        self.starts = [self.length - len(prompt) for prompt in prompts]
        self.ids = torch.tensor([[0] * start + list(prompt) for start, prompt in zip(self.starts, prompts, strict=True)], device=device)

    def arguments(self) -> dict[str, Tensor]:
        """The model's arguments. A padded row counts its positions from where its text begins."""
        if not any(self.starts):
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
        if any(self.starts):
            AttentionInterface.register(NAME, self._attend)
            config._attn_implementation = NAME
        try:
            yield
        finally:
            config._attn_implementation = before

    def _attend(self, module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **options: Any) -> tuple[Tensor, None]:
        """query (rows, heads, positions, width), key and value (rows, groups, all positions, width) -> (rows, positions, heads, width)."""
        rows, heads, positions, _ = query.shape
        attended = query.new_zeros(rows, positions, heads, value.shape[-1])
        for row, start in enumerate(self.starts):
            one, first = slice(row, row + 1), max(start - (self.length - positions), 0)
            of_row = query[one, :, first:], key[one, :, start:], value[one, :, start:]
            attended[one, first:] = sdpa_attention_forward(module, *of_row, None, **options)[0]
        return attended, None


def can_batch(model: Any) -> bool:
    """Whether prompts of different lengths can share a batch exactly: every layer attends to the whole text, through torch's attention."""
    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    sliding = getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True)
    replaceable = model._supports_attention_backend and config._attn_implementation == "sdpa"
    return replaceable and "position_ids" in inspect.signature(model.forward).parameters and kinds == {"full_attention"} and not sliding
