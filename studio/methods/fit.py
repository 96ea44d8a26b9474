"""Does an adapter's set of tensor shapes fit a model? Runs in child processes; needs the model, not the adapter's weights."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from studio.methods.frozen_base import widths

if TYPE_CHECKING:
    from torch import nn

    from studio.methods.adapter_folder import AdapterInfo

PREFIX_OF_PEFT = "base_model.model."

MARKS = {"lora": ".lora_", "adapter": ".bottleneck_"}
"""What stands between a module's name and an adapter's tensor in the file."""

PARTS = {
    "lora": ("A.weight", "B.weight", "B.bias", "magnitude_vector"),
    "adapter": ("down.weight", "down.bias", "up.weight", "up.bias"),
}


def misfits(model: nn.Module, info: AdapterInfo) -> list[str]:
    """Why this adapter cannot be put on `model`, each naming both shapes; empty where it can."""
    family, shapes = info.family, info.shapes
    if family == "prefix":
        return _prefix_misfits(model, info)
    modules = base_modules(model)
    found = []
    for name, shape in shapes.items():
        place, _, part = name.removeprefix(PREFIX_OF_PEFT).partition(MARKS[family])
        if part not in PARTS[family]:
            found.append(f"it holds {name}, which is no part of the studio's {family} adapters")
        elif place not in modules:
            found.append(f"it adapts {place}, which this model does not have")
        else:
            check = _lora_misfit if family == "lora" else _adapter_misfit
            found += check(place, part, shape, modules[place])
    return found or _layer_misfits(modules, info)


def _layer_misfits(modules: dict[str, nn.Module], info: AdapterInfo) -> list[str]:
    """An adapter of a model with fewer layers of the same widths: PEFT would leave the layers above without one."""
    if info.settings.get("layers_to_transform") is not None or isinstance(info.settings.get("target_modules"), str):
        return []
    there = _layers(name for name, module in modules.items() if hasattr(module, "in_features") or hasattr(module, "nf"))
    adapted = _layers(name.removeprefix(PREFIX_OF_PEFT) for name in info.shapes)
    if not adapted or adapted == there:
        return []
    return [f"it adapts {len(adapted)} layers, and this model has {len(there)}"]


def _layers(names: Iterable[str]) -> set[str]:
    """Paths up to a layer's number: 'model.layers.0'."""
    return {match.group(1) for name in names if (match := re.match(r"(.*?\.\d+)\.", name))}


def base_modules(model: nn.Module) -> dict[str, nn.Module]:
    """Name -> module of the base, by the names the base had before any adapter was put on it."""
    from peft import PeftModel
    from peft.tuners.tuners_utils import BaseTunerLayer

    base = model.get_base_model() if isinstance(model, PeftModel) else model
    found = {}
    for name, module in base.named_modules():
        plain = module.get_base_layer() if isinstance(module, BaseTunerLayer) else module
        found.setdefault(name.replace(".base_layer", ""), plain)
    return found


def _lora_misfit(place: str, part: str, shape: tuple[int, ...], module: nn.Module) -> list[str]:
    if not hasattr(module, "weight"):
        return [f"it adapts {place}, which is no linear layer here"]
    wide, high = widths(module)
    expected, got = (wide, shape[-1]) if part.startswith("A") else (high, shape[0])
    if expected == got:
        return []
    return [f"{place} is {high} × {wide} here, and the adapter's lora_{part} is {_times(shape)}: {got} where {expected} belongs"]


def _adapter_misfit(place: str, part: str, shape: tuple[int, ...], module: nn.Module) -> list[str]:
    from studio.methods.bottleneck_tuner import width_of

    if part in ("down.bias", "up.bias"):
        return []
    expected, got = width_of(module), shape[-1] if part == "down.weight" else shape[0]
    if expected == got:
        return []
    return [f"{place} is {expected} wide here, and the adapter's {part} of {_times(shape)} wants {got}"]


def _prefix_misfits(model: nn.Module, info: AdapterInfo) -> list[str]:
    from peft import PeftModel

    if set(info.shapes) != {"prompt_embeddings"} or len(info.shapes["prompt_embeddings"]) != 2:
        return [f"it holds {', '.join(info.shapes)}, which is not a prefix"]
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    config = base.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    expected, got = config.num_hidden_layers * 2 * heads * head_dim, info.shapes["prompt_embeddings"][1]
    shown = _times(info.shapes["prompt_embeddings"])
    if expected != got:
        return [f"the keys and values of all layers are {expected} numbers per token here, and the prefix of {shown} has {got}"]
    here = {"num_layers": config.num_hidden_layers, "num_attention_heads": heads, "token_dim": heads * head_dim}
    return [
        f"its {name} is {info.settings.get(name)}, and this model's {value}"
        for name, value in here.items()
        if info.settings.get(name) != value
    ]


def _times(shape: tuple[int, ...]) -> str:
    return " × ".join(map(str, shape))
