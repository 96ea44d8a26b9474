"""The language-model loss at trained-on positions only.

The LM head is the widest matrix of a small model (SmolLM2-135M: 28 of 135 million parameters), and prompts and padding need none of
it. Hidden states are taken just before the head, those whose next token is trained on are kept, and the head runs there alone: the
same sum of cross-entropies, computed in fp32 from logits in the model's own precision.

Where the head is a plain frozen linear layer its gradient is known in closed form, (softmax - one_hot) W, so it is computed chunk by
chunk in the forward pass and no logits are kept. Any other head (trained, soft-capped, scaled) runs through the model's own code at
the kept positions. Works for every method, prefix included, because the model's own forward runs either way: a hook on the head does
the selection. Knows nothing of label smoothing or auxiliary losses.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from studio.train.batches import IGNORED

CHUNK_LOGITS = 32 * 1024 * 1024
"""Logits held at once in the closed form: 128 MiB in fp32."""
ROW_STEP = 32
"""Positions go through the head in whole steps, for the reason of batches.WIDTH_STEP."""

SCALED_LOGITS = ("final_logit_softcapping", "logit_scale", "logits_scaling", "logits_soft_cap")
"""Settings by which some models change their logits after the head (Gemma 2, Cohere, Granite)."""


def sum_loss(model: nn.Module, input_ids: Tensor, labels: Tensor, labelled_head: bool = True) -> Tensor:
    """Sum over all trained-on positions of the cross-entropy in nats, an fp32 scalar with its gradient.

    input_ids, labels: int64 (rows, positions), labels -100 where nothing is learned. Position t is judged by label t + 1.
    """
    targets = F.pad(labels[:, 1:], (0, 1), value=IGNORED)
    if not labelled_head:
        logits = model(input_ids=input_ids, use_cache=False).logits
        return F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="sum")
    kept = targets != IGNORED
    head = model.get_output_embeddings()  # type: ignore[operator]
    if _is_plain(model, head):
        with _hidden_states(head) as captured:
            model(input_ids=input_ids, use_cache=False)
        return _FrozenHeadLoss.apply(captured[0][kept], head.weight, head.bias, targets[kept])
    with _head_at(head, kept):
        logits = model(input_ids=input_ids, use_cache=False).logits
    return F.cross_entropy(logits.float().flatten(0, 1), targets[kept], reduction="sum")


def count_labels(labels: Tensor) -> Tensor:
    """How many positions are trained on: the divisor that turns sums of losses into a mean per token."""
    return labels[:, 1:].ne(IGNORED).sum()


def _is_plain(model: nn.Module, head: nn.Module) -> bool:
    """A frozen nn.Linear whose output is the logits."""
    config: Any = getattr(model, "config", None)
    changed = any(getattr(config, name, None) not in (None, 1, 1.0) for name in SCALED_LOGITS)
    return type(head) is nn.Linear and not any(p.requires_grad for p in head.parameters()) and not changed


@contextmanager
def _hidden_states(head: nn.Module) -> Iterator[list[Tensor]]:
    """Within, the head's input is put into the yielded list and the head itself sees no position."""
    captured: list[Tensor] = []

    def capture(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        captured.append(args[0])
        return (args[0][:, :0], *args[1:])

    handle = head.register_forward_pre_hook(capture)
    try:
        yield captured
    finally:
        handle.remove()


@contextmanager
def _head_at(head: nn.Module, kept: Tensor) -> Iterator[None]:
    """Within, the head sees only the positions of `kept` (rows, positions), as one row."""
    handle = head.register_forward_pre_hook(lambda _, args: (args[0][kept].unsqueeze(0), *args[1:]))
    try:
        yield
    finally:
        handle.remove()


class _FrozenHeadLoss(torch.autograd.Function):
    """Sum of cross-entropies of hidden (n, width) through a frozen head (vocabulary, width), its gradient computed in the same pass."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> Tensor:
        needs_gradient = ctx.needs_input_grad[0]
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        gradient = torch.empty_like(hidden) if needs_gradient else None
        rows = max(1, CHUNK_LOGITS // weight.shape[0] // ROW_STEP) * ROW_STEP
        for start in range(0, hidden.shape[0], rows):
            part, wanted = hidden[start : start + rows].to(weight.dtype), targets[start : start + rows, None]
            count = part.shape[0]
            extra = (0, 0, 0, -count % ROW_STEP)
            part, wanted = F.pad(part, extra), F.pad(wanted, extra)
            logits = F.linear(part, weight, bias).float()
            total += (torch.logsumexp(logits, -1) - logits.gather(1, wanted)[:, 0])[:count].sum()
            if gradient is not None:
                slope = torch.softmax(logits, -1).scatter_add_(1, wanted, logits.new_full(wanted.shape, -1.0))
                gradient[start : start + rows] = (slope.to(weight.dtype) @ weight)[:count]
                del slope
            # Freed before the next chunk is computed, not after: two chunks at once are what sets the peak.
            del logits
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, None, None, None]:  # type: ignore[override]
        (gradient,) = ctx.saved_tensors
        return gradient * upstream.to(gradient.dtype), None, None, None
