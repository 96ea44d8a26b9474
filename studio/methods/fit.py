"""Does an adapter's set of tensor shapes fit a model? Runs in child processes; needs the model, not the adapter's weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

PREFIX_OF_PEFT = "base_model.model."

MARKS = {"lora": ".lora_", "adapter": ".bottleneck_"}
"""What stands between a module's name and an adapter's tensor in the file."""

PARTS = {
    "lora": ("A.weight", "B.weight", "magnitude_vector"),
    "adapter": ("down.weight", "down.bias", "up.weight", "up.bias"),
}

Shapes = dict[str, tuple[int, ...]]


def misfits(model: nn.Module, family: str, shapes: Shapes) -> list[str]:
    """Why these tensors cannot be put on `model`, each naming both shapes; empty where they can."""
    if family == "prefix":
        return _prefix_misfits(model, shapes)
    modules = base_modules(model)
    found = []
    for name, shape in shapes.items():
        place, _, part = name.removeprefix(PREFIX_OF_PEFT).partition(MARKS[family])
        if part not in PARTS[family]:
            found.append(f"it holds {name}, which is no part of the studio's {family} adapters")
        elif place not in modules:
            found.append(f"it adapts {place}, which this model does not have")
        elif family == "lora":
            found += _lora_misfit(place, part, shape, modules[place])
    return found


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
    wide, high = _features(module)
    expected, got = (wide, shape[-1]) if part.startswith("A") else (high, shape[0])
    if expected == got:
        return []
    shown = " × ".join(map(str, shape))
    return [f"{place} is {high} × {wide} here, and the adapter's lora_{part} is {shown}: {got} where {expected} belongs"]


def _features(module: nn.Module) -> tuple[int, int]:
    """(in, out) of a linear layer, quantized or not."""
    if hasattr(module, "in_features"):
        return module.in_features, module.out_features
    return tuple(module.weight.shape)


def _prefix_misfits(model: nn.Module, shapes: Shapes) -> list[str]:
    return []
