"""Causal attention for training on a CPU: plain batched matrix products instead of torch's fused kernel.

On short sequences the CPU's flash kernel is the slower one, above all backward, and needs keys and values repeated for grouped
queries. Here the query heads of a group are rows of one product with their shared key, so nothing is copied. The price is memory: the
probabilities of a layer are kept for the backward pass, at most MAX_BYTES of them; longer batches, and whatever this does not cover
(a mask, dropout, a cache, soft-capping), go to sdpa as before. Same numbers up to rounding of the base's dtype.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

NAME = "studio_cpu"
MAX_BYTES = 32 * 1024 * 1024
UNCOVERED = ("softcap", "position_bias", "s_aux", "cache")


def use_cpu_attention(model: Any) -> None:
    """Switch a model that runs on sdpa. One that does not support sdpa, or was told to use another, stays as it is."""
    if model.config._attn_implementation != "sdpa":
        return
    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    model.set_attn_implementation(NAME)


def attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, Tensor | None]:
    """query (batch, heads, positions, width), key and value (batch, groups, positions, width) -> (batch, positions, heads, width)."""
    if not _is_covered(module, query, key, attention_mask, options):
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    batch, heads, positions, width = query.shape
    groups = key.shape[1]
    together = heads // groups
    scale = options.get("scaling") or width**-0.5
    future = torch.full((positions, positions), -torch.inf, dtype=query.dtype, device=query.device).triu_(1).repeat(together, 1)
    rows = query.reshape(batch * groups, together * positions, width)
    keys = key.reshape(batch * groups, positions, width)
    values = value.reshape(batch * groups, positions, value.shape[-1])
    with torch.autocast(query.device.type, enabled=False):
        probabilities = torch.softmax(torch.baddbmm(future, rows, keys.transpose(1, 2), alpha=scale), -1)
        attended = torch.bmm(probabilities, values)
    return attended.view(batch, heads, positions, -1).transpose(1, 2).contiguous(), None


def _is_covered(module: nn.Module, query: Tensor, key: Tensor, attention_mask: Tensor | None, options: dict[str, Any]) -> bool:
    """Causal over one whole sequence, of one dtype, and small enough."""
    causal = options.get("is_causal")
    causal = getattr(module, "is_causal", True) if causal is None else causal
    batch, heads, positions, _ = query.shape
    return (
        bool(causal)
        and attention_mask is None
        and key.shape[2] == positions
        and query.dtype == key.dtype
        and heads % key.shape[1] == 0
        and not options.get("dropout")
        and all(options.get(name) is None for name in UNCOVERED)
        and batch * heads * positions * positions * query.element_size() <= MAX_BYTES
    )
