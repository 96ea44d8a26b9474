"""Several LoRA adapters, and the base, in one batch: each row of every adapted layer gets its own pane's update, and base rows get none.

PEFT's mixed batches do the same through hooks and index lists built anew in every layer at every token, which costs more than the
arithmetic when a step is one token long. Here the rows of a pane are a slice and the weights are looked up once. Numbers: y = W x, and
for a pane's rows + s B A x in the adapter's own precision, as PEFT's single-adapter forward computes it (peft/tuners/lora/layer.py).

Does not know DoRA and other variants, Conv1D and embeddings: `can_slice` says no and PEFT's own way is taken.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

BASE_TAG = "__base__"

Slices = list[tuple[int, int, str]]


def can_slice(model: Any, tags: Sequence[str]) -> bool:
    """Every layer these adapters are in is a plain LoRA over a linear layer."""
    used = set(tags) - {BASE_TAG}
    for layer in lora_layers(model):
        if layer.merged or any(tag in layer.lora_variant for tag in used):
            return False
        if any(tag in layer.lora_A and type(layer.lora_A[tag]) is not nn.Linear for tag in used) or layer.lora_embedding_A:
            return False
    return True


def lora_layers(model: Any) -> list[Any]:
    from peft.tuners.lora.layer import LoraLayer

    return [module for module in model.modules() if isinstance(module, LoraLayer)]


@contextlib.contextmanager
def sliced_rows(model: Any, tags: Sequence[str]) -> Iterator[None]:
    """Within it row i of a batch of len(tags) answers as the adapter tags[i], or as the base for BASE_TAG."""
    slices: Slices = []
    row = 0
    for tag, group in groupby(tags):
        count = len(list(group))
        slices.append((row, row + count, tag))
        row += count
    changed = lora_layers(model)
    for layer in changed:
        layer.forward = make_forward(layer, slices)
    try:
        yield
    finally:
        for layer in changed:
            del layer.forward


def make_forward(layer: Any, slices: Slices) -> Callable[..., Tensor]:
    """The layer's forward with its adapters' weights at hand."""
    parts = [
        (first, last, layer.lora_A[tag].weight, layer.lora_B[tag].weight, layer.lora_B[tag].bias, float(layer.scaling[tag]))
        for first, last, tag in slices
        if tag != BASE_TAG and tag in layer.lora_A
    ]
    base = layer.base_layer

    def forward(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        result = base(x, *args, **kwargs)
        for first, last, down, up, bias, scale in parts:
            update = F.linear(F.linear(x[first:last].to(down.dtype), down), up, bias)
            result[first:last].add_(update, alpha=scale)
        return result

    return forward
