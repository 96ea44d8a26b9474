"""LoRA on the tiny Llama: counts against PEFT's own, no-op starts, saving, bad input."""

from __future__ import annotations

import pytest
import torch

from studio.methods import get_method

COUNTED = [
    {},
    {"rank": 3, "targets": "attention"},
    {"rank": 4, "targets": "mlp"},
    {"targets": ["q_proj", "v_proj"]},
    {"targets": ["mlp.up_proj", "self_attn.q_proj"]},
    {"targets": "attention", "dora": True},
    {"layers": [1]},
    {"layers": [1], "dora": True, "rank": 2},
    {"rank_pattern": {"q_proj": 2, "v_proj": 16}},
    {"rank_pattern": {"layers.1.self_attn.q_proj": 3}},
    {"rank_pattern": {"model.layers.0.mlp.*": 5, "up_proj": 2}},
    {"rank_pattern": {"mlp.up_proj": 2}, "rslora": True},
    {"init": "gaussian"},
    {"init": "pissa"},
    {"init": "olora", "rank": 5},
]


@pytest.mark.parametrize("settings", COUNTED, ids=str)
def test_counts_what_peft_trains(settings, tiny_base, make_spec, tiny_shape, tiny_tokenizer):
    spec = make_spec(**settings)
    method = get_method("lora")
    assert method.problems(spec, tiny_shape) == []
    trained, _ = method.attach(tiny_base(), spec, tiny_tokenizer).get_nb_trainable_parameters()
    assert method.added_parameters(spec.method, tiny_shape) == trained
    assert method.describe(spec.method, tiny_shape).parameters == trained


@pytest.mark.parametrize("settings", [{}, {"init": "gaussian"}, {"dora": True}, {"rslora": True, "layers": [0]}], ids=str)
def test_starts_as_the_base(settings, tiny_base, make_spec, tiny_tokenizer, logits_of):
    base = tiny_base()
    before = logits_of(base)
    adapted = get_method("lora").attach(base, make_spec(**settings), tiny_tokenizer).eval()
    tolerance = {"rtol": 1e-4, "atol": 1e-5} if settings.get("dora") else {"rtol": 0, "atol": 0}
    torch.testing.assert_close(logits_of(adapted), before, **tolerance)
