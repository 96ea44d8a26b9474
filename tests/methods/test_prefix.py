"""Prefix-Tuning: counts, the text it starts from, positions under padding, and its limits."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from studio.core.errors import MethodError, SpecError
from studio.methods import get_method

TEXT = "Write a Python function that returns the sum of a list of numbers."


@pytest.fixture
def attach(tiny_base, make_spec, tiny_tokenizer):
    def make(base=None, **settings):
        spec = make_spec("prefix", **{"virtual_tokens": 5, "init_text": TEXT, **settings})
        return get_method("prefix").attach(base or tiny_base(), spec, tiny_tokenizer).eval()

    return make


def _ids(tokenizer, text):
    return tokenizer(text, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("projection", [False, True])
@pytest.mark.parametrize("tokens", [5, 40])
def test_starts_as_if_the_text_stood_before_the_prompt(projection, tokens, tiny_base, attach, tiny_tokenizer):
    """With the text's keys and values as the prefix, a prompt gets the logits it gets after the text itself, repeated to length."""
    text, prompt = _ids(tiny_tokenizer, TEXT), _ids(tiny_tokenizer, "return max(values)")
    repeated = (text * tokens)[:tokens]
    with torch.no_grad():
        whole = tiny_base()(input_ids=torch.tensor([repeated + prompt])).logits[0, tokens:]
        prefixed = attach(virtual_tokens=tokens, projection=projection)(input_ids=torch.tensor([prompt])).logits[0]
    torch.testing.assert_close(prefixed, whole, rtol=1e-3, atol=1e-4)


def test_a_random_start_does_not_read_the_text(attach, logits_of):
    torch.manual_seed(0)
    first = logits_of(attach(init="random", init_text="one"))
    torch.manual_seed(0)
    second = logits_of(attach(init="random", init_text="another"))
    assert torch.equal(first, second)


@pytest.mark.parametrize(("quantization", "attention"), [("none", "sdpa"), ("none", "eager"), ("nf4", "sdpa")])
def test_left_padded_batches_answer_as_single_prompts(quantization, attention, tiny_base, attach, tiny_tokenizer):
    model = attach(tiny_base(quantization, attn_implementation=attention), quantization=quantization)
    prompts = [TEXT, "return max(values)", "Count"]
    batch = tiny_tokenizer(prompts, return_tensors="pt", padding=True, padding_side="left")
    settings = {"max_new_tokens": 6, "do_sample": False, "output_logits": True, "return_dict_in_generate": True, "eos_token_id": None}
    with torch.no_grad():
        together = torch.stack(model.generate(**batch, **settings).logits)
        for row, prompt in enumerate(prompts):
            alone = torch.stack(model.generate(**tiny_tokenizer(prompt, return_tensors="pt"), **settings).logits)
            torch.testing.assert_close(together[:, row], alone[:, 0], rtol=1e-3, atol=1e-4)


def test_every_generated_step_equals_forward(attach, tiny_tokenizer):
    model = attach()
    prompt = tiny_tokenizer(TEXT, return_tensors="pt")
    with torch.no_grad():
        answer = model.generate(
            **prompt, max_new_tokens=6, do_sample=False, output_logits=True, return_dict_in_generate=True, eos_token_id=None
        )
        forward = model(input_ids=answer.sequences).logits[0, prompt["input_ids"].shape[1] - 1 : -1]
    torch.testing.assert_close(torch.stack(answer.logits)[:, 0], forward, rtol=1e-3, atol=1e-4)


def test_a_forward_pass_without_a_cache_of_its_own_still_sees_the_prefix(attach, logits_of):
    """Training turns use_cache off; the prefix comes in as a filled cache and has to count all the same."""
    model = attach()
    expected = logits_of(model)
    model.config.use_cache = False
    assert torch.equal(logits_of(model), expected)
    with model.disable_adapter():
        assert (logits_of(model) - expected).abs().max() > 1e-3


def test_the_lectures_count(make_spec, tiny_shape):
    llama_1b = dataclasses.replace(tiny_shape, layers=16, hidden=2048, heads=32, kv_heads=8, head_dim=64)
    spec = make_spec("prefix", virtual_tokens=16)
    assert get_method("prefix").added_parameters(spec.method, llama_1b) == 262_144


@pytest.mark.parametrize("hidden", [0, 24])
def test_projections_are_counted_as_built(hidden, attach, make_spec, tiny_shape):
    settings = {"virtual_tokens": 5, "projection": True, "projection_hidden": hidden}
    trained, _ = attach(**settings).get_nb_trainable_parameters()
    assert get_method("prefix").added_parameters(make_spec("prefix", **settings).method, tiny_shape) == trained


def test_gradient_checkpointing_is_refused_everywhere_with_the_reason(tiny_base, make_spec, tiny_tokenizer, attach):
    with pytest.raises(SpecError, match="recomputing a layer loses"):
        make_spec("prefix", training={"gradient_checkpointing": True})
    base = tiny_base()
    base.gradient_checkpointing_enable()
    with pytest.raises(MethodError, match="recomputing a layer loses"):
        attach(base)


def test_bad_settings_are_problems_with_advice(make_spec, tiny_shape, tiny_tokenizer, tiny_base):
    method = get_method("prefix")
    assert "context" in method.problems(make_spec("prefix", virtual_tokens=512), tiny_shape)[0]
    empty = make_spec("prefix", init_text=" ")
    assert "init_text" in method.problems(empty, tiny_shape)[0]
    with pytest.raises(MethodError, match="no token"):
        method.attach(tiny_base(), make_spec("prefix", init_text=""), tiny_tokenizer)


def test_a_low_learning_rate_is_advised_against_and_allowed(make_spec, tiny_shape):
    method = get_method("prefix")
    low = make_spec("prefix", training={"learning_rate": 1e-3})
    assert method.problems(low, tiny_shape) == []
    assert "5e-3" in method.advice(low)[0]
    assert method.advice(make_spec("prefix")) == []
