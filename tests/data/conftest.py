"""A home and a way to write a dataset file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from studio.core.paths import StudioHome


@pytest.fixture
def home(studio_home: Path) -> StudioHome:
    return StudioHome.find(studio_home)


@pytest.fixture(scope="session")
def tokenizer(tiny_llama: Path):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_llama)


@pytest.fixture
def write_rows(tmp_path: Path):
    """write_rows(rows, name) -> the path of a JSON lines file."""

    def write(rows, name="rows.jsonl"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return path

    return write
