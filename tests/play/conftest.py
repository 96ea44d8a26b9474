"""Adapters of every family for the tiny model, random or zero, and an engine that holds the model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from studio.core.paths import StudioHome
from studio.core.spec import ModelSpec, RunSpec

FAMILIES = {
    "lora": {"family": "lora", "rank": 4},
    "dora": {"family": "lora", "rank": 4, "dora": True},
    "adapter": {"family": "adapter", "placement": "houlsby", "bottleneck": 8},
    "parallel": {"family": "adapter", "placement": "parallel", "bottleneck": 8},
    "prefix": {"family": "prefix", "virtual_tokens": 5},
}
PROMPT = [{"role": "user", "content": "Write a Python function that returns the largest value."}]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Threads only wait for each other on a model this small, and sums in one order make equal answers equal."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def lively_llama(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny Llama with larger weights and a head of its own: its answers vary, where the tiny one's repeat a single token."""
    import torch
    from transformers import AutoConfig, AutoTokenizer, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("models") / "lively-llama"
    config = AutoConfig.from_pretrained(tiny_llama, initializer_range=0.25, tie_word_embeddings=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        LlamaForCausalLM(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_llama).save_pretrained(folder)
    return folder


@pytest.fixture
def tiny(lively_llama: Path) -> ModelSpec:
    return ModelSpec(id=str(lively_llama), dtype="float32")


@pytest.fixture(scope="session")
def make_adapter(lively_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """The folder of an adapter of one of FAMILIES: as it starts (which changes nothing) or, with a seed, with random weights."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from studio.methods import get_method
    from studio.methods.adapters import save_adapter

    made: dict[tuple[str, int | None], Path] = {}

    def make(kind: str, seed: int | None = None) -> Path:
        if (kind, seed) not in made:
            spec = RunSpec.parse({"method": FAMILIES[kind]})
            base = AutoModelForCausalLM.from_pretrained(lively_llama, dtype=torch.float32)
            model = get_method(spec.method.family).attach(base, spec, AutoTokenizer.from_pretrained(lively_llama))
            if seed is not None:
                _randomize(model, seed)
            folder = tmp_path_factory.mktemp("adapters") / f"{kind}-{seed}"
            save_adapter(model, folder, spec)
            made[kind, seed] = folder
        return made[kind, seed]

    return make


def _randomize(model: Any, seed: int) -> None:
    import torch

    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.2 * torch.randn(parameter.shape, generator=generator)


@pytest.fixture
def engine(studio_home: Path) -> Any:
    from studio.play.engine import Engine

    return Engine(StudioHome.find(studio_home))


@pytest.fixture
def copies(studio_home: Path) -> Any:
    from studio.play.copies import Copies

    return Copies(StudioHome.find(studio_home))


@pytest.fixture
def ask(engine: Any) -> Callable[..., dict[str, Any]]:
    """Ask the engine; the answers by pane. Keyword arguments are the sampling."""
    from studio.core.sampling import Sampling
    from studio.play.engine import Question

    def ask(*panes: str, messages: Any = PROMPT, strengths: Any = None, **sampling: Any) -> dict[str, Any]:
        settings = Sampling(**{"max_new_tokens": 24, **sampling})
        question = Question({pane: messages for pane in panes}, settings, strengths or {})
        done = engine.answer(question, lambda event, data: None, lambda: False)
        return {pane["pane"]: pane for pane in done["panes"]} | {"done": done}

    return ask
