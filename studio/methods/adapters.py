"""Saving, loading and switching adapters, with every check PEFT leaves out made before the base is touched.

Paths and names of one base differ between machines, so a differing name is a warning (`base_warning`); differing shapes are an error.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from studio.core.errors import MethodError
from studio.core.spec import RunSpec
from studio.methods.adapter_folder import FAMILIES, AdapterInfo, base_warning, describe_adapter
from studio.methods.base import get_method

if TYPE_CHECKING:
    from peft import PeftModel
    from torch import nn

__all__ = ["AdapterInfo", "base_warning", "check_fits", "describe_adapter", "load_adapter", "save_adapter", "switch_adapter"]


def save_adapter(model: PeftModel, folder: Path, spec: RunSpec) -> None:
    """Write the trained adapter so that plain PEFT loads it on the original base. Raises StudioError."""
    get_method(spec.method.family).save(model, Path(folder), spec)


def load_adapter(model: nn.Module, folder: Path, name: str) -> PeftModel:
    """`model` (a base or a PeftModel) with the adapter in `folder` loaded, frozen and active under `name`; its PeftModel is returned.

    Raises MethodError: no adapter, pickled, corrupt, trained on a base of other shapes, a name taken, or another family than those
    already on the model (PEFT holds one family per model).
    """
    from peft import PeftModel
    from safetensors import SafetensorError

    import studio.methods.bottleneck_tuner  # noqa: F401  PEFT knows the type only after this

    folder = Path(folder)
    info = describe_adapter(folder)
    _check_name(name)
    check_fits(model, info)
    try:
        if isinstance(model, PeftModel):
            _check_beside(model, info, name)
            model.load_adapter(str(folder), name)
        else:
            model = PeftModel.from_pretrained(model, str(folder), adapter_name=name)
    except (TypeError, ValueError, KeyError, AttributeError, SafetensorError) as error:
        raise MethodError(f"PEFT cannot load the adapter in {folder.name}: {error}", "Export it again, and load the base anew.") from error
    model.set_adapter(name)
    model.requires_grad_(False)
    return model.eval()


def switch_adapter(model: PeftModel, name: str) -> None:
    """Make a loaded adapter the active one, frozen. Raises MethodError for a name that is not loaded."""
    if name not in model.peft_config:
        raise MethodError(f"No adapter {name!r} is loaded.", f"Loaded are {', '.join(model.peft_config)}.")
    model.set_adapter(name, inference_mode=True)


def _check_name(name: str) -> None:
    if not name or "." in name or name == "__base__":
        raise MethodError(f"{name!r} cannot name an adapter.", "Use letters, digits and dashes.")


def _check_beside(model: PeftModel, info: AdapterInfo, name: str) -> None:
    if name in model.peft_config:
        raise MethodError(f"An adapter named {name!r} is already loaded.", "Choose another name, or unload it first.")
    there = {FAMILIES.get(str(config.peft_type.value), "") for config in model.peft_config.values()}
    if there != {info.family}:
        raise MethodError(
            f"A model that holds {', '.join(sorted(there))} cannot take {info.family} beside it.",
            "Compare adapters of one family at a time, or load each family on a base of its own.",
        )


def check_fits(model: nn.Module, info: AdapterInfo) -> None:
    """Raise MethodError, naming both shapes, where the adapter's tensors do not fit `model`'s modules."""
    from studio.methods.fit import misfits

    problems = misfits(model, info)
    if problems:
        where = f" It was trained on {info.base}." if info.base else ""
        raise MethodError(f"The adapter does not fit this base: {problems[0]}.{where}", "Load it on the base it was trained on.")
