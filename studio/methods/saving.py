"""Writing an adapter folder that plain PEFT loads on the original base: safetensors only, no path of this machine inside.

PEFT writes the folder; then adapter_config.json is corrected: the base's public id in place of a local path, and whatever a family
changes. peft's model card (README.md) is left out, for it names the local path of the base too.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from studio.core.catalog import find_model
from studio.core.errors import MethodError, from_os_error
from studio.core.files import read_json, write_json
from studio.core.spec import ModelSpec, RunSpec

if TYPE_CHECKING:
    import torch
    from peft import PeftModel

CONFIG_NAME = "adapter_config.json"
WEIGHTS_NAME = "adapter_model.safetensors"

Convert = Callable[[dict[str, "torch.Tensor"]], dict[str, "torch.Tensor"]]


def write_adapter(
    model: PeftModel, folder: Path, spec: RunSpec, changes: dict[str, Any] | None = None, convert: Convert | None = None
) -> None:
    """Write the 'default' adapter of `model`. `changes` go into its config, `convert` over its tensors. Raises StudioError."""
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        model.save_pretrained(str(folder), selected_adapters=["default"], safe_serialization=True, save_embedding_layers=False)
        (folder / "README.md").unlink(missing_ok=True)
        if convert is not None:
            _convert_weights(folder / WEIGHTS_NAME, convert)
    except OSError as error:
        raise from_os_error(error, "saving the adapter") from error
    config = read_json(folder / CONFIG_NAME)
    if config is None:
        raise MethodError(f"The adapter's {CONFIG_NAME} was not written.", "Save it again.")
    write_json(folder / CONFIG_NAME, {**config, **(changes or {}), "base_model_name_or_path": public_base(spec.model)})


def public_base(model: ModelSpec) -> str:
    """The name under which others find this base: the catalog's hub id, else the id as given."""
    entry = find_model(model.id)
    return entry.hub_id if entry else model.id


def _convert_weights(path: Path, convert: Convert) -> None:
    from safetensors.torch import load_file, save_file

    tensors = {name: tensor.contiguous() for name, tensor in convert(load_file(path)).items()}
    partial = path.with_suffix(".part")
    save_file(tensors, partial, metadata={"format": "pt"})
    partial.replace(path)
