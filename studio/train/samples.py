"""Greedy answers of the model in training to a few prompts: short, in one batch, without touching any random state."""

from __future__ import annotations

from typing import Any

import torch

from studio.models.chat import encode_prompt
from studio.train.engine import evaluating

MAX_NEW_TOKENS = 80


@torch.no_grad()
def answer_prompts(model: Any, tokenizer: Any, prompts: list[str], system_prompt: str = "") -> list[str]:
    """One answer a prompt, of at most MAX_NEW_TOKENS tokens, each as if it were asked alone."""
    system = [{"role": "system", "content": system_prompt}] if system_prompt.strip() else []
    encoded = [encode_prompt(tokenizer, [*system, {"role": "user", "content": prompt}]) for prompt in prompts]
    width = max(len(ids) for ids in encoded)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id or 0
    device = next(model.parameters()).device
    ids = torch.tensor([[pad] * (width - len(one)) + one for one in encoded], device=device)
    mask = torch.tensor([[0] * (width - len(one)) + [1] * len(one) for one in encoded], device=device)
    with evaluating(model):
        output = model.generate(
            input_ids=ids, attention_mask=mask, max_new_tokens=MAX_NEW_TOKENS, do_sample=False, pad_token_id=pad, use_cache=True
        )
    return [tokenizer.decode(row[width:], skip_special_tokens=True).strip() for row in output]
