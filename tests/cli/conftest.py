"""The play tests' models and adapters, a home, and the command line with words on its standard input."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from studio.__main__ import main
from studio.core.paths import StudioHome
from studio.core.spec import RunSpec
from tests.play.conftest import lively_llama, make_adapter  # noqa: F401 - fixtures


@pytest.fixture
def home(studio_home: Path, monkeypatch: pytest.MonkeyPatch) -> StudioHome:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return StudioHome.find(studio_home)


@pytest.fixture
def run(home: StudioHome, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Run a verb with lines on standard input: (exit code, standard output, standard error)."""

    def run(*arguments: str, lines: tuple[str, ...] = ()) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
        code = main(["--home", str(home.root), *arguments])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


@pytest.fixture
def fresh(home: StudioHome, lively_llama: Path) -> Callable[..., str]:  # noqa: F811
    """transformers' own greedy answer of a freshly loaded base, with an adapter on it where a folder is given."""
    from studio.methods.adapters import load_adapter
    from studio.models.load import load_base
    from tests.play.test_honesty import generate

    def answer(messages: list[dict[str, str]], tokens: int, quantization: str = "none", folder: Path | None = None) -> str:
        loaded = load_base(RunSpec.parse({"model": {"id": str(lively_llama), "quantization": quantization}}), home)
        model = load_adapter(loaded.model, folder, "default") if folder else loaded.model
        return generate(model, loaded.tokenizer, messages, tokens)

    return answer


def json_lines(text: str) -> list[Any]:
    return [json.loads(line) for line in text.splitlines()]


def said(*turns: str) -> list[dict[str, str]]:
    """Turns of user and assistant in alternation."""
    return [{"role": ("user", "assistant")[index % 2], "content": text} for index, text in enumerate(turns)]
