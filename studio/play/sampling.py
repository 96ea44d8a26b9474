"""From logits to a token: greedy, or temperature, top-k and top-p, each pane with the same seed's random numbers.

Every pane draws from a generator of its own with the same seed, so its n-th token meets the same random number as every other pane's
n-th: what differs between the answers is the adapter. Top-p is nucleus sampling (arXiv 1904.09751).
"""

from __future__ import annotations

import torch

from studio.core.sampling import Sampling


def pick_token(logits: torch.Tensor, sampling: Sampling, generator: torch.Generator) -> int:
    """The next token from one row's logits (vocabulary,)."""
    if sampling.temperature == 0:
        return int(logits.argmax())
    probabilities = torch.softmax(logits.float() / sampling.temperature, dim=-1)
    if sampling.top_k:
        kept = probabilities.topk(min(sampling.top_k, probabilities.numel()))
        probabilities = torch.zeros_like(probabilities).scatter_(0, kept.indices, kept.values)
    if sampling.top_p < 1:
        ordered, indices = probabilities.sort(descending=True)
        # A token stays while the mass before it is below top_p, so the first always stays.
        ordered[(ordered.cumsum(0) - ordered) >= sampling.top_p * ordered.sum()] = 0
        probabilities = torch.zeros_like(probabilities).scatter_(0, indices, ordered)
    return int(torch.multinomial(probabilities, 1, generator=generator))
