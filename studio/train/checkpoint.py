"""Checkpoints: everything a run needs to go on as if it had never stopped, without a pickle.

CHECKPOINTS/step-000120/
├── trainable.safetensors    every trained parameter by name, fp32
├── optimizer.safetensors    the optimizer's tensors
├── state.json               their structure, scheduler, scaler, random states, origin, counters
├── trainer_state.json       transformers' own counters (plain JSON)
└── adapter/                 the adapter in PEFT's format, usable by itself

A folder is written beside its place and renamed, so it is whole or absent; the newest N stay. Loading refuses a folder from another base,
method or dataset, and any folder that holds a pickle: opening one runs whatever code a stranger put into it.
"""

from __future__ import annotations

import random
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from studio.core.errors import DiskFull, RunError, from_os_error
from studio.core.files import find_pickles, read_json, write_json

NAME = re.compile(r"step-(\d{6,})")


@dataclass(frozen=True)
class Origin:
    """What a checkpoint belongs to; resuming under another origin is refused."""

    model: str
    method: str
    data: str


def checkpoint_step(folder: Path) -> int | None:
    """The step of a whole checkpoint folder; None for anything else."""
    match = NAME.fullmatch(folder.name)
    return int(match.group(1)) if match and (folder / "state.json").is_file() else None


def list_checkpoints(folder: Path) -> list[Path]:
    """Whole checkpoints, oldest first."""
    found = [(step, path) for path in folder.glob("step-*") if (step := checkpoint_step(path)) is not None]
    return [path for _, path in sorted(found)]


def save_checkpoint(engine: Any, folder: Path, extra: Mapping[str, Any]) -> Path:
    """Write the engine's state at its current step below `folder`. Raises DiskFull or SetupError; an older one then stays as it was."""
    place = folder / f"step-{engine.state.global_step:06d}"
    part, former = folder / f".{place.name}.part", folder / f".{place.name}.former"
    try:
        for left in (part, former):
            shutil.rmtree(left, ignore_errors=True)
        part.mkdir(parents=True)
        _write(engine, part, extra)
        if place.exists():  # of before a resume; moved aside, for a kill while it is being deleted would leave half of one
            place.rename(former)
        part.rename(place)
        shutil.rmtree(former, ignore_errors=True)
    except (OSError, SafetensorError) as error:
        raise from_saving_error(error, "saving a checkpoint") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return place


def _write(engine: Any, part: Path, extra: Mapping[str, Any]) -> None:
    save_file(_trainable(engine.model), part / "trainable.safetensors")
    tensors: dict[str, torch.Tensor] = {}
    scaler = getattr(engine.accelerator, "scaler", None)
    state = {
        "optimizer": pack(engine.optimizer.state_dict(), tensors),
        "scheduler": pack(engine.lr_scheduler.state_dict(), {}),
        "scaler": pack(scaler.state_dict(), {}) if scaler else None,
        "random": random_state(),
        "origin": asdict(engine.origin),
        "extra": dict(extra),
    }
    save_file(tensors, part / "optimizer.safetensors")
    engine.save_adapter(part / "adapter")
    engine.state.save_to_json(str(part / "trainer_state.json"))
    write_json(part / "state.json", state)


def _trainable(model: Any) -> dict[str, torch.Tensor]:
    return {name: p.detach().to("cpu", copy=True).contiguous() for name, p in model.named_parameters() if p.requires_grad}


def keep_newest(folder: Path, count: int, protected: set[int]) -> None:
    """Delete all but the newest `count` checkpoints and those of the `protected` steps."""
    for path in list_checkpoints(folder)[:-count]:
        if checkpoint_step(path) not in protected:
            shutil.rmtree(path, ignore_errors=True)


def check_checkpoint(folder: Path, origin: Origin) -> dict[str, Any]:
    """state.json of a checkpoint that may be resumed from. Raises RunError for a pickle, a torn folder, another base, method or data."""
    pickles = find_pickles(folder)
    if pickles:
        raise RunError(
            f"The checkpoint {folder.name} holds pickled files ({', '.join(pickles[:3])}), which can run code when they are opened.",
            "Resume only from checkpoints that this studio wrote: they hold safetensors and JSON.",
        )
    state = read_json(folder / "state.json")
    if state is None or not (folder / "trainable.safetensors").is_file() or not (folder / "trainer_state.json").is_file():
        raise RunError(f"{folder.name} is not a whole checkpoint.", "Choose another, or start the run again.")
    differing = [part for part, value in asdict(origin).items() if (state.get("origin") or {}).get(part) != value]
    if differing:
        raise RunError(
            f"The checkpoint {folder.name} was made with another {' and '.join(differing)} than this run has.",
            "Resume the run with the settings it was started with, or start a new run.",
        )
    return state


def load_checkpoint(engine: Any, folder: Path) -> dict[str, Any]:
    """Put weights, optimizer, scheduler and scaler back; gives the extra that was saved along. Raises RunError."""
    state = check_checkpoint(folder, engine.origin)
    try:
        load_trainable(engine.model, folder)
        tensors = load_file(folder / "optimizer.safetensors")
        engine.optimizer.load_state_dict(unpack(state["optimizer"], tensors))
        engine.lr_scheduler.load_state_dict(unpack(state["scheduler"], {}))
        scaler = getattr(engine.accelerator, "scaler", None)
        if scaler and state["scaler"]:
            scaler.load_state_dict(unpack(state["scaler"], {}))
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise RunError(f"The checkpoint {folder.name} cannot be read: {error}.", "Choose an older one.") from error
    return dict(state["extra"])


def load_trainable(model: Any, folder: Path) -> None:
    """Copy the saved parameters into the model. Raises KeyError or ValueError where names or shapes differ."""
    saved = load_file(folder / "trainable.safetensors")
    wanted = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if saved.keys() != wanted.keys():
        raise KeyError(f"other parameters, for example {min(saved.keys() ^ wanted.keys())}")
    with torch.no_grad():
        for name, parameter in wanted.items():
            if saved[name].shape != parameter.shape:
                raise ValueError(f"{name} has another shape")
            parameter.copy_(saved[name])


def random_state() -> dict[str, Any]:
    """The states of Python's, NumPy's and torch's generators, as plain JSON."""
    name, keys, position, has_gauss, cached = np.random.get_state()
    version, internal, gauss = random.getstate()
    state: dict[str, Any] = {
        "python": [version, list(internal), gauss],
        "numpy": [name, keys.tolist(), position, has_gauss, cached],
        "torch": torch.get_rng_state().numpy().tobytes().hex(),
    }
    if torch.cuda.is_available():
        state["cuda"] = [one.numpy().tobytes().hex() for one in torch.cuda.get_rng_state_all()]
    return state


def load_random_state(folder: Path) -> None:
    """Set all generators to where the checkpoint left them."""
    state = (read_json(folder / "state.json") or {})["random"]
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), position, has_gauss, cached))
    torch.set_rng_state(_bytes_tensor(state["torch"]))
    if torch.cuda.is_available() and "cuda" in state:
        torch.cuda.set_rng_state_all([_bytes_tensor(one) for one in state["cuda"]])


def _bytes_tensor(text: str) -> torch.Tensor:
    return torch.frombuffer(bytearray.fromhex(text), dtype=torch.uint8).clone()


def pack(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    """`value` as JSON that keeps dict keys' types and tuples; tensors move into `tensors` and leave their key behind."""
    if isinstance(value, torch.Tensor):
        key = f"t{len(tensors):06d}"
        tensors[key] = value.detach().to("cpu", copy=True).contiguous()
        return {"tensor": key}
    if isinstance(value, Mapping):
        return {"dict": [[key, pack(item, tensors)] for key, item in value.items()]}
    if isinstance(value, (list, tuple)):
        return {type(value).__name__: [pack(item, tensors) for item in value]}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return None  # functions of a LambdaLR: rebuilt from the spec, not saved


def unpack(value: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    """What `pack` was given."""
    if not isinstance(value, dict):
        return value
    (kind, content), *_ = value.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {key: unpack(item, tensors) for key, item in content}
    items = [unpack(item, tensors) for item in content]
    return tuple(items) if kind == "tuple" else items


def from_saving_error(error: OSError | SafetensorError, doing: str) -> Exception:
    """safetensors reports a full disk as text."""
    if isinstance(error, OSError):
        return from_os_error(error, doing)
    text = str(error)
    if "No space left" in text or "os error 28" in text or "os error 122" in text:
        return DiskFull(f"The disk is full: {doing} failed.", "Free some space, or move the studio's home with --home.")
    return RunError(f"{doing[:1].upper()}{doing[1:]} failed: {text}.")
