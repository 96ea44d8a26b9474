"""A text under the eye of several panes: how likely each finds every token, what it would rather have said, how far it is from the base.

For the tokens t_1..t_n of a text read as the answer to a prompt c, pane m: log p_m(t_i | c, t_<i) in nats; perplexity exp(-mean); and by
position KL(pane || base) = sum_v p_m(v) (log p_m(v) - log p_base(v)), which is 0 where nothing was changed. A pane is an adapter or
the base held in another way. Every pane reads the text in a pass of its own, so that no batch rounds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from studio.core.errors import PlayError
from studio.models.chat import Message
from studio.play.copies import Copies
from studio.play.engine import Engine
from studio.play.injection import BASE
from studio.play.rendering import show_token

MOST_TOKENS = 400
"""Of a text: the base's whole distribution is kept at every position."""
ALTERNATIVES = 5


def look_closer(
    copies: Copies, messages: Sequence[Message], text: str, panes: Sequence[str], strengths: Mapping[str, float]
) -> dict[str, Any]:  # fmt: skip
    """{tokens: [{text, panes: {pane: {logprob, top: [[text, p], ...], kl}}}], perplexity: {pane: value}}. Raises PlayError."""
    engine = copies.first
    loaded, _ = engine.ready([BASE, *(pane for pane in panes if pane not in copies.beside)])
    prompt = engine.encode(messages)
    ids = loaded.tokenizer(text, add_special_tokens=False)["input_ids"]
    if not ids:
        raise PlayError("There is no text to look at.", "Type one, or ask a question first.")
    if len(ids) > MOST_TOKENS or len(prompt) + len(ids) > engine.context:
        raise PlayError(
            f"The text has {len(ids):,} tokens, the prompt {len(prompt):,}.", f"Look at {MOST_TOKENS} tokens at most at a time."
        )
    tokens = [{"text": show_token(loaded.tokenizer, token), "panes": {}} for token in ids]
    perplexity, base = {}, None
    for pane in dict.fromkeys([BASE, *panes]):
        scores = _scores(*copies.place(pane), prompt, ids, strengths)
        base = scores if base is None else base
        chosen = scores.gather(1, torch.tensor(ids, device=scores.device)[:, None])[:, 0]
        perplexity[pane] = math.exp(min(-chosen.mean().item(), 700.0))
        divergence = (scores.exp() * (scores - base)).sum(-1).clamp_min(0)
        top = scores.topk(ALTERNATIVES)
        for place, token in enumerate(tokens):
            likely = zip(top.indices[place].tolist(), top.values[place].exp().tolist(), strict=True)
            token["panes"][pane] = {
                "logprob": chosen[place].item(), "kl": divergence[place].item(),
                "top": [[show_token(loaded.tokenizer, other), share] for other, share in likely],
            }  # fmt: skip
    return {"tokens": tokens, "perplexity": perplexity}


@torch.inference_mode()
def _scores(engine: Engine, pane: str, prompt: Sequence[int], ids: Sequence[int], strengths: Mapping[str, float]) -> torch.Tensor:
    """(len(ids), vocabulary) log-probabilities of what comes at each of the text's places."""
    loaded, injection = engine.ready([pane])
    model = loaded.model
    injection.hold([pane])
    if pane != BASE:
        injection.set_strength(pane, strengths.get(pane, 1.0))
    device = model.get_input_embeddings().weight.device
    batch = torch.tensor([[*prompt, *ids]], device=device)
    cache = injection.new_cache([pane])
    with injection.rows([pane]):
        logits = model(input_ids=batch, past_key_values=cache, use_cache=True, logits_to_keep=len(ids) + 1).logits[0, :-1]
    return logits.float().log_softmax(-1)
