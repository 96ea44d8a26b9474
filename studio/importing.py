"""A LLaMA-Factory or Axolotl YAML as a spec of the studio, with a list of what could not be carried over.

Reads the settings the two tools share with the studio; whatever has no counterpart here, or is of a kind the studio does not do (full
fine-tuning, preference training, several GPUs), is listed and left out, so nothing is lost without a word. Sources: the argument names
of LLaMA-Factory 0.9 (hparams) and of Axolotl 0.12 (config schema). The file is data: YAML is read with the safe loader.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from studio.core.errors import SpecError
from studio.core.files import read_json
from studio.core.spec import RunSpec

MAX_BYTES = 1_000_000
YAML_SUFFIXES = (".yaml", ".yml")
ALL_LINEAR = ("all", "all-linear")
SCHEDULES = {"linear": "linear", "cosine": "cosine", "constant": "constant", "constant_with_warmup": "constant"}
OPTIMIZERS = {
    "adamw_torch": "adamw", "adamw_torch_fused": "adamw", "adamw_hf": "adamw", "adamw_8bit": "adamw_8bit", "adamw_bnb_8bit": "adamw_8bit",
    "paged_adamw_8bit": "paged_adamw_8bit",
}  # fmt: skip
FORMATS = {"alpaca": "alpaca", "chat_template": "messages", "sharegpt": "messages", "completion": "text"}

# Settings that only say where files go or how a tool prints: not worth a line in the list.
SILENT = {"output_dir", "overwrite_output_dir", "overwrite_cache", "plot_loss", "do_train", "template", "cutoff", "stage", "dataset_dir",
          "preprocessing_num_workers", "strict", "special_tokens", "ddp_timeout", "wandb_project", "wandb_entity", "wandb_name",
          "dataset_prepared_path", "model_type", "tokenizer_type", "include_num_input_tokens_seen", "per_device_eval_batch_size",
          "eval_batch_size", "eval_strategy", "tf32", "group_by_length", "train_on_inputs"}  # fmt: skip


@dataclass
class Imported:
    """`data` parses as a RunSpec; `left_out` has a sentence for each setting that was not carried over; `tool` says whose file it was."""

    tool: str
    data: dict[str, Any]
    left_out: list[str] = field(default_factory=list)


def import_config(path: Path) -> Imported:
    """Read a file of either tool. Raises SpecError: no such file, no YAML, neither tool's, or values the studio refuses."""
    settings = _read(path)
    if "model_name_or_path" in settings:
        tool, convert = "LLaMA-Factory", _from_llama_factory
    elif "base_model" in settings:
        tool, convert = "Axolotl", _from_axolotl
    else:
        raise SpecError([f"{path.name} is neither LLaMA-Factory's (model_name_or_path) nor Axolotl's (base_model)."])
    reader = _Reader(settings)
    convert(reader)
    imported = Imported(tool, RunSpec.parse(reader.data).to_json(), reader.left_out)
    for name, value in settings.items():
        if name not in reader.used and name not in SILENT and value not in (None, False, "", [], {}):
            imported.left_out.append(f"{name}: {_short(value)} has no counterpart in the studio.")
    return imported


def read_settings(path: Path) -> Imported:
    """A spec of the studio's own (.json), or a YAML of another tool. Raises SpecError."""
    if path.suffix.lower() in YAML_SUFFIXES:
        return import_config(path)
    data = read_json(path)
    if data is None:
        raise SpecError([f"{path.name} is no JSON object, so no spec of the studio."])
    return Imported("PEFT Studio", RunSpec.parse(data).to_json())


def _read(path: Path) -> dict[str, Any]:
    import yaml

    if not path.is_file():
        raise SpecError([f"There is no file {path}."])
    try:
        if path.stat().st_size > MAX_BYTES:
            raise SpecError([f"{path.name} is too large to be a training configuration."])
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, yaml.reader.ReaderError) as error:
        raise SpecError([f"{path.name} is not UTF-8 text, so it is no YAML."]) from error
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise SpecError([f"{path.name} cannot be read as YAML: {str(error).splitlines()[0]}."]) from error
    if not isinstance(settings, dict):
        raise SpecError([f"{path.name} holds no settings."])
    return {str(name): value for name, value in settings.items()}


class _Reader:
    """Takes settings out of a file one by one; what was never taken is left over."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings = settings
        self.used: set[str] = set()
        self.left_out: list[str] = []
        self.data: dict[str, Any] = {"model": {}, "data": {}, "method": {}, "training": {}}

    def take(self, name: str, default: Any = None) -> Any:
        self.used.add(name)
        value = self.settings.get(name)
        return default if value is None else value

    def put(self, part: str, target: str, name: str, read: Callable[[Any], Any] = lambda value: value) -> None:
        """Copy one setting, converted, where the file has it."""
        value = self.take(name)
        if value is None:
            return
        try:
            self.data[part][target] = read(value)
        except (TypeError, ValueError, KeyError):
            self.left_out.append(f"{name}: {_short(value)} is not known to the studio; {part}.{target} stays at its default.")


def _from_llama_factory(reader: _Reader) -> None:
    if reader.take("stage", "sft") != "sft":
        reader.left_out.append(f"stage: {reader.take('stage')} is not supervised fine-tuning, which is what the studio does.")
    kind = str(reader.take("finetuning_type", "lora"))
    if kind != "lora":
        reader.left_out.append(f"finetuning_type: {kind} becomes LoRA; the studio does not train all weights.")
    reader.put("model", "id", "model_name_or_path", str)
    reader.put("model", "revision", "model_revision", str)
    bits = reader.take("quantization_bit")
    _common(reader, bits=int(bits) if bits in (4, 8, "4", "8") else 0, targets="lora_target")
    reader.put("method", "rslora", "use_rslora", bool)
    reader.put("method", "dora", "use_dora", bool)
    reader.put("method", "lora_plus_ratio", "loraplus_lr_ratio", float)
    reader.put("training", "max_length", "cutoff_len", int)
    reader.put("training", "batch_size", "per_device_train_batch_size", int)
    reader.put("training", "optimizer", "optim", OPTIMIZERS.__getitem__)
    reader.put("training", "epochs", "num_train_epochs", float)
    reader.put("data", "max_rows", "max_samples", int)
    reader.put("data", "held_out", "val_size", _share)
    names = [item.strip() for item in str(reader.take("dataset", "")).split(",") if item.strip()]
    if names:
        reader.data["data"]["source"] = names[0]
        reader.left_out.append(f"dataset: {names[0]} is a name of LLaMA-Factory's dataset_info.json; give its path or hub id instead.")
    reader.left_out += [f"dataset: {name} is a further dataset; a run of the studio has one." for name in names[1:]]
    if reader.take("train_on_prompt"):
        reader.data["training"]["loss_on"] = "all"


def _from_axolotl(reader: _Reader) -> None:
    reader.put("model", "id", "base_model", str)
    reader.put("model", "revision", "revision_of_model", str)
    kind = reader.take("adapter")
    if kind not in ("lora", "qlora"):
        reader.left_out.append(f"adapter: {kind or 'none, which trains all weights,'} becomes LoRA.")
    bits = 4 if reader.take("load_in_4bit") or kind == "qlora" else 8 if reader.take("load_in_8bit") else 0
    linear = reader.take("lora_target_linear")
    if linear and not reader.settings.get("lora_target_modules"):
        reader.data["method"]["targets"] = "all-linear"
    _common(reader, bits=bits, targets="lora_target_modules")
    reader.put("method", "rslora", "peft_use_rslora", bool)
    reader.put("method", "dora", "peft_use_dora", bool)
    reader.put("method", "lora_plus_ratio", "loraplus_lr_ratio", float)
    reader.put("training", "max_length", "sequence_len", int)
    reader.put("training", "batch_size", "micro_batch_size", int)
    reader.put("training", "optimizer", "optimizer", OPTIMIZERS.__getitem__)
    reader.put("training", "epochs", "num_epochs", float)
    reader.put("data", "held_out", "val_set_size", _share)
    datasets = reader.take("datasets", [])
    datasets = [item for item in datasets if isinstance(item, dict)] if isinstance(datasets, list) else []
    if datasets:
        first = datasets[0]
        reader.data["data"]["source"] = str(first.get("path", "starter"))
        kind = str(first.get("type", ""))
        if kind in FORMATS:
            reader.data["data"]["format"] = FORMATS[kind]
        elif kind:
            reader.left_out.append(f"datasets: the type {kind} is not known; the format is detected.")
    reader.left_out += [f"datasets: {_short(item.get('path'))} is a further dataset; a run of the studio has one." for item in datasets[1:]]
    if reader.settings.get("train_on_inputs"):
        reader.data["training"]["loss_on"] = "all"


def _common(reader: _Reader, bits: int, targets: str) -> None:
    """What both tools call by the same name."""
    method = reader.data["method"]
    method["family"] = "qlora" if bits == 4 else "lora"
    if bits == 8:
        reader.data["model"]["quantization"] = "int8"
    reader.put("method", "rank", "lora_rank" if "lora_rank" in reader.settings else "lora_r", int)
    reader.put("method", "alpha", "lora_alpha", float)
    reader.put("method", "dropout", "lora_dropout", float)
    reader.put("method", "targets", targets, _targets)
    reader.put("model", "trust_remote_code", "trust_remote_code", bool)
    for target, name, read in (
        ("learning_rate", "learning_rate", float), ("accumulation", "gradient_accumulation_steps", int), ("seed", "seed", int),
        ("max_steps", "max_steps", lambda value: max(0, int(value))), ("weight_decay", "weight_decay", float),
        ("max_grad_norm", "max_grad_norm", float), ("log_every", "logging_steps", lambda value: max(1, int(value))),
        ("warmup", "warmup_ratio", float), ("gradient_checkpointing", "gradient_checkpointing", bool),
        ("eval_every", "eval_steps", _steps), ("save_every", "save_steps", _steps), ("keep_checkpoints", "save_total_limit", int),
    ):  # fmt: skip
        reader.put("training", target, name, read)
    reader.put(
        "training", "schedule", "lr_scheduler_type" if "lr_scheduler_type" in reader.settings else "lr_scheduler", SCHEDULES.__getitem__
    )
    for name, precision in (("bf16", "bf16"), ("fp16", "fp16")):
        if reader.take(name) in (True, "true"):
            reader.data["training"]["precision"] = precision


def _targets(value: Any) -> Any:
    names = [str(item).strip() for item in (value if isinstance(value, list) else str(value).split(",")) if str(item).strip()]
    return "all-linear" if names and all(name in ALL_LINEAR for name in names) else names


def _share(value: Any) -> float:
    share = float(value)
    if not 0 < share < 0.9:
        raise ValueError(share)
    return share


def _steps(value: Any) -> int:
    steps = float(value)
    if steps < 1:  # a share of the run
        raise ValueError(steps)
    return int(steps)


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:59] + "…"
