"""The adapter's A and B at a few steps of a run, so that the growth of their spectra can be shown afterwards.

One snapshot an evaluation, at most MAX_SNAPSHOTS in a run: where there would be more, those between are thinned out evenly. Tensors are
fp16, which keeps 11 bits: rounding adds about 0.0003 of the norm, under every singular value worth looking at. Only for LoRA's kin.
"""

from __future__ import annotations

import shutil
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from studio.core.files import write_json
from studio.core.paths import RunPaths
from studio.core.spec import LoraSpec, RunSpec
from studio.train.checkpoint import from_saving_error

MAX_SNAPSHOTS = 12


def save_snapshot(model: Any, paths: RunPaths, step: int, spec: RunSpec) -> None:
    """Write snapshots/step-N/ in PEFT's format. Raises DiskFull or SetupError."""
    if not isinstance(spec.method, LoraSpec):
        return
    from peft import get_peft_model_state_dict

    state = get_peft_model_state_dict(model, save_embedding_layers=False)
    tensors = {
        name: tensor.detach().to("cpu", torch.float16).contiguous()
        for name, tensor in state.items()
        if ".lora_A." in name or ".lora_B." in name
    }
    folder = paths.snapshots / f"step-{step:06d}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    except (OSError, SafetensorError) as error:
        raise from_saving_error(error, "saving a snapshot of the adapter") from error
    write_json(folder / "adapter_config.json", _plain(model.peft_config["default"].to_dict()))
    thin_out(paths)


def thin_out(paths: RunPaths) -> None:
    """Remove the snapshot whose neighbours are closest until MAX_SNAPSHOTS are left; the first and the newest stay."""
    steps = sorted(int(path.name[5:]) for path in paths.snapshots.glob("step-*") if path.name[5:].isdigit())
    while len(steps) > MAX_SNAPSHOTS:
        closest = min(range(1, len(steps) - 1), key=lambda i: steps[i + 1] - steps[i - 1])
        shutil.rmtree(paths.snapshots / f"step-{steps.pop(closest):06d}", ignore_errors=True)


def _plain(value: Any) -> Any:
    """JSON of a PEFT config, whose sets and enums json does not know."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (set, list, tuple)):
        return [_plain(item) for item in (sorted(value) if isinstance(value, set) else value)]
    return value if value is None or isinstance(value, (bool, int, float, str)) else getattr(value, "value", str(value))
