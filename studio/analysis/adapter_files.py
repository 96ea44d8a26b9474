"""The A and B of a LoRA adapter folder as PEFT saves it: adapter_config.json and adapter_model.safetensors.

Shapes as stored: A (r, in), B (out, r); the update is dW = s B A with s = alpha / r, or alpha / sqrt(r) for rsLoRA. rank_pattern
is read off the shapes; alpha_pattern is matched as PEFT does (a pattern fits the whole name or its end after a point).
Convolutions are flattened to (r, in k k) and (out, r); for embeddings the update is transposed, its singular values are the same.

What it does not know: DoRA also rescales each row of the base weight; that is marked, and `deltas.dora_delta` includes it when the
base is given. Pickled adapters are refused: reading one can run code. Source: arXiv 2106.09685; rsLoRA arXiv 2312.03732.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from studio.analysis.tensors import PICKLE_SUFFIXES, TensorRef, read_header, read_tensor
from studio.core.errors import AnalysisError

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
_FACTOR = re.compile(r"^(?:base_model\.model\.)?(?P<name>.+?)\.lora_(?P<kind>embedding_A|embedding_B|A|B|magnitude_vector)(?:\..+)?$")
_NUMBERED = re.compile(r"^.*?(?P<layer>\d+)\.(?P<module>.+)$")


@dataclass(frozen=True)
class LoraModule:
    """One adapted module. `name` is its path in the base model; layer is None outside numbered blocks."""

    name: str
    layer: int | None
    module: str
    a: TensorRef
    b: TensorRef
    alpha: float
    scaling: float
    embedding: bool
    magnitude: TensorRef | None

    @property
    def r(self) -> int:
        return self.a.shape[0]

    @property
    def dora(self) -> bool:
        return self.magnitude is not None

    def read(self) -> tuple[np.ndarray, np.ndarray]:
        """A (r, in) and B (out, r), float64, not scaled. Errors: AnalysisError for NaN or infinity."""
        a, b = (read_tensor(ref).astype(np.float64) for ref in (self.a, self.b))
        if not (np.isfinite(a).all() and np.isfinite(b).all()):
            message = f"The adapter of {self.name} holds NaN or infinity, so it has no spectrum."
            raise AnalysisError(message, "Its training diverged: train again with a lower learning rate.")
        return a.reshape(self.r, -1), b.reshape(b.shape[0], -1)


@dataclass(frozen=True)
class LoraAdapter:
    """A LoRA adapter folder: its modules in order of layer, and what its config says."""

    folder: Path
    base_model: str
    r: int
    alpha: float
    rslora: bool
    dora: bool
    modules: tuple[LoraModule, ...]

    def module(self, layer: int | None, module: str) -> LoraModule:
        """The one adapted module whose path is, or ends in, `module`. Errors: AnalysisError."""
        found = [item for item in self.modules if layer in (None, item.layer) and _is_called(item, module)]
        if len(found) == 1:
            return found[0]
        where = "" if layer is None else f" in layer {layer}"
        if found:
            raise AnalysisError(f"{len(found)} adapted modules{where} are called {module}.", "Give the layer and the whole name.")
        kinds = ", ".join(sorted({item.module.rsplit(".", 1)[-1] for item in self.modules}))
        raise AnalysisError(f"The adapter does not change {module}{where}.", f"It changes {kinds}.")


def _is_called(item: LoraModule, module: str) -> bool:
    return module in (item.name, item.module) or item.name.endswith(f".{module}")


def open_adapter(folder: Path) -> LoraAdapter:
    """List the modules of a LoRA adapter folder; nothing is read yet.

    Errors: AnalysisError when it is no LoRA, is pickled, was never saved, or a module lacks its A or its B.
    """
    folder = Path(folder)
    config = _read_config(folder)
    weights = folder / WEIGHTS
    if not weights.is_file():
        pickles = [file.name for file in sorted(folder.iterdir()) if file.suffix in PICKLE_SUFFIXES]
        if pickles:
            raise AnalysisError(f"{pickles[0]} is a pickled adapter, which can run code when read.", "Save the adapter as safetensors.")
        raise AnalysisError(f"{folder.name} holds no {WEIGHTS}.", "The run may have stopped before its first save: choose another.")
    factors = _group_factors(read_header(weights))
    if not factors:
        raise AnalysisError(f"{WEIGHTS} holds no LoRA matrices.", "Choose the folder of a LoRA or QLoRA adapter.")
    rslora = bool(config.get("use_rslora"))
    modules = [_as_module(name, parts, config, rslora) for name, parts in factors.items()]
    modules.sort(key=lambda item: (item.layer is None, item.layer or 0))
    return LoraAdapter(
        folder=folder,
        base_model=str(config.get("base_model_name_or_path") or "unknown"),
        r=int(config.get("r") or modules[0].r),
        alpha=float(config.get("lora_alpha") or modules[0].alpha),
        rslora=rslora,
        dora=any(item.dora for item in modules),
        modules=tuple(modules),
    )


def _read_config(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        raise AnalysisError(f"There is no adapter folder {folder}.", "Check the path.")
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise AnalysisError(f"{folder.name} holds no {CONFIG}.", "Choose a folder that PEFT saved an adapter in.") from error
    except (OSError, ValueError) as error:
        raise AnalysisError(f"{CONFIG} cannot be read.", "Save the adapter again.") from error
    kind = str(config.get("peft_type", "LORA")) if isinstance(config, dict) else "something else"
    if kind != "LORA":
        raise AnalysisError(f"This adapter is {kind}, and only LoRA's update is a product of A and B.", "Choose a LoRA or QLoRA run.")
    return config


def _group_factors(tensors: dict[str, TensorRef]) -> dict[str, dict[str, TensorRef]]:
    factors: dict[str, dict[str, TensorRef]] = {}
    for name, ref in tensors.items():
        match = _FACTOR.match(name)
        if match:
            factors.setdefault(match["name"], {})[match["kind"]] = ref
    return factors


def _as_module(name: str, parts: dict[str, TensorRef], config: dict[str, Any], rslora: bool) -> LoraModule:
    embedding = "embedding_A" in parts or "embedding_B" in parts
    a, b = (parts.get(f"embedding_{kind}" if embedding else kind) for kind in ("A", "B"))
    if a is None or b is None:
        missing = "A" if a is None else "B"
        raise AnalysisError(f"The adapter of {name} has no matrix {missing}.", "The file is incomplete: save or fetch it again.")
    if len(a.shape) < 2 or len(b.shape) < 2 or a.shape[0] != b.shape[1] or a.size == 0 or b.size == 0:
        message = f"In {name}, A of shape {a.shape} and B of shape {b.shape} do not fit together."
        raise AnalysisError(message, "Choose an adapter whose modules are plain LoRA.")
    alpha, r = _alpha(name, config), a.shape[0]
    numbered = _NUMBERED.match(name)
    return LoraModule(
        name=name,
        layer=int(numbered["layer"]) if numbered else None,
        module=numbered["module"] if numbered else name,
        a=a,
        b=b,
        alpha=alpha,
        scaling=alpha / math.sqrt(r) if rslora else alpha / r,
        embedding=embedding,
        magnitude=parts.get("magnitude_vector"),
    )


def _alpha(name: str, config: dict[str, Any]) -> float:
    for pattern, alpha in (config.get("alpha_pattern") or {}).items():
        try:
            if re.match(rf"(.*\.)?({pattern})$", name):
                return float(alpha)
        except re.error as error:
            raise AnalysisError(f"alpha_pattern holds {pattern!r}, which is no pattern.", "Correct adapter_config.json.") from error
    if config.get("lora_alpha") is None:
        raise AnalysisError(f"{CONFIG} does not say lora_alpha.", "Without it the size of the update is unknown: save the adapter again.")
    return float(config["lora_alpha"])
