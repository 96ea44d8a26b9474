"""The loop that answers: what it stops for, how soon, what it refuses, and how far a batch rounds from a single row."""

from __future__ import annotations

import contextlib
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, DynamicCache, LlamaConfig, LlamaForCausalLM

from studio.core.errors import MethodError, ModelError, PlayError
from studio.core.sampling import Sampling
from studio.core.spec import ModelSpec, RunSpec
from studio.methods import get_method
from studio.methods.adapters import save_adapter
from studio.play.batch_rows import Rows, can_batch
from studio.play.engine import Engine, Question
from studio.play.sampling import pick_token
from tests.play.conftest import PROMPT

LOGPROB_TOLERANCE_BF16 = 0.1
"""Nats: how far bfloat16 may round the log-probability of any likely token in a batch of two from that in a batch of one."""
LIKELY = math.log(0.001)


def test_cancelling_stops_within_one_token(engine, tiny):
    engine.load(tiny, "none", {})
    seen = []

    def emit(event, data):
        seen.append(event)

    question = Question({"base": PROMPT}, Sampling(max_new_tokens=200, temperature=2.0))
    done = engine.answer(question, emit, lambda: seen.count("token") >= 3)
    assert done["panes"][0]["stopped_by"] == "you"
    assert done["panes"][0]["tokens"] <= seen.count("token") + 1 <= 5


def test_a_cancelled_question_starts_no_further_pass(engine, tiny, make_adapter):
    engine.load(tiny, "none", {"tuned": str(make_adapter("adapter", 1))})
    done = engine.answer(Question({"base": PROMPT, "tuned": PROMPT}), lambda event, data: None, lambda: True)
    assert [pane["stopped_by"] for pane in done["panes"]] == ["you", "you"]
    assert done["panes"][1]["tokens"] == 0


def test_the_limit_the_end_and_the_context_are_told_apart(engine, ask, tiny, monkeypatch):
    engine.load(tiny, "none", {})
    assert ask("base", max_new_tokens=5)["base"]["stopped_by"] == "token limit"
    full = ask("base", max_new_tokens=5)["base"]
    long = [{"role": "user", "content": "a " * 480}]
    room = 512 - len(engine.encode(long))
    assert 0 < room < 40
    answer = ask("base", messages=long, max_new_tokens=400)["base"]
    assert answer["stopped_by"] == "end of the context" and answer["tokens"] == room
    second = engine.loaded.tokenizer.encode(full["text"])[1]
    monkeypatch.setattr(Engine, "stop_ids", lambda self: frozenset([second]))
    assert ask("base", max_new_tokens=5)["base"]["stopped_by"] == "end of answer"


def test_a_prompt_longer_than_the_context_says_by_how_much(engine, ask, tiny):
    engine.load(tiny, "none", {})
    words = [{"role": "user", "content": "list " * 600}]
    tokenizer = engine.loaded.tokenizer
    tokens = len(tokenizer(tokenizer.apply_chat_template(words, tokenize=False, add_generation_prompt=True))["input_ids"])
    with pytest.raises(PlayError, match=f"{tokens:,} tokens; the model reads 512, so it is {tokens - 511:,} too long"):
        ask("base", messages=words)


@pytest.mark.parametrize("messages", [[], [{"role": "user", "content": " \n\t"}], [{"role": "system", "content": "Be brief."}]])
def test_an_empty_prompt_is_refused(engine, ask, tiny, messages):
    engine.load(tiny, "none", {})
    with pytest.raises(PlayError, match="empty"):
        ask("base", messages=messages)


ODD = ["<script>alert(1)</script>", "\u202eabc\u2066", "\u200b\u200bzero", "日本語 🙂", "{{ 7 * 7 }}", "<|im_end|>"]


def test_the_output_layer_reads_the_last_position_by_itself_and_only_while_answering(engine, ask, tiny):
    """With the strides of a longer text, torch.matmul would copy the whole output matrix for it."""
    engine.load(tiny, "none", {})
    head, seen = engine.loaded.model.get_output_embeddings(), []
    head.register_forward_hook(lambda layer, given, out: seen.append(given[0].stride()))
    ask("base", max_new_tokens=2)
    width = head.in_features
    assert seen == [(width, width, 1)] * 2
    assert not head._forward_pre_hooks


@pytest.mark.parametrize("text", ODD)
def test_odd_characters_reach_the_model_as_they_are(engine, ask, tiny, text):
    engine.load(tiny, "none", {})
    messages = [{"role": "user", "content": text}]
    assert ask("base", messages=messages, max_new_tokens=2)["base"]["tokens"]
    assert text in engine.loaded.tokenizer.decode(engine.encode(messages))


def test_a_template_that_fails_is_named(engine, ask, tiny):
    engine.load(tiny, "none", {})
    engine.loaded.tokenizer.chat_template = "{{ raise_exception('no system turns') }}"
    with pytest.raises(ModelError, match="no system turns"):
        ask("base")


def test_before_a_model_and_after_unloading_it_says_that_none_is_loaded(engine, ask, tiny):
    with pytest.raises(PlayError, match="No model is loaded"):
        ask("base")
    engine.load(tiny, "none", {})
    engine.unload()
    assert engine.describe()["loaded"] is False
    with pytest.raises(PlayError, match="No model is loaded"):
        ask("base")


def test_an_adapter_of_another_base_is_named_and_the_base_answers_on(engine, ask, tiny, make_adapter, tmp_path):
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    narrow = LlamaConfig(vocab_size=512, hidden_size=32, intermediate_size=64, num_hidden_layers=2, **heads)
    LlamaForCausalLM(narrow).save_pretrained(tmp_path)
    engine.load(tiny, "none", {}).pop("loaded")
    engine.loaded.tokenizer.save_pretrained(tmp_path)
    with pytest.raises(MethodError, match="does not fit"):
        engine.load(tiny.model_copy(update={"id": str(tmp_path)}), "none", {"tuned": str(make_adapter("lora", 1))})
    assert ask("base", max_new_tokens=2)["base"]["tokens"]
    with pytest.raises(PlayError, match="No such pane: tuned"):
        ask("tuned")


def test_the_name_base_is_the_bases_own(engine, tiny, make_adapter):
    with pytest.raises(PlayError, match="cannot be called"):
        engine.load(tiny, "none", {"base": str(make_adapter("lora", 1))})


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"temperature": -1}, "temperature"), ({"temperature": float("nan")}, "temperature"), ({"top_p": 0}, "top_p"),
        ({"top_p": 1.5}, "top_p"), ({"top_k": -1}, "top_k"), ({"max_new_tokens": 0}, "new tokens"),
        ({"temperature": "warm"}, "numbers"), ({"seed": -1}, "seed"),
        ({"seed": 2**64}, "seed"), ({"seed": None}, "numbers"),
    ],
)  # fmt: skip
def test_settings_that_cannot_be_used_are_named(settings, named):
    with pytest.raises(PlayError, match=named):
        Sampling.parse(settings)


ATTENTION = [
    ("llama", {}, True), ("qwen3", {"head_dim": 16}, True), ("gpt_neox", {}, True),
    ("mistral", {"sliding_window": 8}, False), ("gemma2", {"head_dim": 16}, False),
    ("bloom", {}, False),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "settings", "exact"), ATTENTION)
def test_lengths_mix_where_every_layer_attends_to_the_whole_text(kind, settings, exact):
    small = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2}
    config = AutoConfig.for_model(kind, **small, num_attention_heads=2, num_key_value_heads=2, **settings)
    model = AutoModelForCausalLM.from_config(config).eval()
    assert can_batch(model) == exact
    prompts = torch.randint(1, 64, (20,), generator=torch.Generator().manual_seed(0)).tolist(), [5, 6, 7]
    if exact:
        rows, cache = Rows(prompts, "cpu"), DynamicCache(config=config)
        with torch.inference_mode():
            alone = model(torch.tensor([[*prompts[1], 9]])).logits[0, -2:]
            first = rows.read_apart(model, cache, lambda row: contextlib.nullcontext())
            rows.go_on([8, 9])
            with rows.attention(model):
                second = model(**rows.arguments(), past_key_values=cache).logits[1, -1]
        assert (torch.stack([first[1], second]) - alone).abs().max() < 1e-6
        assert config._attn_implementation == "sdpa"


def test_temperature_zero_is_greedy_whatever_else_is_set():
    logits = torch.tensor([0.1, 2.0, 1.9])
    assert pick_token(logits, Sampling(temperature=0, top_p=0.1, top_k=2), torch.Generator().manual_seed(0)) == 1


@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(st.floats(-8, 8), min_size=2, max_size=40), temperature=st.floats(0.05, 5), top_k=st.integers(0, 50),
    top_p=st.floats(0.01, 1), seed=st.integers(0, 1000),
)  # fmt: skip
def test_a_picked_token_is_always_among_those_kept(values, temperature, top_k, top_p, seed):
    logits = torch.tensor(values)
    token = pick_token(logits, Sampling(temperature=temperature, top_p=top_p, top_k=top_k, seed=seed), torch.Generator().manual_seed(seed))
    probabilities = torch.softmax(logits / temperature, 0)
    likelier = probabilities[probabilities > probabilities[token] + 1e-6]
    assert not top_k or len(likelier) < top_k
    kept = probabilities.topk(min(top_k, len(values))).values.sum() if top_k else 1.0
    assert likelier.sum() / kept < top_p + 1e-4


@pytest.mark.real
def test_a_batch_rounds_as_a_single_row_does_within_the_tolerance(starter_home, engine, starter_model, tmp_path):
    """In bfloat16 a product over two rows may sum in another order than over one. Equal prompts, and one beside a longer."""
    engine.load(ModelSpec(id="starter", dtype="bfloat16"), "none", {"tuned": str(random_lora(starter_model, tmp_path))})
    engine.injection.hold(["tuned"])
    names, short = ("base", "tuned"), engine.encode(PROMPT)
    text = engine.loaded.tokenizer.encode("def largest(values):\n    return max(values)")
    single = [likelihoods(engine, [name], [short], text)[0] for name in names]
    together = likelihoods(engine, names, [short, short], text)
    beside_longer = [likelihoods(engine, names, [short, short[:4] * 9 + short], text)[0],
                     likelihoods(engine, names, [short[:4] * 9 + short, short], text)[1]]  # fmt: skip
    for expected, *found in zip(single, together, beside_longer, strict=True):
        for row in found:
            assert (row - expected)[expected > LIKELY].abs().max() < LOGPROB_TOLERANCE_BF16
    assert (single[0] - single[1]).abs().max() > 1


@torch.inference_mode()
def likelihoods(engine, names, prompts, text):
    """(rows, len(text), vocabulary) log-probabilities, each row reading `text` token by token as its answer."""
    rows, cache, found = Rows(prompts, "cpu"), engine.injection.new_cache(names), []
    model = engine.loaded.model
    logits = rows.read_apart(model, cache, lambda row: engine.injection.rows([names[row]])) if rows.differ else None
    with engine.injection.rows(names), rows.attention(model):
        for token in text:
            if logits is None:
                logits = model(**rows.arguments(), past_key_values=cache, use_cache=True, logits_to_keep=1).logits[:, -1]
            found.append(logits.float().log_softmax(-1))
            logits = None
            rows.go_on([token] * len(names))
    return torch.stack(found, 1)


def random_lora(model, folder):
    """A LoRA adapter for `model` whose weights are small and random."""
    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16)
    spec = RunSpec.parse({"method": {"family": "lora", "rank": 4}})
    tuned = get_method("lora").attach(base, spec, AutoTokenizer.from_pretrained(model))
    generator = torch.Generator().manual_seed(0)
    for name, parameter in tuned.named_parameters():
        if "lora_B" in name:
            parameter.data += 0.02 * torch.randn(parameter.shape, generator=generator)
    save_adapter(tuned, folder / "adapter", spec)
    return folder / "adapter"
