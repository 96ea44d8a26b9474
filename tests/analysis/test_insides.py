"""What a prompt does inside adapters and prefixes, against the same sums done by hand in numpy and against transformers' own attention."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from studio.analysis.insides import TANH_ACTIVE, adapter_insides, prefix_insides
from studio.analysis.insides_report import MAX_TOKENS, insides_report
from studio.core.errors import AnalysisError, MethodError, StudioError
from studio.core.paths import StudioHome
from studio.core.spec import RunSpec
from studio.methods import get_method
from studio.methods.adapters import save_adapter

IDS = [5, 17, 123, 9, 201, 44, 8]
DEAD = 3
ACTS = {
    "relu": lambda x: np.maximum(x, 0),
    "gelu": lambda x: torch.nn.functional.gelu(torch.from_numpy(x)).numpy(),
    "silu": lambda x: x / (1 + np.exp(-x)),
    "tanh": np.tanh,
}


@pytest.fixture
def attach(tiny_llama):
    """attach(family, attention, **settings) -> the tiny Llama in fp32 with a fresh adapter or prefix."""

    def make(family, attention="sdpa", **settings):
        base = AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32, attn_implementation=attention)
        spec = RunSpec.parse({"model": {"id": str(tiny_llama)}, "method": {"family": family, **settings}})
        torch.manual_seed(0)
        return get_method(family).attach(base, spec, AutoTokenizer.from_pretrained(tiny_llama)).eval()

    return make


def stir(model):
    """Move whatever is trained away from its start."""
    torch.manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter.data, std=0.5)
    return model


def numbers(parameter):
    return parameter.detach().double().numpy()


def normed(x, norm):
    return x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + norm.variance_epsilon) * numbers(norm.weight)


def embedded(model):
    return numbers(model.get_input_embeddings().weight)[IDS]


# Adapters


@pytest.mark.parametrize("activation", ACTS)
@pytest.mark.parametrize("placement", ["pfeiffer", "parallel"])
def test_units_and_norms_are_those_worked_out_by_hand(placement, activation, attach):
    """In layer 0 with a silent attention: x = embedding, h = MLP(norm(x)), the rest as in the papers."""
    model = stir(attach("adapter", placement=placement, activation=activation, bottleneck=8))
    layer = model.base_model.model.model.layers[0]
    layer.self_attn.o_proj.weight.data.zero_()
    wrapped = layer.mlp if placement == "parallel" else layer.mlp.down_proj
    mlp = wrapped.get_base_layer() if placement == "parallel" else layer.mlp
    down_proj = mlp.down_proj if placement == "parallel" else wrapped.get_base_layer()
    into = normed(embedded(model), layer.post_attention_layernorm)
    hidden = (ACTS["silu"](into @ numbers(mlp.gate_proj.weight).T) * (into @ numbers(mlp.up_proj.weight).T)) @ numbers(down_proj.weight).T
    down, up = wrapped.bottleneck_down["default"], wrapped.bottleneck_up["default"]
    inner = ACTS[activation]((into if placement == "parallel" else hidden) @ numbers(down.weight).T + numbers(down.bias))
    change = inner @ numbers(up.weight).T + numbers(up.bias)
    sizes, added = np.linalg.norm(hidden, axis=1), np.linalg.norm(change, axis=1)

    seen = adapter_insides(model, IDS)
    first = seen.places[0]
    active = np.abs(inner) > TANH_ACTIVE if activation == "tanh" else inner > 0
    assert first.active == tuple(active.sum(axis=0))
    assert 0 < sum(first.active) < 8 * len(IDS)
    assert (first.layer, first.name) == (0, f"model.layers.0.{first.place}")
    assert (seen.tokens, len(seen.places)) == (len(IDS), 2)
    assert first.hidden_norm == pytest.approx(sizes.mean(), rel=1e-5)
    assert first.change_norm == pytest.approx(added.mean(), rel=1e-5)
    assert first.ratio == pytest.approx((added / sizes).mean(), rel=1e-5)


@pytest.mark.parametrize("activation", ACTS)
def test_a_dead_unit_is_found_and_only_that(activation, attach):
    model = stir(attach("adapter", placement="houlsby", activation=activation, bottleneck=8))
    down = model.base_model.model.model.layers[1].mlp.down_proj.bottleneck_down["default"]
    down.weight.data.zero_()
    down.bias.data.fill_(2.0)
    down.bias.data[DEAD] = 0.0 if activation == "tanh" else -50.0
    seen = adapter_insides(model, IDS)
    assert [place.place for place in seen.places] == ["self_attn.o_proj", "mlp.down_proj"] * 2
    assert [place.layer for place in seen.places] == [0, 0, 1, 1]
    assert seen.places[3].active == tuple(0 if unit == DEAD else len(IDS) for unit in range(8))


@pytest.mark.parametrize("placement", ["houlsby", "pfeiffer", "parallel"])
def test_at_its_start_an_adapter_adds_nothing(placement, attach):
    for place in adapter_insides(attach("adapter", placement=placement), IDS).places:
        assert (place.change_norm, place.ratio) == (0, 0)
        assert place.hidden_norm > 0


def test_looking_leaves_no_hooks_and_changes_no_answer(attach):
    model = stir(attach("adapter"))
    ids = torch.tensor([IDS])
    with torch.no_grad():
        before = model(input_ids=ids).logits
        adapter_insides(model, IDS)
        assert torch.equal(model(input_ids=ids).logits, before)
    assert not any(part._forward_hooks for part in model.modules())


def test_an_adapter_that_diverged_is_named(attach):
    model = attach("adapter")
    model.base_model.model.model.layers[1].mlp.down_proj.bottleneck_up["default"].bias.data[0] = float("nan")
    with pytest.raises(AnalysisError, match=r"layers\.1\.mlp\.down_proj"):
        adapter_insides(model, IDS)


# Prefixes


@pytest.mark.parametrize("projection", [False, True])
def test_the_mass_is_what_transformers_says(projection, attach):
    model = attach("prefix", "eager", virtual_tokens=5, projection=projection)
    with torch.no_grad():
        attentions = model(input_ids=torch.tensor([IDS]), output_attentions=True).attentions
    seen = prefix_insides(model, IDS)
    assert (seen.tokens, seen.virtual_tokens, seen.layers) == (len(IDS), 5, (0, 1))
    for mass, weights in zip(seen.mass, attentions, strict=True):
        assert weights.shape == (1, 4, len(IDS), 5 + len(IDS))
        assert mass == pytest.approx(weights[0, :, :, :5].sum(dim=-1).mean(dim=-1).tolist(), rel=1e-6)


def test_the_mass_is_what_queries_and_keys_give_by_hand(attach):
    """Layer 0: q and k of the prompt turned by RoPE at positions 5 and on, the prefix's keys as they are; softmax over both."""
    model = stir(attach("prefix", "eager", virtual_tokens=5))
    layer = model.base_model.model.layers[0]
    into = normed(embedded(model.base_model), layer.input_layernorm)
    query, key = (
        rotated((into @ numbers(part.weight).T).reshape(len(IDS), -1, 16)) for part in (layer.self_attn.q_proj, layer.self_attn.k_proj)
    )
    prefix = numbers(model.prompt_encoder["default"].embedding.weight)[:, :32].reshape(5, 2, 16)
    for head in range(4):
        keys = np.concatenate([prefix[:, head // 2], key[:, head // 2]])
        scores = query[:, head] @ keys.T / 4
        scores[np.arange(5 + len(IDS)) > 5 + np.arange(len(IDS))[:, None]] = -np.inf
        weights = np.exp(scores - scores.max(axis=1, keepdims=True))
        expected = (weights[:, :5].sum(axis=1) / weights.sum(axis=1)).mean()
        assert prefix_insides(model, IDS).mass[0][head] == pytest.approx(expected, rel=1e-4)


def rotated(x, start=5, theta=10_000.0):
    """RoPE on (tokens, heads, width), halves paired as Llama pairs them."""
    half = x.shape[-1] // 2
    angle = np.outer(np.arange(start, start + len(x)), theta ** (-np.arange(half) / half))[:, None]
    low, high = x[..., :half], x[..., half:]
    return np.concatenate([low * np.cos(angle) - high * np.sin(angle), high * np.cos(angle) + low * np.sin(angle)], axis=-1)


def test_heads_that_cannot_tell_keys_apart_spread_evenly(attach):
    """With all scores zero a token gives every key it sees the same: P / (P + t)."""
    model = attach("prefix", "eager", virtual_tokens=5)
    for layer in model.base_model.model.layers:
        layer.self_attn.q_proj.weight.data.zero_()
    seen = prefix_insides(model, IDS)
    assert seen.even_share == pytest.approx(np.mean([5 / (5 + t) for t in range(1, len(IDS) + 1)]))
    assert np.array(seen.mass) == pytest.approx(seen.even_share, rel=1e-5)


def test_attention_that_hides_its_weights_is_said(attach):
    with pytest.raises(AnalysisError, match="does not show its weights"):
        prefix_insides(attach("prefix", "sdpa"), IDS)


# The report


@pytest.fixture
def saved(attach, tiny_llama, tmp_path):
    """saved(family, **settings) -> a folder with a stirred adapter on the tiny Llama."""

    def save(family, **settings):
        spec = RunSpec.parse({"model": {"id": str(tiny_llama)}, "method": {"family": family, **settings}})
        save_adapter(stir(attach(family, **settings)), tmp_path / family, spec)
        return tmp_path / family

    return save


@pytest.mark.parametrize("family", ["adapter", "prefix"])
def test_a_folder_is_reported_as_json(family, saved, studio_home):
    told = []
    report = insides_report(str(saved(family)), "Count the words.", StudioHome.find(studio_home), report=told.append)
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert report["family"] == family
    assert report["tokens"] > 5
    assert len(report["places" if family == "adapter" else "mass"]) == 2
    assert told == ["Loading the model", "Reading the prompt"]


def test_a_run_is_read_on_its_own_base(saved, tiny_llama, studio_home):
    home = StudioHome.find(studio_home)
    run = home.runs / "20260101-000000-prefixed"
    folder = saved("prefix", virtual_tokens=4)
    run.mkdir()
    folder.rename(run / "adapter")
    (run / "spec.json").write_text(json.dumps(RunSpec.parse({"model": {"id": str(tiny_llama)}, "method": {"family": "prefix"}}).to_json()))
    report = insides_report(run.name, "Count.", home)
    assert (report["virtual_tokens"], report["base"]) == (4, str(tiny_llama))


def break_weights(folder: Path):
    tensors = load_file(folder / "adapter_model.safetensors")
    tensors.pop(next(name for name in tensors if name.endswith("up.bias")))
    save_file(tensors, folder / "adapter_model.safetensors")


@pytest.mark.parametrize(
    ("change", "kind", "told"),
    [
        (break_weights, MethodError, "is not whole"),
        (lambda folder: (folder / "adapter_model.safetensors").unlink(), MethodError, "has no weights"),
        (lambda folder: (folder / "adapter_config.json").write_text("{"), MethodError, "damaged"),
        (lambda folder: rewrite(folder, base_model_name_or_path=""), AnalysisError, "does not say which base"),
        (lambda folder: rewrite(folder, base_model_name_or_path="Qwen/Qwen2.5-0.5B"), AnalysisError, "not on this disk"),
    ],
)
def test_what_cannot_be_looked_into_is_said(change, kind, told, saved, studio_home):
    folder = saved("adapter")
    change(folder)
    with pytest.raises(kind, match=told) as caught:
        insides_report(str(folder), "Count.", StudioHome.find(studio_home))
    assert caught.value.hint


def rewrite(folder: Path, **changes):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(("prompt", "told"), [(" \n", "prompt is empty"), ("word " * 2 * MAX_TOKENS, "at most 1,024")])
def test_a_prompt_that_cannot_be_read_is_said(prompt, told, saved, studio_home):
    with pytest.raises(AnalysisError, match=told):
        insides_report(str(saved("adapter")), prompt, StudioHome.find(studio_home))


def test_a_lora_has_other_insides(write_adapter, random_factors, tmp_path, studio_home):
    folder = write_adapter(tmp_path / "lora", {"model.layers.0.self_attn.q_proj": random_factors(64, 64, 4)})
    with pytest.raises(StudioError, match="no units and no prefix"):
        insides_report(str(folder), "Count.", StudioHome.find(studio_home))


@pytest.mark.real
@pytest.mark.parametrize("settings", [{"family": "adapter", "placement": "houlsby"}, {"family": "prefix", "virtual_tokens": 16}], ids=str)
def test_the_starter_model(settings, starter_home, tmp_path):
    """At their start an adapter adds nothing to 30 layers, and a prefix of 16 text tokens draws some of every head's attention."""
    from studio.models.load import load_base

    home = StudioHome.find(starter_home)
    spec = RunSpec.parse({"method": settings})
    loaded = load_base(spec, home)
    save_adapter(get_method(settings["family"]).attach(loaded.model, spec, loaded.tokenizer), tmp_path / "fresh", spec)
    report = insides_report(str(tmp_path / "fresh"), "Write a Python function that reverses a list.", home)
    if settings["family"] == "adapter":
        assert [place["layer"] for place in report["places"]] == [layer for layer in range(30) for _ in range(2)]
        assert {place["change_norm"] for place in report["places"]} == {0}
        shares = [count / report["tokens"] for place in report["places"] for count in place["active"]]
        assert 0.3 < sum(shares) / len(shares) < 0.7
    else:
        assert np.array(report["mass"]).shape == (30, 9)
        assert 0 < np.min(report["mass"]) < report["even_share"] < np.max(report["mass"]) <= 1
