"""A home with a run of the tiny model on a few dozen real little functions."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from studio.core.paths import RunPaths, StudioHome
from studio.core.spec import RunSpec

VERBS = ("add", "subtract", "multiply", "divide", "compare", "return", "count", "sort")
NOUNS = ("numbers", "words", "values", "lists", "texts")


def pair(verb: str, noun: str) -> dict[str, str]:
    """One prompt and its function; the lengths differ with the verb."""
    name = f"{verb}_{noun}"
    body = "".join(f"    {noun} = {verb}({noun}, {i})\n" for i in range(1 + VERBS.index(verb)))
    return {
        "prompt": f"Write a Python function that will {verb} the {noun}.",
        "completion": f"def {name}({noun}):\n{body}    return {noun}",
    }


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads only wait for each other on a model this small."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    path = tmp_path / "pairs.jsonl"
    rows = [pair(verb, noun) for verb in VERBS for noun in NOUNS]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def home(studio_home: Path) -> StudioHome:
    return StudioHome.find(studio_home)


@pytest.fixture
def make_spec(tiny_llama: Path, pairs: Path) -> Callable[..., RunSpec]:
    """A spec of the tiny model: keyword arguments change `training`, `method` replaces the method."""

    def make(method: dict[str, Any] | None = None, **training: Any) -> RunSpec:
        return RunSpec.parse(
            {
                "model": {"id": str(tiny_llama), "dtype": "float32"},
                "data": {"source": str(pairs), "max_held_out_rows": 8, "held_out": 0.2},
                "method": method or {"family": "lora", "rank": 4},
                "training": {"max_steps": 6, "batch_size": 4, "max_length": 256, "learning_rate": 0.01, **training},
            }
        )

    return make


@pytest.fixture
def make_run(home: StudioHome) -> Callable[[RunSpec, str], RunPaths]:
    """The folder of a run as the runner leaves it: spec.json only."""

    def make(spec: RunSpec, name: str = "run") -> RunPaths:
        paths = RunPaths(home.runs / name)
        paths.folder.mkdir(parents=True)
        paths.spec.write_text(json.dumps(spec.to_json()), encoding="utf-8")
        return paths

    return make
