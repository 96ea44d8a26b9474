"""A finished run of the tiny model for each family: trained once in a session, in this process."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from studio.core.files import write_json
from studio.core.paths import RunPaths, StudioHome
from studio.core.spec import RunSpec
from studio.export.source import ExportSource, read_source

METHODS: dict[str, dict[str, Any]] = {
    "lora": {"family": "lora", "rank": 4},
    "dropout": {"family": "lora", "rank": 4, "dropout": 0.1, "lora_plus_ratio": 1.5},
    "pissa": {"family": "lora", "rank": 4, "init": "pissa"},
    "dora": {"family": "lora", "rank": 4, "dora": True, "rslora": True},
    "qlora": {"family": "qlora", "rank": 4},
    "int8": {"family": "lora", "rank": 4},
    "adapter": {"family": "adapter", "bottleneck": 8},
    "prefix": {"family": "prefix", "virtual_tokens": 4},
}


@pytest.fixture(scope="session")
def session_home(tmp_path_factory: pytest.TempPathFactory) -> StudioHome:
    home = tmp_path_factory.mktemp("export-home")
    rows = [{"prompt": f"Add {i} and {i % 7}.", "completion": f"def add():\n    return {i} + {i % 7}" * (1 + i % 3)} for i in range(40)]
    (home / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return StudioHome.find(home)


@pytest.fixture(scope="session")
def trained(session_home: StudioHome, tiny_llama: Path) -> Callable[[str], ExportSource]:
    """The run of one of METHODS, trained when first asked for."""

    def get(name: str) -> ExportSource:
        paths = RunPaths(session_home.runs / f"20260101-000000-{name}")
        if not paths.result.exists():
            _train(name, paths, session_home, tiny_llama)
        return read_source(session_home, paths.id)

    return get


def _train(name: str, paths: RunPaths, home: StudioHome, model: Path) -> None:
    from studio.train.run import train

    paths.folder.mkdir(parents=True)
    spec = RunSpec.parse({
        "name": f"a {name} run", "model": {"id": str(model), "dtype": "float32", **({"quantization": "int8"} if name == "int8" else {})},
        "data": {"source": str(home.root / "rows.jsonl"), "max_held_out_rows": 8, "held_out": 0.2}, "method": METHODS[name],
        "training": {
            "epochs": 1.5, "batch_size": 4, "accumulation": 2 if name == "lora" else 1, "max_length": 256, "learning_rate": 0.02,
            "eval_every": 3, "warmup": 0.2,
        },
    })  # fmt: skip
    write_json(paths.spec, spec.to_json())
    write_json(paths.result, train(spec, paths, home).to_json())
