"""The fused LoRA layer against PEFT's own: outputs and gradients, and every case it must leave to PEFT."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from studio.train.fast_lora import fuse_lora

IDS = torch.arange(4, 52).reshape(2, 24)


def make_model(folder: Path, dtype: torch.dtype = torch.float32, **config: Any) -> Any:
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=16, target_modules="all-linear", **config))
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator)), name
    return model.eval()


def run(model: Any, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    model.zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype != torch.float32):
        logits = model(input_ids=IDS).logits
    logits.float().log_softmax(-1)[..., 7].sum().backward()
    return logits.detach().float(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("use_rslora", [False, True])
def test_it_computes_what_peft_computes(tiny_llama: Path, use_rslora: bool) -> None:
    model = make_model(tiny_llama, use_rslora=use_rslora)
    fused = copy.deepcopy(model)
    assert fuse_lora(fused) == 14  # 7 linear layers in each of 2
    (expected, slopes), (found, fused_slopes) = run(model), run(fused)
    assert torch.allclose(found, expected, atol=1e-5)
    assert fused_slopes.keys() == slopes.keys()
    for name, slope in slopes.items():
        assert fused_slopes[name].dtype == torch.float32
        assert torch.allclose(fused_slopes[name], slope, atol=1e-5, rtol=1e-4), name


def test_in_bf16_it_is_as_close_to_fp32_as_peft_is(tiny_llama: Path) -> None:
    exact, _ = run(make_model(tiny_llama))
    model = make_model(tiny_llama, torch.bfloat16)
    fused = copy.deepcopy(model)
    fuse_lora(fused)
    usual, found = run(model, torch.bfloat16)[0], run(fused, torch.bfloat16)[0]
    assert (found - exact).norm() <= 1.1 * (usual - exact).norm()


def test_disabling_and_merging_still_work(tiny_llama: Path) -> None:
    model = make_model(tiny_llama)
    fuse_lora(model)
    base = AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32)
    with torch.no_grad():
        adapted = model(input_ids=IDS).logits
        with model.disable_adapter():
            assert torch.equal(model(input_ids=IDS).logits, base(input_ids=IDS).logits)
        mixed = model(input_ids=IDS, adapter_names=["__base__", "default"]).logits
        assert torch.allclose(mixed[0], base(input_ids=IDS).logits[0], atol=1e-5)
        assert torch.allclose(mixed[1], adapted[1], atol=1e-5)
        model.merge_adapter()
        assert torch.allclose(model(input_ids=IDS).logits, adapted, atol=1e-4)


@pytest.mark.parametrize("config", [{"lora_dropout": 0.1}, {"use_dora": True}, {"lora_bias": True}])
def test_other_layers_stay_with_peft(tiny_llama: Path, config: dict[str, Any]) -> None:
    assert fuse_lora(make_model(tiny_llama, **config)) == 0
