"""Adapter folders as PEFT writes them, made of chosen matrices."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

Factors = tuple[torch.Tensor, torch.Tensor]


@pytest.fixture(scope="session")
def write_adapter() -> Callable[..., Path]:
    """write_adapter(folder, {module name: (A, B)}, **config) -> folder; alpha 16 and the first A's rank unless given."""

    def write(folder: Path, factors: dict[str, Factors], **config: Any) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {}
        for name, (a, b) in factors.items():
            tensors[f"base_model.model.{name}.lora_A.weight"] = a.contiguous()
            tensors[f"base_model.model.{name}.lora_B.weight"] = b.contiguous()
        save_file(tensors, folder / "adapter_model.safetensors")
        first = next(iter(factors.values()))[0]
        settings = {"peft_type": "LORA", "r": first.shape[0], "lora_alpha": 16, "base_model_name_or_path": "base", **config}
        (folder / "adapter_config.json").write_text(json.dumps(settings))
        return folder

    return write


@pytest.fixture(scope="session")
def random_factors() -> Callable[..., Factors]:
    """random_factors(out, inputs, r, seed) -> (A, B) of normal numbers."""

    def factors(out: int, inputs: int, r: int, seed: int = 0) -> Factors:
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(r, inputs, generator=generator), torch.randn(out, r, generator=generator)

    return factors
