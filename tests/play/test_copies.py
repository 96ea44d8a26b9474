"""A base beside itself, held in another way: each pane says what a freshly loaded base of its kind says, whatever was held before."""

from __future__ import annotations

import gc

import psutil
import pytest
import torch
from transformers import AutoModelForCausalLM

from studio.core.errors import PlayError
from studio.core.sampling import Sampling
from studio.core.spec import ModelSpec, RunSpec
from studio.models.load import load_base
from studio.play.closer import look_closer
from studio.play.copies import _forget
from studio.play.engine import Question
from tests.play.conftest import PROMPT
from tests.play.test_honesty import generate

TOKENS = 24
BESIDE = {"base in nf4": "nf4", "base in int8": "int8"}


@pytest.fixture
def fresh(copies, tiny):
    """What transformers' own greedy loop makes of a base that was loaded for nothing else."""

    def answer(quantization, model=tiny):
        loaded = load_base(RunSpec.parse({"model": {**model.model_dump(), "quantization": quantization}}), copies.home)
        return generate(loaded.model, loaded.tokenizer, tokens=TOKENS)

    return answer


def ask(copies, *panes, **sampling):
    events = []
    question = Question(dict.fromkeys(panes, PROMPT), Sampling(**{"max_new_tokens": TOKENS, **sampling}))
    done = copies.answer(question, lambda event, data: events.append((event, data)), lambda: False)
    return {answer["pane"]: answer["text"] for answer in done["panes"]}, done, events


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_pane_is_its_own_freshly_loaded_base_token_for_token(dtype, copies, fresh, tiny):
    model = tiny.model_copy(update={"dtype": dtype})
    loaded = copies.load(model, "none", {}, BESIDE)
    texts, done, events = ask(copies, "base", *BESIDE)
    expected = {"base": fresh("none", model), "base in nf4": fresh("nf4", model), "base in int8": fresh("int8", model)}
    assert texts == expected and texts["base in nf4"] != texts["base"]
    assert done["passes"] == [["base"], ["base in nf4"], ["base in int8"]] and not done["mixed_batch"]
    streamed = {pane: "".join(data["text"] for event, data in events if event == "token" and data["pane"] == pane) for pane in texts}
    assert streamed == texts
    assert {pane: copy["quantization"] for pane, copy in loaded["copies"].items()} == BESIDE
    assert loaded["quantization"] == "none" and loaded["dtype"] == dtype


def test_adapters_sit_on_the_first_copy_and_leave_the_others_alone(copies, fresh, tiny, make_adapter):
    copies.load(tiny, "nf4", {"tuned": str(make_adapter("lora", 1))}, {"plain": "none"})
    texts, done, _ = ask(copies, "base", "tuned", "plain")
    assert (texts["base"], texts["plain"]) == (fresh("nf4"), fresh("none"))
    assert texts["tuned"] not in (texts["base"], texts["plain"])
    assert done["passes"] == [["base", "tuned"], ["plain"]]


def test_the_first_copy_may_change_and_what_is_held_is_kept(copies, fresh, tiny, make_adapter):
    copies.load(tiny, "none", {"tuned": str(make_adapter("adapter", 1))}, {"other": "nf4"})
    held = dict(copies.engines)
    assert ask(copies, "tuned")[0]
    copies.load(tiny, "nf4", {}, {"other": "none"})
    assert copies.engines == held
    assert ask(copies, "base", "other")[0] == {"base": fresh("nf4"), "other": fresh("none")}
    copies.load(tiny, "nf4", {}, {})
    assert list(copies.engines) == ["nf4"] and copies.describe()["copies"] == {}
    assert ask(copies, "base")[0] == {"base": fresh("nf4")}


def test_the_same_seed_draws_the_same_tokens_from_the_same_weights(copies, tiny):
    settings = {"temperature": 1.0, "seed": 5}
    copies.load(tiny, "nf4", {}, {"plain": "none"})
    beside = ask(copies, "base", "plain", **settings)[0]
    copies.load(tiny, "none", {}, {})
    assert ask(copies, "base", **settings)[0]["base"] == beside["plain"]


@pytest.mark.parametrize("beside", [{"again": "none"}, {"a": "nf4", "b": "nf4"}, {"base": "nf4"}])
def test_the_same_way_twice_is_refused(beside, copies, tiny):
    with pytest.raises(PlayError, match="same way twice"):
        copies.load(tiny, "none", {}, beside)


def test_nothing_is_computed_where_one_pane_cannot_be_answered(copies, tiny):
    copies.load(tiny, "none", {}, {"other": "nf4"})
    told = []
    turns = {"base": PROMPT, "other": [{"role": "user", "content": "word " * 3000}]}
    with pytest.raises(PlayError, match="too long"):
        copies.answer(Question(turns), lambda event, data: told.append(event), lambda: False)
    assert told == []


def test_a_stop_reaches_every_copy(copies, tiny):
    copies.load(tiny, "none", {}, {"other": "nf4"})
    done = copies.answer(Question(dict.fromkeys(("base", "other"), PROMPT)), lambda event, data: None, lambda: True)
    assert [(answer["stopped_by"], answer["tokens"]) for answer in done["panes"]] == [("you", 0)] * 2


def test_a_closer_look_tells_what_quantization_changed(copies, tiny, lively_llama):
    """By the closed form: KL of the freshly loaded NF4 base from the plain one at each place."""
    copies.load(tiny, "none", {}, {"other": "nf4"})
    looked = look_closer(copies, PROMPT, "return max(values)", ["base", "other"], {})
    prompt, ids = copies.first.encode(PROMPT), copies.first.loaded.tokenizer("return max(values)")["input_ids"]
    plain = AutoModelForCausalLM.from_pretrained(lively_llama, dtype=torch.float32).eval()
    quantized = load_base(RunSpec.parse({"model": {**tiny.model_dump(), "quantization": "nf4"}}), copies.home).model
    with torch.no_grad():
        base, other = (model(input_ids=torch.tensor([prompt + ids])).logits[0, -len(ids) - 1 : -1].log_softmax(-1)
                       for model in (plain, quantized))  # fmt: skip
    expected = (other.exp() * (other - base)).sum(-1)
    assert [token["panes"]["other"]["kl"] for token in looked["tokens"]] == pytest.approx(expected.tolist(), abs=1e-4)
    assert min(expected) > 1e-3


@pytest.mark.real
def test_a_copy_that_is_no_longer_asked_for_gives_its_memory_back(starter_home, copies):
    copies.load(ModelSpec(id="starter", dtype="float32"), "nf4", {}, {})
    _forget([])  # what earlier tests left in the process would be filled first, and not be seen
    alone = psutil.Process().memory_info().rss
    loaded = copies.load(ModelSpec(id="starter", dtype="float32"), "nf4", {}, {"plain": "none"})
    ask(copies, "plain", max_new_tokens=1)
    both = psutil.Process().memory_info().rss
    copies.load(ModelSpec(id="starter", dtype="float32"), "nf4", {}, {})
    gc.collect()
    size = loaded["copies"]["plain"]["base_bytes"]
    assert size == pytest.approx(134_515_008 * 4, rel=0.01) and loaded["base_bytes"] < size / 2
    assert both - alone > 0.9 * size and psutil.Process().memory_info().rss - alone < 0.2 * size
