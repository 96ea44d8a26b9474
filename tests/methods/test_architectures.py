"""Every architecture a plan can be made for: each family attaches, and counts from the config what PEFT then trains."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from studio.core.errors import MethodError
from studio.methods import get_method
from studio.methods.adapters import load_adapter, save_adapter
from studio.methods.targets import LAYERS_PATH
from studio.models.shape import ARCHITECTURES, shape_from_config

ROPE = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
SIZES = {
    "gpt2": {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 128},
    "opt": {"hidden_size": 64, "ffn_dim": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "word_embed_proj_dim": 64},
    "qwen3": {**ROPE, "head_dim": 32},
    "gemma2": {**ROPE, "head_dim": 32},
}
SETTINGS = [
    {"family": "lora"},
    {"family": "lora", "targets": "attention", "dora": True},
    {"family": "lora", "targets": "mlp", "layers": [1]},
    {"family": "lora", "rank_pattern": {"PATH.0.*": 2, "1.*(fc2|down_proj|c_proj)": 3}},
    {"family": "adapter", "placement": "houlsby", "bottleneck": 8},
    {"family": "adapter", "placement": "pfeiffer", "bottleneck": 8},
    {"family": "adapter", "placement": "parallel", "bottleneck": 8},
    {"family": "prefix", "virtual_tokens": 4},
    {"family": "prefix", "virtual_tokens": 4, "init": "random", "projection": True},
]


def _build(kind):
    """A tiny random model of this type, the same at every call."""
    tokens = {"vocab_size": 120, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "max_position_embeddings": 128}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **tokens, **SIZES.get(kind, ROPE))).eval()


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_counts_what_peft_trains(kind, make_spec):
    model = _build(kind)
    shape = shape_from_config(model.config.to_dict())
    for template in SETTINGS:
        settings = dict(template)
        if "rank_pattern" in settings:
            path = LAYERS_PATH.get(kind, "model.layers")
            settings["rank_pattern"] = {key.replace("PATH", path): rank for key, rank in settings["rank_pattern"].items()}
        spec = make_spec(**settings)
        method = get_method(spec.method.family)
        if method.problems(spec, shape):
            # OPT's MLP is two layers without a block of their own, so nothing can be put beside it; both sides have to say so.
            assert (kind, settings.get("placement")) == ("opt", "parallel")
            with pytest.raises(MethodError, match="no block"):
                method.attach(_build(kind), spec, _Tokenizer())
            continue
        trained, _ = method.attach(_build(kind), spec, _Tokenizer()).get_nb_trainable_parameters()
        assert method.added_parameters(spec.method, shape) == trained, settings


class _Tokenizer:
    def __call__(self, text, add_special_tokens):
        return {"input_ids": [5, 6, 7]}


@pytest.mark.parametrize("kind", ["gpt2", "gemma2", "qwen3"])
@pytest.mark.parametrize("settings", [SETTINGS[0], {"family": "lora", "init": "pissa", "rank": 4}, SETTINGS[6], SETTINGS[7]], ids=str)
def test_lives_on_other_architectures(kind, settings, make_spec, tmp_path):
    spec = make_spec(**settings)
    method = get_method(spec.method.family)
    ids = torch.tensor([[3, 4, 5, 6, 7]])
    model = method.attach(_build(kind), spec, _Tokenizer())
    optimizer = torch.optim.AdamW(method.parameter_groups(model, spec))
    for _ in range(3):
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    save_adapter(model, tmp_path, spec)
    with torch.no_grad():
        trained = model.eval()(input_ids=ids).logits
        base = _build(kind)
        untouched = base(input_ids=ids).logits
        loaded = load_adapter(base, tmp_path, "mine")
        torch.testing.assert_close(loaded(input_ids=ids).logits, trained, rtol=1e-4, atol=1e-5)
        assert (trained - untouched).abs().max() > 1e-3
        with loaded.disable_adapter():
            assert torch.equal(loaded(input_ids=ids).logits, untouched)
        answer = loaded.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=1, output_logits=True, return_dict_in_generate=True
        )
    torch.testing.assert_close(answer.logits[0], trained[:, -1], rtol=1e-4, atol=1e-5)
