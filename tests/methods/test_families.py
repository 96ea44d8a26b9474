"""What every family must do on every base it runs on: start as the base, learn, save, load in plain PEFT, disable, generate, switch."""

from __future__ import annotations

import pytest
import torch
from peft import PeftModel

import studio.methods.bottleneck_tuner  # noqa: F401  registers the type for plain PEFT
from studio.methods import get_method
from studio.methods.adapters import describe_adapter, load_adapter, save_adapter, switch_adapter

SETTINGS = {
    "lora": {"family": "lora"},
    "dora": {"family": "lora", "dora": True, "targets": "attention"},
    "pissa": {"family": "lora", "init": "pissa", "rank": 4},
    "olora": {"family": "lora", "init": "olora", "rank": 4, "rslora": True, "rank_pattern": {"q_proj": 2}},
    "houlsby": {"family": "adapter", "placement": "houlsby", "bottleneck": 8},
    "pfeiffer": {"family": "adapter", "placement": "pfeiffer", "bottleneck": 8, "activation": "gelu"},
    "parallel": {"family": "adapter", "placement": "parallel", "reduction_factor": 8},
    "prefix": {"family": "prefix", "virtual_tokens": 5},
    "prefix-random": {"family": "prefix", "virtual_tokens": 5, "init": "random"},
    "prefix-projection": {"family": "prefix", "virtual_tokens": 5, "projection": True},
}
QUANTIZED = ["lora", "dora", "houlsby", "pfeiffer", "parallel", "prefix"]
CASES = [(name, "none") for name in SETTINGS] + [(name, base) for name in QUANTIZED for base in ("int8", "nf4")]
CASES.remove(("dora", "int8"))


def _settings(name, base):
    settings = dict(SETTINGS[name])
    if base in ("nf4", "fp4") and settings["family"] == "lora":
        settings["family"] = "qlora"
    return settings


@pytest.mark.parametrize(("name", "base"), CASES)
def test_the_whole_life_of_an_adapter(name, base, tiny_base, make_spec, tiny_tokenizer, train_steps, logits_of, first_step, tmp_path):
    torch.manual_seed(0)
    spec = make_spec(quantization=base, **_settings(name, base))
    method = get_method(spec.method.family)
    model = method.attach(tiny_base(base), spec, tiny_tokenizer)
    losses = train_steps(model, spec)
    assert losses[-1] < losses[0]
    trained = logits_of(model)
    save_adapter(model, tmp_path / "adapter", spec)
    save_adapter(model, tmp_path / "adapter", spec)  # saving twice is saving once

    fresh = tiny_base(base)
    untouched = logits_of(fresh)
    loaded = PeftModel.from_pretrained(fresh, str(tmp_path / "adapter")).eval()
    torch.testing.assert_close(logits_of(loaded), trained, rtol=1e-4, atol=1e-5)
    assert (logits_of(loaded) - untouched).abs().max() > 1e-3
    with loaded.disable_adapter():
        assert torch.equal(logits_of(loaded), untouched)
        generated_base, _ = first_step(loaded)
    assert torch.equal(logits_of(loaded), logits_of(loaded))

    generated, forward = first_step(loaded)
    torch.testing.assert_close(generated, forward, rtol=1e-4, atol=1e-5)
    assert (generated - generated_base).abs().max() > 1e-3


@pytest.mark.parametrize(("name", "base"), CASES)
def test_two_adapters_are_switched_on_one_base(name, base, tiny_base, make_spec, tiny_tokenizer, train_steps, logits_of, tmp_path):
    spec = make_spec(quantization=base, **_settings(name, base))
    method = get_method(spec.method.family)
    expected = {}
    for seed, label in enumerate(("first", "second")):
        torch.manual_seed(seed)
        model = method.attach(tiny_base(base), spec, tiny_tokenizer)
        train_steps(model, spec, steps=2 + 3 * seed)
        save_adapter(model, tmp_path / label, spec)
        expected[label] = logits_of(model)
    fresh = tiny_base(base)
    untouched = logits_of(fresh)
    model = load_adapter(fresh, tmp_path / "first", "first")
    model = load_adapter(model, tmp_path / "second", "second")
    for label in ("first", "second", "first"):
        switch_adapter(model, label)
        torch.testing.assert_close(logits_of(model), expected[label], rtol=1e-4, atol=1e-5)
        assert not any(parameter.requires_grad for parameter in model.parameters())
    with model.disable_adapter():
        assert torch.equal(logits_of(model), untouched)
    assert (expected["first"] - expected["second"]).abs().max() > 1e-3


@pytest.mark.parametrize("name", SETTINGS)
def test_counts_and_describes_exactly(name, tiny_base, make_spec, tiny_tokenizer, tiny_shape, tmp_path):
    spec = make_spec(**SETTINGS[name])
    method = get_method(spec.method.family)
    assert method.problems(spec, tiny_shape) == []
    model = method.attach(tiny_base(), spec, tiny_tokenizer)
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    card = method.describe(spec.method, tiny_shape)
    assert method.added_parameters(spec.method, tiny_shape) == trained == card.parameters
    assert card.share == trained / (trained + tiny_shape.parameters)
    grouped = sum(parameter.numel() for group in method.parameter_groups(model, spec) for parameter in group["params"])
    assert grouped == trained
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters() if parameter.requires_grad)

    save_adapter(model, tmp_path, spec)
    info = describe_adapter(tmp_path)
    assert info.family == spec.method.family
    assert info.base == "HuggingFaceTB/SmolLM2-135M-Instruct"
    doubled = 2 if name in ("pissa", "olora") else 1
    if name != "prefix-projection":
        assert info.parameters == doubled * trained
    assert 0 < info.bytes - 4 * info.parameters < 20_000
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]


@pytest.mark.parametrize("name", ["lora", "houlsby", "parallel", "prefix"])
def test_trains_in_fp32_over_a_bf16_base_under_autocast(name, tiny_base, make_spec, tiny_tokenizer, tiny_batch):
    spec = make_spec(**SETTINGS[name])
    model = get_method(spec.method.family).attach(tiny_base(dtype=torch.bfloat16), spec, tiny_tokenizer).train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model(**tiny_batch, labels=tiny_batch["input_ids"]).loss
    loss.backward()
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert {parameter.dtype for parameter in trained.values()} == {torch.float32}
    assert all(parameter.grad is not None for parameter in trained.values())
    assert any(parameter.grad.abs().sum() > 0 for parameter in trained.values())
    model.eval()
    with torch.no_grad():
        assert model(**tiny_batch).logits.dtype == torch.bfloat16


@pytest.mark.parametrize("name", ["lora", "dora", "houlsby", "pfeiffer", "parallel"])
def test_gradient_checkpointing_changes_no_gradient(name, tiny_base, make_spec, tiny_tokenizer, tiny_batch):
    found = []
    for checkpointing in (False, True):
        spec = make_spec(training={"gradient_checkpointing": checkpointing}, **SETTINGS[name])
        torch.manual_seed(0)
        model = get_method(spec.method.family).attach(tiny_base(), spec, tiny_tokenizer).train()
        if checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model(**tiny_batch, labels=tiny_batch["input_ids"]).loss.backward()
        found.append({name: parameter.grad for name, parameter in model.named_parameters() if parameter.requires_grad})
    assert found[0].keys() == found[1].keys()
    for key, gradient in found[0].items():
        torch.testing.assert_close(found[1][key], gradient)
