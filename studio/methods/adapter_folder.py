"""Adapter folders: what they hold, and whether it is whole and safe to load, without torch and without reading the weights.

An adapter is adapter_config.json beside adapter_model.safetensors. Pickled weights (.bin) can run code when they are read and are
refused. The header of the safetensors file tells every tensor's name and shape, so that config and weights can be checked against each
other here, and against a base in studio.methods.fit, before anything is touched.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from studio.core.errors import MethodError, from_os_error
from studio.core.files import read_json
from studio.methods.saving import CONFIG_NAME, WEIGHTS_NAME
from studio.methods.targets import pattern_rank

FAMILIES = {"LORA": "lora", "BOTTLENECK": "adapter", "PREFIX_TUNING": "prefix"}
"""PEFT's type in adapter_config.json -> family. A QLoRA adapter is a LoRA adapter: the file does not say what base it was trained over."""

REWRITING_INITS = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Initialisations of PEFT's that rewrite the base's weights whenever such an adapter is added, loading included."""

UNSUPPORTED = (
    "modules_to_save", "trainable_token_indices", "target_parameters", "layer_replication", "megatron_config", "arrow_config",
    "alora_invocation_tokens",
)  # fmt: skip
"""Settings of adapter_config.json that reach beyond linear layers."""

BOTTLENECK_PARTS = ("down.weight", "down.bias", "up.weight", "up.bias")

MAX_HEADER_BYTES = 100_000_000
"""The limit of the safetensors format itself."""

_ITEM_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}


@dataclass(frozen=True)
class AdapterInfo:
    """What an adapter folder says of itself."""

    family: str
    settings: dict[str, Any]
    """adapter_config.json as it is."""
    base: str
    """The base it was trained on, as its author named it; may be empty."""
    shapes: dict[str, tuple[int, ...]]
    """Tensor name -> shape."""
    parameters: int
    bytes: int
    """Size of the weights file."""

    @property
    def summary(self) -> str:
        """'rank 8, alpha 16, 7 modules', or the like."""
        if self.family == "lora":
            modules = self.settings.get("target_modules") or []
            count = 1 if isinstance(modules, str) else len(modules)
            alpha = self.settings.get("lora_alpha")
            return (
                f"rank {self.settings.get('r')}, alpha {alpha:g}, {count} modules"
                if isinstance(alpha, (int, float))
                else f"{count} modules"
            )
        if self.family == "adapter":
            return f"{self.settings.get('placement')}, bottleneck {self.settings.get('bottleneck')}"
        return f"{self.settings.get('num_virtual_tokens')} virtual tokens"


def describe_adapter(folder: Path) -> AdapterInfo:
    """What the adapter in `folder` is, from its config and its weights' header alone. Raises MethodError."""
    folder = Path(folder)
    if not folder.is_dir():
        raise MethodError(f"There is no folder {folder}.", "Choose the folder that holds adapter_config.json.")
    if not (folder / CONFIG_NAME).is_file():
        raise MethodError(f"{folder.name} holds no adapter: {CONFIG_NAME} is missing.", "Choose the folder that holds it.")
    settings = read_json(folder / CONFIG_NAME)
    if settings is None:
        raise MethodError(f"The {CONFIG_NAME} in {folder.name} is damaged: it holds no JSON object.", "Copy or export the adapter again.")
    family = FAMILIES.get(str(settings.get("peft_type")))
    if family is None:
        raise MethodError(
            f"{folder.name} is of the type {settings.get('peft_type')!r}, which the studio does not load.",
            "It loads LoRA, bottleneck adapters and prefixes.",
        )
    _refuse_risky(folder, settings)
    shapes, parameters = _read_header(_weights_file(folder))
    size = (folder / WEIGHTS_NAME).stat().st_size
    info = AdapterInfo(family, settings, str(settings.get("base_model_name_or_path") or ""), shapes, parameters, size)
    _check_agreement(folder, info)
    return info


def _check_agreement(folder: Path, info: AdapterInfo) -> None:
    """The config and the weights must be of one whole adapter, or PEFT fails half-way with the base changed, or fills gaps at random."""
    hint = "Copy or export the adapter again, both files from the same run."
    for name, shape in info.shapes.items():
        axis, promised = _promised_size(info, name)
        if promised is not None and (len(shape) <= axis or shape[axis] != promised):
            shown = " × ".join(map(str, shape))
            message = f"The adapter in {folder.name} contradicts itself: {CONFIG_NAME} says {promised}, and {name} is {shown}."
            raise MethodError(message, hint)
    missing = _missing_tensor(info)
    if missing:
        raise MethodError(f"The adapter in {folder.name} is not whole: {missing} is missing.", hint)


def _promised_size(info: AdapterInfo, name: str) -> tuple[int, int | None]:
    """(axis, size) that the config gives this tensor; size is None where it gives none."""
    settings = info.settings
    if info.family == "prefix":
        return 0, settings.get("num_virtual_tokens")
    if info.family == "adapter":
        axis = {"down.weight": 0, "down.bias": 0, "up.weight": 1}.get(name.rpartition(".bottleneck_")[2])
        return (axis, settings.get("bottleneck")) if axis is not None else (0, None)
    place, _, part = name.removeprefix("base_model.model.").partition(".lora_")
    axis = {"A.weight": 0, "B.weight": 1}.get(part)
    if axis is None:
        return 0, None
    try:
        return axis, pattern_rank(settings.get("r"), dict(settings.get("rank_pattern") or {}), place)
    except (TypeError, ValueError, re.error) as error:
        raise MethodError(f"The rank_pattern in {CONFIG_NAME} is damaged.", "Copy or export the adapter again.") from error


def _missing_tensor(info: AdapterInfo) -> str:
    """The name of a tensor without which the adapter is not whole; '' where none is missing."""
    needed = {"lora": (".lora_A.weight", ".lora_B.weight"), "adapter": tuple(f".bottleneck_{part}" for part in BOTTLENECK_PARTS)}
    ends = needed.get(info.family, ())
    if info.settings.get("use_dora"):
        ends += (".lora_magnitude_vector",)
    places = {name[: -len(end)] for name in info.shapes for end in ends if name.endswith(end)}
    return next((place + end for place in sorted(places) for end in ends if place + end not in info.shapes), "")


def _refuse_risky(folder: Path, settings: dict[str, Any]) -> None:
    """Refuse settings under which PEFT would change the base's weights or layers while loading, or import a module the file names."""
    init = settings.get("init_lora_weights")
    if isinstance(init, str) and init.startswith(REWRITING_INITS):
        raise MethodError(
            f"{folder.name} was saved as a raw {init} adapter, which changes the base's weights when it is loaded.",
            "Save it as a plain LoRA, as every run of the studio is: peft does with path_initial_model_for_weight_conversion.",
        )
    found = [name for name in UNSUPPORTED if settings.get(name)]
    if settings.get("bias") not in (None, "none"):
        found.append("bias")
    if found:
        raise MethodError(
            f"{folder.name} uses {', '.join(found)}, which the studio does not load.",
            "Train or export the adapter without, or load it with peft.",
        )


def _weights_file(folder: Path) -> Path:
    if (folder / WEIGHTS_NAME).is_file():
        return folder / WEIGHTS_NAME
    if any(folder.glob("*.bin")) or any(folder.glob("*.pt")):
        raise MethodError(
            f"{folder.name} holds pickled weights, which can run code when they are read.", f"Convert them to {WEIGHTS_NAME} first."
        )
    raise MethodError(f"{folder.name} has no weights: {WEIGHTS_NAME} is missing.", "Copy or export the adapter again.")


def _read_header(path: Path) -> tuple[dict[str, tuple[int, ...]], int]:
    """Tensor shapes and the number of parameters in a safetensors file, whose length must be exactly what its header says."""
    damaged = MethodError(f"{path.name} in {path.parent.name} is damaged or cut off.", "Copy or export the adapter again.")
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= min(MAX_HEADER_BYTES, path.stat().st_size - 8):
                raise damaged
            header = json.loads(file.read(length))
        total = path.stat().st_size - 8 - length
    except OSError as error:
        raise from_os_error(error, "reading the adapter") from error
    except (ValueError, RecursionError) as error:
        raise damaged from error
    if not isinstance(header, dict):
        raise damaged
    header.pop("__metadata__", None)
    try:
        shapes = {name: tuple(entry["shape"]) for name, entry in header.items()}
        counted = sum(_count(shapes[name]) * _ITEM_BYTES[entry["dtype"]] for name, entry in header.items())
    except (KeyError, TypeError, ValueError) as error:
        raise damaged from error
    if counted != total or not shapes or not all(type(size) is int and size > 0 for shape in shapes.values() for size in shape):
        raise damaged
    return shapes, sum(_count(shape) for shape in shapes.values())


def _count(shape: tuple[int, ...]) -> int:
    product = 1
    for size in shape:
        product *= size
    return product


def base_warning(info: AdapterInfo, base_name: str) -> str:
    """A sentence where the adapter names another base than `base_name`, else ''. Names of one base differ between machines."""
    if not info.base or _last(info.base) == _last(base_name):
        return ""
    return f"The adapter says that it was trained on {info.base}; this base is {base_name}."


def _last(name: str) -> str:
    return name.rstrip("/").rsplit("/", 1)[-1].lower()
