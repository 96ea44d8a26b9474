"""LoRA on the tiny Llama: counts against PEFT's own, no-op starts, saving, bad input."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import PeftModel
from transformers import LlamaConfig, LlamaForCausalLM

from studio.core.errors import MethodError
from studio.core.shape import LinearShape
from studio.core.spec import LoraSpec, RunSpec
from studio.methods import get_method
from studio.methods.adapters import save_adapter
from studio.methods.targets import Target
from studio.models.shape import shape_from_config

COUNTED = [
    {},
    {"rank": 3, "targets": "attention"},
    {"rank": 4, "targets": "mlp"},
    {"targets": ["q_proj", "v_proj"]},
    {"targets": ["mlp.up_proj", "self_attn.q_proj"]},
    {"targets": ["model.layers.1.self_attn.q_proj", "layers.0.mlp.up_proj"]},
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


NAMES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "self_attn.q_proj", "mlp.up_proj"]


PATTERNS = ["layers.0.*", "mlp.*", "model.layers.1.self_attn.v_proj"]


@pytest.mark.filterwarnings("ignore:The following rank_pattern keys:RuntimeWarning")
@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    rank=st.integers(1, 32),
    targets=st.one_of(st.sampled_from(["all-linear", "attention", "mlp"]), st.lists(st.sampled_from(NAMES), min_size=1, max_size=4)),
    layers=st.lists(st.integers(0, 1), max_size=2),
    dora=st.booleans(),
    patterns=st.dictionaries(
        st.sampled_from([*NAMES, "layers.0.*", "mlp.*", "model.layers.1.self_attn.v_proj"]), st.integers(1, 32), max_size=3
    ),
)
def test_counts_whatever_is_asked_for(rank, targets, layers, dora, patterns):
    method = LoraSpec(rank=rank, targets=targets, layers=layers, dora=dora, rank_pattern=patterns)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = LlamaConfig(vocab_size=64, **sizes)
    model = get_method("lora").attach(LlamaForCausalLM(config), RunSpec(method=method), None)
    trained, _ = model.get_nb_trainable_parameters()
    assert get_method("lora").added_parameters(method, shape_from_config(config.to_dict())) == trained


@pytest.mark.parametrize("settings", [{}, {"init": "gaussian"}, {"dora": True}, {"rslora": True, "layers": [0]}], ids=str)
def test_starts_as_the_base(settings, tiny_base, make_spec, tiny_tokenizer, logits_of):
    base = tiny_base()
    before = logits_of(base)
    adapted = get_method("lora").attach(base, make_spec(**settings), tiny_tokenizer).eval()
    tolerance = {"rtol": 1e-4, "atol": 1e-5} if settings.get("dora") else {"rtol": 0, "atol": 0}
    torch.testing.assert_close(logits_of(adapted), before, **tolerance)


@pytest.mark.parametrize("init", ["pissa", "olora"])
def test_rewriting_starts_near_the_base_and_saves_a_no_op(init, tiny_base, make_spec, tiny_tokenizer, logits_of, tmp_path):
    """Untrained, W - s B0 A0 + s B0 A0 is W up to rounding, and what is saved for the original base is the change of exactly nothing."""
    spec = make_spec(init=init, rank=4)
    base = tiny_base()
    before = logits_of(base)
    model = get_method("lora").attach(base, spec, tiny_tokenizer).eval()
    torch.testing.assert_close(logits_of(model), before, rtol=1e-3, atol=1e-4)
    with model.disable_adapter():
        assert (logits_of(model) - before).abs().max() > 1e-3
    save_adapter(model, tmp_path, spec)
    loaded = PeftModel.from_pretrained(tiny_base(), str(tmp_path))
    assert loaded.peft_config["default"].r == 8
    torch.testing.assert_close(logits_of(loaded), before, rtol=1e-4, atol=1e-5)


def test_pissa_starts_at_the_leading_singular_values(tiny_base, make_spec, tiny_tokenizer):
    weight = tiny_base().model.layers[0].self_attn.q_proj.weight.detach()
    model = get_method("lora").attach(tiny_base(), make_spec(init="pissa", rank=4), tiny_tokenizer)
    change = model.base_model.model.model.layers[0].self_attn.q_proj.get_delta_weight("default").detach()
    torch.testing.assert_close(torch.linalg.svdvals(change)[:4], torch.linalg.svdvals(weight)[:4], rtol=1e-4, atol=1e-6)


def test_a_rewritten_base_without_its_start_is_not_saved(tiny_base, make_spec, tiny_tokenizer, tmp_path):
    spec = make_spec(init="pissa", rank=4)
    model = get_method("lora").attach(tiny_base(), spec, tiny_tokenizer)
    del model.initial_lora
    with pytest.raises(MethodError, match="starting weights are gone"):
        save_adapter(model, tmp_path, spec)


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_eva_starts_along_the_inputs_and_as_the_base(
    quantization, tiny_base, make_spec, tiny_tokenizer, tiny_batch, logits_of, train_steps, tmp_path
):
    spec = make_spec(init="eva", rank=4, quantization=quantization)
    base = tiny_base(quantization)
    before = logits_of(base)
    inputs = {}
    name = "model.layers.1.self_attn.q_proj"
    handle = base.get_submodule(name).register_forward_pre_hook(lambda _, args: inputs.update(x=args[0].detach()))
    logits_of(base)
    handle.remove()
    torch.manual_seed(0)
    model = get_method("lora").attach(base, spec, tiny_tokenizer, batches=lambda: [tiny_batch] * 3).eval()
    assert torch.equal(logits_of(model), before)
    trained, _ = model.get_nb_trainable_parameters()
    assert trained == sum(4 * (a + b) for a, b in [(64, 64), (64, 32), (64, 32), (64, 64), (64, 128), (64, 128), (128, 64)]) * 2
    # The rows of A span the leading principal directions of the layer's own inputs.
    rows = inputs["x"][tiny_batch["attention_mask"].bool()].float()
    leading = torch.linalg.svd(rows - rows.mean(dim=0), full_matrices=False).Vh[:4]
    a = model.base_model.model.get_submodule(name).lora_A["default"].weight.detach()
    overlap = torch.linalg.svdvals(torch.linalg.qr(a.T).Q.T @ leading.T)
    assert overlap.min() > 0.9
    losses = train_steps(model, spec)
    assert losses[-1] < losses[0]
    expected = logits_of(model)
    save_adapter(model, tmp_path, spec)
    torch.testing.assert_close(logits_of(PeftModel.from_pretrained(tiny_base(quantization), str(tmp_path))), expected, rtol=1e-4, atol=1e-5)


def test_eva_needs_data(tiny_base, make_spec, tiny_tokenizer):
    with pytest.raises(MethodError, match="training data"):
        get_method("lora").attach(tiny_base(), make_spec(init="eva"), tiny_tokenizer)


def test_eva_on_too_little_data_is_a_named_error_not_an_endless_loop(tiny_base, make_spec, tiny_tokenizer, tiny_batch):
    short = {name: tensor[:1, :6] for name, tensor in tiny_batch.items()}
    with pytest.raises(MethodError, match="more than 16 tokens"):
        get_method("lora").attach(tiny_base(), make_spec(init="eva", rank=16), tiny_tokenizer, batches=lambda: [short])


def test_eva_on_data_of_too_few_directions_ends(tiny_base, make_spec, tiny_tokenizer):
    """One token over and over: the inputs have no direction to settle on."""
    same = {"input_ids": torch.full((1, 40), 7), "attention_mask": torch.ones(1, 40, dtype=torch.long)}
    with pytest.raises(MethodError, match="no stable directions"):
        get_method("lora").attach(tiny_base(), make_spec(init="eva", rank=16), tiny_tokenizer, batches=lambda: [same])


def test_lora_plus_trains_b_faster(tiny_base, make_spec, tiny_tokenizer):
    spec = make_spec(lora_plus_ratio=16, training={"learning_rate": 1e-4, "weight_decay": 0.1})
    method = get_method("lora")
    model = method.attach(tiny_base(), spec, tiny_tokenizer)
    slow, fast = method.parameter_groups(model, spec)
    assert (slow["lr"], fast["lr"]) == (1e-4, pytest.approx(16e-4))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert all(".lora_A." in names[id(parameter)] for parameter in slow["params"])
    assert all(".lora_B." in names[id(parameter)] for parameter in fast["params"])
    assert len(slow["params"]) == len(fast["params"]) == 14
    assert slow["weight_decay"] == fast["weight_decay"] == 0.1


def test_scales(tiny_base, make_spec, tiny_tokenizer):
    for chosen, scale in (({"rank": 16, "alpha": 32}, 2.0), ({"rank": 16, "alpha": 32, "rslora": True}, 8.0)):
        model = get_method("lora").attach(tiny_base(), make_spec(**chosen), tiny_tokenizer)
        assert model.base_model.model.model.layers[0].mlp.up_proj.scaling["default"] == scale


BAD = [
    ({"targets": ["query"]}, "query", "q_proj"),
    ({"targets": ["q_proj", "lm_head"]}, "lm_head", "q_proj"),
    ({"targets": ["proj"]}, "proj", "q_proj"),
    ({"rank": 33}, "33", "32"),
    ({"rank": 8, "rank_pattern": {"v_proj": 64}}, "64", "32"),
    ({"layers": [0, 2]}, "2", "0 to 1"),
    ({"rank_pattern": {"q_proj(": 4}}, "q_proj(", "regular expression"),
    ({"rank_pattern": {"query": 4}}, "query", "q_proj"),
    ({"rank_pattern": {"up_proj": 4}, "targets": "attention"}, "up_proj", "q_proj"),
    ({"init": "eva", "rank_pattern": {"q_proj": 2}}, "eva", "use one of the two"),
    ({"dora": True, "init": "pissa"}, "pissa", "use one of the two"),
]


@pytest.mark.parametrize(("settings", "named", "advice"), BAD, ids=str)
def test_bad_settings_are_problems_with_advice(settings, named, advice, make_spec, tiny_shape):
    problems = get_method("lora").problems(make_spec(**settings), tiny_shape)
    assert any(named in problem and advice in problem for problem in problems), problems


@pytest.mark.parametrize("settings", [{"targets": ["query"]}, {"rank": 33}, {"rank_pattern": {"v_proj": 64}}], ids=str)
def test_bad_settings_fail_on_the_model_before_it_is_changed(settings, make_spec, tiny_base, tiny_tokenizer):
    base = tiny_base()
    with pytest.raises(MethodError) as caught:
        get_method("lora").attach(base, make_spec(**settings), tiny_tokenizer)
    assert caught.value.hint
    assert not any("lora" in name for name, _ in base.named_modules())


def test_a_rank_above_several_modules_is_one_sentence_that_names_them(make_spec, tiny_shape):
    linears = tuple(
        LinearShape(name, rows, columns)
        for name, rows, columns in (("self_attn.q_proj", 576, 576), ("self_attn.k_proj", 576, 192), ("self_attn.v_proj", 576, 192),
                                    ("self_attn.o_proj", 576, 576), ("mlp.up_proj", 576, 1536), ("mlp.down_proj", 1536, 576))
    )  # fmt: skip
    shape = dataclasses.replace(tiny_shape, layers=2, linears=linears)
    problems = get_method("lora").problems(make_spec(rank=600), shape)
    assert problems == [
        "method.rank 600 is above the rank that k_proj and v_proj (at most 192) and q_proj, o_proj, up_proj and down_proj (at most 576) "
        "can have: use at most 192."
    ]
    (problem,) = get_method("lora").problems(make_spec(rank=300), shape)
    assert "k_proj and v_proj can have: use at most 192." in problem and "q_proj" not in problem


def test_ranks_of_a_pattern_are_told_apart_layer_by_layer(make_spec, tiny_shape):
    pattern = {"layers.0.self_attn.q_proj": 600, "v_proj": 700}
    problems = get_method("lora").problems(make_spec(rank=8, rank_pattern=pattern), tiny_shape)
    assert [problem.partition(" is above")[0] for problem in problems] == ["method.rank_pattern 600", "method.rank_pattern 700"]


def test_the_lectures_count(make_spec, tiny_shape):
    linears = (LinearShape("self_attn.q_proj", 2048, 2048), LinearShape("self_attn.v_proj", 2048, 512))
    llama_1b = dataclasses.replace(tiny_shape, layers=16, hidden=2048, linears=linears, parameters=1_235_814_400)
    card = get_method("lora").describe(make_spec(rank=8, targets=["q_proj", "v_proj"]).method, llama_1b)
    assert card.parameters == 851_968
    assert 851_968 + llama_1b.parameters == 1_236_666_368
    assert round(100 * card.share, 4) == 0.0689


def test_the_lectures_single_layer():
    target = Target(0, LinearShape("mlp.up_proj", 512, 1024), 50)
    assert target.linear.weights == 524_288
    assert target.parameters == 25_600 + 51_200 == 76_800
