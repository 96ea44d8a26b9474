"""The CPU attention against sdpa: outputs and gradients; what it does not cover goes to sdpa."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from transformers import AutoModelForCausalLM

from studio.train import cpu_attention
from studio.train.cpu_attention import attend, use_cpu_attention


def draw(groups: int, positions: int = 17) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(groups)
    shapes = [(2, 6, positions, 8), (2, groups, positions, 8), (2, groups, positions, 8)]
    return [torch.randn(shape, generator=generator, requires_grad=True) for shape in shapes]


@pytest.mark.parametrize("groups", [1, 2, 3, 6])
def test_it_is_causal_attention(groups: int) -> None:
    query, key, value = draw(groups)
    expected = F.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True, scale=0.3).transpose(1, 2)
    found, _ = attend(nn.Module(), query, key, value, None, scaling=0.3)
    assert torch.allclose(found, expected, atol=1e-6)
    weight = torch.randn(found.shape, generator=torch.Generator().manual_seed(9))
    slopes = [torch.autograd.grad((output * weight).sum(), (query, key, value), retain_graph=True) for output in (expected, found)]
    assert all(torch.allclose(one, other, atol=1e-5) for one, other in zip(*slopes, strict=True))


@pytest.mark.parametrize(
    "change", [{"mask": torch.ones(2, 1, 17, 17, dtype=torch.bool)}, {"dropout": 0.1}, {"is_causal": False}, {"limit": 10}, {"shorter": 3}]
)
def test_the_rest_goes_to_sdpa(change: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    monkeypatch.setattr(cpu_attention, "sdpa_attention_forward", lambda *args, **kwargs: calls.append((args, kwargs)))
    monkeypatch.setattr(cpu_attention, "MAX_BYTES", change.pop("limit", cpu_attention.MAX_BYTES))
    query, key, value = draw(2)
    query = query[:, :, -change.pop("shorter", 17) :]
    mask = change.pop("mask", None)
    attend(nn.Module(), query, key, value, mask, **change)
    assert len(calls) == 1 and calls[0][0][4] is mask and calls[0][1] == change


def test_a_model_gives_the_same_logits_with_and_without_padding(tiny_llama: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32)
    switched = copy.deepcopy(model)
    use_cpu_attention(switched)
    assert switched.config._attn_implementation == cpu_attention.NAME
    ids = torch.arange(4, 44).reshape(2, 20)
    mask = torch.ones_like(ids)
    mask[1, :6] = 0
    with torch.no_grad():
        for options in ({}, {"attention_mask": mask}):
            assert torch.allclose(switched(input_ids=ids, **options).logits, model(input_ids=ids, **options).logits, atol=1e-5)
        answers = [one.generate(ids, attention_mask=mask, max_new_tokens=8, do_sample=False).tolist() for one in (model, switched)]
    assert answers[0] == answers[1]


def test_another_implementation_is_left_alone(tiny_llama: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_llama, attn_implementation="eager")
    use_cpu_attention(model)
    assert model.config._attn_implementation == "eager"
