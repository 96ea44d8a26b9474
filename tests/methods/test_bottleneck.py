"""Bottleneck adapters: the lecture's count, the formula itself, stacking, and what they cannot do."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from peft import PeftConfig, PeftModel, get_peft_model
from peft.utils import PeftType
from torch.nn import functional

from studio.core.errors import MethodError
from studio.methods import get_method
from studio.methods.bottleneck import adapter_parameters
from studio.methods.bottleneck_tuner import BottleneckConfig, BottleneckLayer

PLACEMENTS = ["houlsby", "pfeiffer", "parallel"]


@pytest.fixture
def attach(tiny_base, make_spec, tiny_tokenizer):
    def make(base=None, **settings):
        spec = make_spec("adapter", **{"bottleneck": 8, **settings})
        return get_method("adapter").attach(base or tiny_base(), spec, tiny_tokenizer).eval()

    return make


def _randomise(model, seed=0):
    torch.manual_seed(seed)
    for name, parameter in model.named_parameters():
        if ".bottleneck_" in name:
            torch.nn.init.normal_(parameter, std=0.1)


def test_the_lectures_count():
    assert adapter_parameters(2048, 64) == 264_256


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_starts_exactly_as_the_base(placement, tiny_base, attach, logits_of):
    base = tiny_base()
    before = logits_of(base)
    assert torch.equal(logits_of(attach(base, placement=placement)), before)


@pytest.mark.parametrize(("activation", "function"), [("relu", functional.relu), ("gelu", functional.gelu), ("tanh", torch.tanh)])
def test_computes_its_formula(activation, function, attach):
    after = attach(placement="pfeiffer", activation=activation)
    beside = attach(placement="parallel", activation=activation)
    _randomise(after)
    _randomise(beside)
    x = torch.randn(2, 3, 64)
    with torch.no_grad():
        layer = after.base_model.model.model.layers[1].mlp.down_proj
        down, up = layer.bottleneck_down["default"], layer.bottleneck_up["default"]
        inner = torch.randn(2, 3, 128)
        h = layer.base_layer(inner)
        torch.testing.assert_close(layer(inner), h + function(h @ down.weight.T + down.bias) @ up.weight.T + up.bias)
        block = beside.base_model.model.model.layers[1].mlp
        down, up = block.bottleneck_down["default"], block.bottleneck_up["default"]
        torch.testing.assert_close(block(x), block.base_layer(x) + function(x @ down.weight.T + down.bias) @ up.weight.T + up.bias)


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_sits_where_its_placement_says(placement, attach):
    wrapped = {name for name, module in attach(placement=placement).named_modules() if isinstance(module, BottleneckLayer)}
    ends = {"houlsby": ("self_attn.o_proj", "mlp.down_proj"), "pfeiffer": ("mlp.down_proj",), "parallel": ("mlp",)}[placement]
    assert wrapped == {f"base_model.model.model.layers.{layer}.{end}" for layer in (0, 1) for end in ends}


def test_active_adapters_stack_in_order(attach):
    model = attach()
    model.add_adapter("second", dataclasses.replace(model.peft_config["default"]))
    model.add_adapter("idle", dataclasses.replace(model.peft_config["default"]))
    _randomise(model)
    layer = model.base_model.model.model.layers[0].mlp.down_proj
    x = torch.randn(1, 2, 128)

    def change(name, h):
        return h + layer.bottleneck_up[name](functional.relu(layer.bottleneck_down[name](h)))

    with torch.no_grad():
        h = layer.base_layer(x)
        model.base_model.set_adapter(["default", "second"])
        torch.testing.assert_close(layer(x), change("second", change("default", h)))
        model.base_model.set_adapter(["second", "default"])
        torch.testing.assert_close(layer(x), change("default", change("second", h)))
        model.set_adapter("second")
        torch.testing.assert_close(layer(x), change("second", h))
        model.delete_adapter("second")
        torch.testing.assert_close(layer(x), change("default", h))
        with model.disable_adapter():
            assert torch.equal(layer(x), h)


def test_dropout_works_in_training_only(attach):
    model = attach(dropout=0.5)
    _randomise(model)
    layer = model.base_model.model.model.layers[0].mlp.down_proj
    x = torch.randn(1, 2, 128)
    with torch.no_grad():
        assert torch.equal(layer(x), layer(x))
        layer.train()
        assert not torch.equal(layer(x), layer(x))


def test_cannot_merge_and_says_so_with_the_base_untouched(attach, logits_of):
    model = attach()
    _randomise(model)
    before = logits_of(model)
    for action in (model.merge_and_unload, model.merge_adapter):
        with pytest.raises(NotImplementedError, match="cannot be merged"):
            action()
    assert torch.equal(logits_of(model), before)


def test_unload_gives_the_base_back(tiny_base, attach, logits_of):
    expected = logits_of(tiny_base())
    model = attach(placement="houlsby")
    _randomise(model)
    base = model.unload()
    assert torch.equal(logits_of(base), expected)
    assert not any(isinstance(module, BottleneckLayer) for module in base.modules())


def test_mixed_batches_are_refused_not_ignored(attach, tiny_batch):
    model = attach()
    with pytest.raises(ValueError, match="cannot be mixed"):
        model(**tiny_batch, adapter_names=["__base__", "default"])
    with pytest.raises(ValueError, match="cannot be mixed"):
        model.generate(**tiny_batch, adapter_names=["__base__", "default"], max_new_tokens=1)


def test_cached_generation_equals_uncached(attach, tiny_tokenizer):
    model = attach(placement="houlsby")
    _randomise(model)
    prompt = tiny_tokenizer("Return the largest value.", return_tensors="pt")
    answers = [model.generate(**prompt, max_new_tokens=8, do_sample=False, use_cache=cached) for cached in (True, False)]
    assert torch.equal(*answers)


def test_plain_peft_takes_its_config(tiny_base, tmp_path):
    config = BottleneckConfig(target_modules=["mlp.down_proj"], bottleneck=4, task_type="CAUSAL_LM")
    model = get_peft_model(tiny_base(), config)
    assert model.get_nb_trainable_parameters()[0] == 2 * adapter_parameters(64, 4)
    config.save_pretrained(tmp_path)
    again = PeftConfig.from_pretrained(tmp_path)
    assert isinstance(again, BottleneckConfig)
    assert (again.bottleneck, again.target_modules) == (4, ["mlp.down_proj"])


def test_the_type_is_a_member_like_any_other():
    assert PeftType("BOTTLENECK") is PeftType.BOTTLENECK is PeftType["BOTTLENECK"]
    assert PeftType.BOTTLENECK in list(PeftType)
    assert PeftType.BOTTLENECK == "BOTTLENECK" and isinstance(PeftType.BOTTLENECK, PeftType)


def test_bad_sizes_are_problems_with_advice(make_spec, tiny_shape, tiny_base, tiny_tokenizer):
    method = get_method("adapter")
    for settings in ({"bottleneck": 65}, {"reduction_factor": 65}):
        spec = make_spec("adapter", **settings)
        (problem,) = method.problems(spec, tiny_shape)
        assert "64" in problem
        with pytest.raises(MethodError, match="does not fit the hidden size 64"):
            method.attach(tiny_base(), spec, tiny_tokenizer)
    assert method.problems(make_spec("adapter", bottleneck=64), tiny_shape) == []


def test_an_unknown_activation_is_refused():
    with pytest.raises(ValueError, match="swish"):
        BottleneckConfig(activation="swish")


def test_loads_through_empty_weights_too(attach, tiny_base, logits_of, tmp_path):
    model = attach(placement="houlsby")
    _randomise(model)
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(tiny_base(), str(tmp_path), low_cpu_mem_usage=True).eval()
    assert not any(parameter.is_meta for parameter in loaded.parameters())
    assert torch.equal(logits_of(loaded), logits_of(model))
