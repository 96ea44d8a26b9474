"""QLoRA: evaluation in between changes no loss, the base is really in 4 bits, and its codes never change."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM

from studio.core.errors import MethodError, SpecError
from studio.methods import get_method
from studio.methods.frozen_base import held_as, layer_linears


def _attach(base, spec, tokenizer, seed=0):
    torch.manual_seed(seed)
    return get_method(spec.method.family).attach(base, spec, tokenizer)


@pytest.mark.parametrize("family", ["qlora", "adapter"])
def test_evaluation_in_between_changes_no_loss(family, tiny_llama, make_spec, tiny_tokenizer, tiny_batch, train_steps):
    """bitsandbytes repacks 4-bit weights on CPU at the first forward pass without gradients; later gradients were wrong without a word."""
    spec = make_spec(family, quantization="nf4")
    config = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=torch.bfloat16
    )
    runs = []
    for evaluates in (False, True):
        # Loaded as plain transformers loads it: attach alone has to close the trap.
        base = AutoModelForCausalLM.from_pretrained(tiny_llama, quantization_config=config, dtype=torch.bfloat16)
        model = _attach(base, spec, tiny_tokenizer)

        def evaluate(step, model=model, evaluates=evaluates):
            if evaluates and step % 2 == 0:
                model.eval()
                with torch.no_grad():
                    model(**tiny_batch)

        runs.append(train_steps(model, spec, steps=40, between=evaluate))
    assert runs[0] == runs[1]
    assert runs[0][-1] < runs[0][0] - 0.2


def test_training_changes_no_code_of_the_base(tiny_base, make_spec, tiny_tokenizer, train_steps):
    spec = make_spec("qlora")
    base = tiny_base("nf4")
    before = {name: parameter.detach().clone() for name, parameter in base.named_parameters()}
    model = _attach(base, spec, tiny_tokenizer)
    train_steps(model, spec)
    after = {name.removeprefix("base_model.model.").replace(".base_layer", ""): tensor for name, tensor in model.named_parameters()}
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
def test_the_base_is_held_as_asked_and_the_rest_keeps_its_dtype(kind, tiny_base, make_spec, tiny_tokenizer):
    model = _attach(tiny_base(kind, dtype=torch.bfloat16), make_spec("qlora", quantization=kind), tiny_tokenizer)
    base = [module for name, module in layer_linears(model).items() if name.endswith("base_layer")]
    assert len(base) == 14
    assert {held_as(module) for module in base} == {kind}
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            assert parameter.dtype == torch.float32
        elif "norm" in name or "embed" in name:
            assert parameter.dtype == torch.bfloat16
            assert not parameter.requires_grad


@pytest.mark.parametrize(("held", "asked"), [("none", "nf4"), ("int8", "nf4"), ("fp4", "nf4"), ("nf4", "fp4")])
def test_a_base_held_otherwise_is_refused(held, asked, tiny_base, make_spec, tiny_tokenizer):
    with pytest.raises(MethodError, match=f"should be held as {asked}, but its linear layers are {held}"):
        _attach(tiny_base(held), make_spec("qlora", quantization=asked), tiny_tokenizer)


@pytest.mark.parametrize("family", ["lora", "adapter", "prefix"])
def test_no_family_trains_over_another_base_than_asked(family, tiny_base, make_spec, tiny_tokenizer):
    with pytest.raises(MethodError, match="should be held as none"):
        _attach(tiny_base("nf4"), make_spec(family), tiny_tokenizer)


def test_a_repacked_base_is_refused(tiny_base, make_spec, tiny_tokenizer):
    base = tiny_base("nf4")
    next(iter(layer_linears(base).values())).weight.quant_state.packing_format_for_cpu = True
    with pytest.raises(MethodError, match="repacked"):
        _attach(base, make_spec("qlora"), tiny_tokenizer)


def test_needs_four_bits(make_spec, tiny_shape, tiny_base, tiny_tokenizer):
    for quantization in ("none", "int8"):
        with pytest.raises(SpecError, match="QLoRA needs a 4-bit base"):
            make_spec("qlora", quantization=quantization)
    assert get_method("qlora").problems(make_spec("qlora"), tiny_shape) == []


@pytest.mark.parametrize("width", [32, 48, 96, 160])
def test_rows_that_end_inside_a_block_are_refused_on_cpu(width, make_spec, tiny_tokenizer, tmp_path):
    sizes = {"num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 4, "vocab_size": 120}
    LlamaForCausalLM(LlamaConfig(hidden_size=width, intermediate_size=64, **sizes)).save_pretrained(tmp_path)
    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    model = AutoModelForCausalLM.from_pretrained(tmp_path, quantization_config=config)
    with pytest.raises(MethodError, match=f"{width} wide, no multiple of 64"):
        _attach(model, make_spec("qlora"), tiny_tokenizer)
