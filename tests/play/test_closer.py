"""The closer look: its numbers are those of a plain forward pass, and an adapter that changes nothing diverges by nothing."""

from __future__ import annotations

import math

import pytest
import torch
from transformers import AutoModelForCausalLM

from studio.core.errors import PlayError
from studio.methods.adapters import load_adapter
from studio.play.closer import look_closer
from tests.play.conftest import PROMPT

TEXT = "return max(values)"


@pytest.mark.parametrize("kind", ["lora", "adapter", "prefix"])
def test_probabilities_are_those_of_a_plain_forward_pass(kind, copies, tiny, make_adapter, lively_llama):
    folder = make_adapter(kind, 1)
    copies.load(tiny, "none", {"tuned": str(folder)}, {})
    looked = look_closer(copies, PROMPT, TEXT, ["base", "tuned"], {})
    prompt, ids = copies.first.encode(PROMPT), copies.first.loaded.tokenizer(TEXT)["input_ids"]
    scores = {}
    for name in ("base", "tuned"):
        model = AutoModelForCausalLM.from_pretrained(lively_llama, dtype=torch.float32).eval()
        model = load_adapter(model, folder, "default") if name == "tuned" else model
        with torch.no_grad():
            scores[name] = model(input_ids=torch.tensor([prompt + ids])).logits[0, -len(ids) - 1 : -1].log_softmax(-1)
        expected = scores[name][range(len(ids)), ids]
        found = [token["panes"][name]["logprob"] for token in looked["tokens"]]
        assert found == pytest.approx(expected.tolist(), abs=1e-4)
        assert looked["perplexity"][name] == pytest.approx(math.exp(-expected.mean()), rel=1e-4)
    divergence = torch.nn.functional.kl_div(scores["base"], scores["tuned"], log_target=True, reduction="none").sum(-1)
    assert [token["panes"]["tuned"]["kl"] for token in looked["tokens"]] == pytest.approx(divergence.tolist(), abs=1e-4)
    assert "".join(token["text"] for token in looked["tokens"]) == TEXT


def test_an_adapter_that_changes_nothing_diverges_by_nothing(copies, tiny, make_adapter):
    copies.load(tiny, "none", {"zero": str(make_adapter("lora"))}, {})
    looked = look_closer(copies, PROMPT, TEXT, ["base", "zero"], {})
    assert all(token["panes"]["zero"]["kl"] == 0 for token in looked["tokens"])
    assert looked["perplexity"]["zero"] == looked["perplexity"]["base"]


@pytest.mark.parametrize(("text", "named"), [("", "no text"), ("a b " * 300, "tokens")])
def test_texts_that_cannot_be_looked_at_are_named(text, named, copies, tiny):
    copies.load(tiny, "none", {}, {})
    with pytest.raises(PlayError, match=named):
        look_closer(copies, PROMPT, text, ["base"], {})
