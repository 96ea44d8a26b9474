"""The base pane is the base and nothing else, whatever was loaded, switched, cancelled or broken before; and plain transformers says so."""

from __future__ import annotations

import itertools

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from studio.core.errors import MethodError, PlayError
from studio.core.sampling import Sampling
from studio.core.spec import ModelSpec
from studio.methods.adapters import load_adapter
from studio.models.chat import encode_prompt
from studio.play import engine as engine_module
from studio.play.decode import Decoding, decode
from studio.play.engine import Question
from tests.play.conftest import FAMILIES, PROMPT

TOKENS = 24
APART = {
    name: [*PROMPT, {"role": "assistant", "content": said}, {"role": "user", "content": "Count the words."}]
    for name, said in (("base", "def largest"), ("tuned", "return max of the values in the list"), ("other", "x"))
}
"""Conversations that have come to differ, as they do from the second turn on."""


def generate(model, tokenizer, messages=PROMPT, tokens=TOKENS):
    """transformers' own greedy tokens."""
    ids = torch.tensor([encode_prompt(tokenizer, messages)])
    with torch.no_grad():
        out = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, do_sample=False)
    return tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True, clean_up_tokenization_spaces=False)


@pytest.fixture
def reference(lively_llama):
    """What plain transformers and PEFT answer in float32: of the base, or of an adapter on it."""

    def answer(folder=None, **options):
        model = AutoModelForCausalLM.from_pretrained(lively_llama, dtype=torch.float32).eval()
        if folder is not None:
            model = load_adapter(model, folder, "default")
        return generate(model, AutoTokenizer.from_pretrained(lively_llama), **options)

    return answer


@pytest.mark.parametrize("kind", FAMILIES)
def test_greedy_panes_are_what_transformers_generates(kind, engine, ask, tiny, make_adapter, reference):
    folder = make_adapter(kind, 1)
    engine.load(tiny, "none", {"tuned": str(folder)})
    panes = ask("base", "tuned")
    assert panes["base"]["text"] == reference()
    assert panes["tuned"]["text"] == reference(folder)
    assert panes["tuned"]["text"] != panes["base"]["text"]
    assert panes["done"]["mixed_batch"] == (kind == "lora")


# DoRA's magnitudes are those of the weights it was made on, so over other, quantized weights it is no zero adapter.
UNCHANGED = [("dora", "none"), *itertools.product(("lora", "adapter", "parallel"), ("none", "int8", "nf4"))]


@pytest.mark.parametrize(("kind", "quantization"), UNCHANGED)
def test_an_adapter_that_changes_nothing_answers_as_the_base(kind, quantization, engine, ask, tiny, make_adapter):
    engine.load(tiny, quantization, {})
    alone = ask("base")["base"]["text"]
    engine.load(tiny, quantization, {"zero": str(make_adapter(kind)), "tuned": str(make_adapter(kind, 1))})
    panes = ask("base", "zero", "tuned")
    assert panes["base"]["text"] == panes["zero"]["text"] == alone
    assert panes["tuned"]["text"] != alone


def test_a_prefix_always_changes_something_but_never_the_base(engine, ask, tiny, make_adapter, reference):
    """A prefix of zero weights still takes its share of attention, so only its neighbour, the base, can be held to the base's text."""
    engine.load(tiny, "none", {"prefix": str(make_adapter("prefix", 1))})
    panes = ask("base", "prefix")
    assert panes["base"]["text"] == reference() != panes["prefix"]["text"]
    assert ask("base")["base"]["text"] == reference()


def _break(engine, tiny, folder):
    with pytest.raises(MethodError):
        engine.load(tiny, "none", {"gone": str(folder)})


def _cancel(engine, question):
    return engine.answer(question, lambda event, data: None, lambda: True)


EVENTS = ["switch", "fail", "cancel", "mix"]
ORDERS = [(EVENTS[start:] + EVENTS[:start])[::step] for start in range(4) for step in (1, -1)]  # each event after every other


@pytest.mark.parametrize("order", ORDERS, ids="-".join)
def test_the_base_stays_the_base_in_any_order_of_events(order, engine, ask, tiny, make_adapter, reference, tmp_path):
    folders = {kind: str(make_adapter(kind, 1)) for kind in ("lora", "adapter", "prefix")}
    engine.load(tiny, "none", folders)
    for event in order:
        if event == "switch":
            engine.load(tiny, "none", {"other": str(make_adapter("dora", 2)), "lora": folders["lora"]})
        elif event == "fail":
            _break(engine, tiny, tmp_path)
            engine.load(tiny, "none", {"lora": folders["lora"]})
        elif event == "cancel":
            _cancel(engine, Question({"base": PROMPT, "lora": PROMPT}))
        else:
            engine.load(tiny, "none", folders)
            ask("base", *folders, max_new_tokens=3)
        assert ask("base")["base"]["text"] == reference(), event
    assert ask("base", "lora")["base"]["text"] == reference()


def test_an_adapter_that_breaks_while_it_is_put_in_leaves_no_trace(engine, ask, tiny, make_adapter, reference, monkeypatch):
    import studio.play.injection as injection

    def break_half_way(model, folder, name):
        load_adapter(model, folder, name)
        raise MethodError("It broke half way.")

    monkeypatch.setattr(injection, "load_adapter", break_half_way)
    with pytest.raises(MethodError, match="half way"):
        engine.load(tiny, "none", {"tuned": str(make_adapter("lora", 1))})
    monkeypatch.undo()
    engine.load(tiny, "none", {})
    assert ask("base")["base"]["text"] == reference()


def test_adapters_of_three_families_answer_beside_each_other(engine, ask, tiny, make_adapter, reference):
    folders = {kind: make_adapter(kind, 1) for kind in ("lora", "adapter", "prefix")} | {"lora-2": make_adapter("lora", 2)}
    engine.load(tiny, "none", {name: str(folder) for name, folder in folders.items()})
    panes = ask("base", *folders)
    assert panes["done"]["passes"] == [["base", "lora", "lora-2"], ["adapter"], ["prefix"]]
    assert "LoRA without DoRA" in panes["done"]["apart"]
    assert panes["base"]["text"] == reference()
    for name, folder in folders.items():
        assert panes[name]["text"] == reference(folder), name


def test_panes_whose_conversations_differ_answer_their_own_in_one_padded_batch(engine, tiny, make_adapter, reference):
    folders = {"tuned": make_adapter("lora", 1), "other": make_adapter("lora", 2)}
    engine.load(tiny, "none", {name: str(folder) for name, folder in folders.items()})
    done = engine.answer(Question(APART, Sampling(max_new_tokens=TOKENS)), lambda event, data: None, lambda: False)
    assert done["passes"] == [["base", "tuned", "other"]] and done["mixed_batch"] and not done["apart"]
    assert len({pane["prompt_tokens"] for pane in done["panes"]}) == 3
    for pane in done["panes"]:
        assert pane["text"] == reference(folders.get(pane["pane"]), messages=APART[pane["pane"]]), pane["pane"]


@pytest.mark.parametrize(("ends", "stays"), [(0, 1), (1, 0)])
def test_a_row_goes_on_as_it_was_when_another_ends(ends, stays, engine, tiny, make_adapter):
    engine.load(tiny, "none", {"tuned": str(make_adapter("lora", 1))})
    engine.injection.hold(["tuned"])
    names = ["base", "tuned"]
    prompts = [engine.encode(APART[name]) for name in names]

    def tokens(rows, stop=()):
        settings = Decoding(Sampling(temperature=1.5, max_new_tokens=TOKENS), frozenset(stop), 512, lambda pane, token: None, lambda: False)
        asked = [names[row] for row in rows]
        cache = engine.injection.new_cache(asked)
        states = decode(engine.loaded.model, [prompts[row] for row in rows], cache, asked, engine.injection.rows, settings)
        return {row: state.tokens for row, state in zip(rows, states, strict=True)}

    alone = {row: tokens([row])[row] for row in (ends, stays)}
    assert tokens([0, 1]) == alone
    stop = next(token for token in alone[ends] if token not in alone[stays])
    both = tokens([0, 1], [stop])
    assert both[ends] == alone[ends][: alone[ends].index(stop) + 1] and both[stays] == alone[stays]


def test_a_model_that_cannot_mix_lengths_answers_in_passes_and_says_why(engine, tiny, make_adapter, reference, monkeypatch):
    folder = make_adapter("lora", 1)
    engine.load(tiny, "none", {"tuned": str(folder)})
    monkeypatch.setattr(engine_module, "can_batch", lambda model: False)
    turns = {name: APART[name] for name in ("base", "tuned")}
    done = engine.answer(Question(turns, Sampling(max_new_tokens=TOKENS)), lambda event, data: None, lambda: False)
    assert done["passes"] == [["base"], ["tuned"]] and "one by one" in done["apart"]
    assert done["panes"][1]["text"] == reference(folder, messages=turns["tuned"])


def test_same_seed_same_answer_and_an_empty_adapter_samples_as_the_base(engine, ask, tiny, make_adapter):
    engine.load(tiny, "none", {"zero": str(make_adapter("lora")), "up": str(make_adapter("adapter"))})
    settings = {"temperature": 1.0, "top_p": 0.9, "top_k": 50, "seed": 3}
    panes = ask("base", "zero", "up", **settings)
    assert panes["base"]["text"] == panes["zero"]["text"] == panes["up"]["text"]
    assert ask("base", **settings)["base"]["text"] == panes["base"]["text"]
    assert ask("base", **{**settings, "seed": 4})["base"]["text"] != panes["base"]["text"]


@pytest.mark.parametrize("kind", ["lora", "adapter"])
def test_strength_goes_from_the_base_over_the_adapter_and_back(kind, engine, ask, tiny, make_adapter, reference):
    folder = make_adapter(kind, 1)
    engine.load(tiny, "none", {"tuned": str(folder)})
    at = {strength: ask("tuned", strengths={"tuned": strength})["tuned"]["text"] for strength in (1, 0, 2, 1.0, 0.0)}
    assert at[0] == reference() and at[1] == reference(folder) and at[2] not in (at[0], at[1])


@pytest.mark.parametrize("kind", ["prefix", "dora"])
def test_strength_is_refused_where_there_is_none(kind, engine, ask, tiny, make_adapter):
    assert engine.load(tiny, "none", {"tuned": str(make_adapter(kind, 1))})["strength"] == []
    with pytest.raises(PlayError, match="strength of tuned cannot be set"):
        ask("tuned", strengths={"tuned": 0.5})
    assert ask("tuned", strengths={"tuned": 1.0})["tuned"]["tokens"]


@pytest.mark.real
def test_the_starter_model_answers_as_transformers_does(starter_home, engine, ask, starter_model):
    engine.load(ModelSpec(id="starter", dtype="float32"), "none", {})
    model = AutoModelForCausalLM.from_pretrained(starter_model, dtype=torch.float32).eval()
    expected = generate(model, AutoTokenizer.from_pretrained(starter_model), tokens=12)
    assert ask("base", max_new_tokens=12)["base"]["text"] == expected
