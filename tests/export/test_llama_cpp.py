"""llama.cpp reads the exported file: its tokens, chat prompt and greedy answers are those of transformers on the merged model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from studio.core.files import write_json
from studio.core.paths import RunPaths, StudioHome
from studio.core.spec import RunSpec
from studio.export.gguf import write_gguf
from studio.export.merge import merge_run
from studio.export.source import ExportSource, read_source
from studio.methods import get_method
from studio.models.load import load_base

QUESTIONS = ("Write a Python function that returns the sum of a list.", "def is_even(n):  # 12345 ü\n", "Say hello.")
TOKENS = 24


@pytest.fixture
def source(starter_home: Path) -> ExportSource:
    """A run over the starter model whose LoRA is small, seeded and nowhere zero."""
    home = StudioHome.find(starter_home)
    paths = RunPaths(home.runs / "20260101-000000-small")
    spec = RunSpec.parse({"model": {"id": "starter"}, "method": {"family": "lora", "rank": 4}})
    base, method = load_base(spec, home), get_method("lora")
    torch.manual_seed(0)
    model = method.attach(base.model, spec, base.tokenizer)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data = 0.02 * torch.randn(parameter.shape)
    method.save(model, paths.adapter, spec)
    write_json(paths.spec, spec.to_json())
    return read_source(home, paths.id)


def ask_llama(path: Path, texts: list[str], messages: list[dict[str, str]]) -> dict[str, Any]:
    command = [sys.executable, str(Path(__file__).with_name("llama_driver.py")), str(path)]
    wanted = json.dumps({"texts": texts, "messages": messages, "tokens": TOKENS})
    done = subprocess.run(command, input=wanted, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.real
@pytest.mark.parametrize(("precision", "tolerance"), [("f32", 2e-3), ("f16", 5e-2)])
def test_llama_cpp_answers_token_by_token_as_transformers(source: ExportSource, tmp_path: Path, precision: str, tolerance: float) -> None:
    """llama.cpp also computes in f16 where the weights are f16, so its greedy token may there be the better of two near ties."""
    model, tokenizer, _ = merge_run(source)
    talks = [[{"role": "user", "content": question}] for question in QUESTIONS]
    texts = [tokenizer.apply_chat_template(talk, tokenize=False, add_generation_prompt=True) for talk in talks]
    found = ask_llama(write_gguf(source, tmp_path / "model.gguf", precision), texts, talks[0])
    assert found["prompt"] == texts[0]
    for text, answer in zip(texts, found["answers"], strict=True):
        ids = tokenizer(text, add_special_tokens=False).input_ids
        assert answer["split"] == ids
        chosen = torch.tensor(answer["tokens"])
        with torch.no_grad():
            odds = model(torch.tensor([ids + answer["tokens"]])).logits[0, len(ids) - 1 : -1].log_softmax(-1)
        own = odds.gather(1, chosen[:, None])[:, 0]
        assert len(chosen) == TOKENS or chosen[-1] == tokenizer.eos_token_id
        assert answer["logprobs"] == pytest.approx(own.tolist(), abs=tolerance)
        assert (odds.max(-1).values - own).max() <= tolerance
