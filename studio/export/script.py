"""A folder that reproduces a run without the studio: standalone.py as train.py, beside its rows as tokens, its settings and its start.

A run that was extended had two schedules one after the other; the script has the last one. fp16 training (a gradient scaler) is not
covered and refused.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from studio.core.errors import RunError
from studio.core.files import read_json, write_atomic, write_json
from studio.core.spec import LoraSpec, RunSpec
from studio.export.card import model_card
from studio.export.source import ExportSource, new_folder

FROM_DATA = ("eva",)
"""Initialisations computed from the training data."""


def write_script(source: ExportSource, target: Path) -> Path:
    """Raises RunError, DataError where the run's data are gone or have changed, DiskFull."""
    if source.environment.get("compute_dtype") == "float16":
        raise RunError("The script does not cover fp16 training.", "Train in bf16 or fp32 to have a script that reproduces the run.")
    from studio.data.load import load_data
    from studio.models.load import load_tokenizer
    from studio.train.run import encode_data

    spec = source.spec
    tokenizer = load_tokenizer(spec.model, source.home)
    data = load_data(spec.data, source.home)
    known = source.environment.get("data_fingerprint")
    if known and known != data.fingerprint:
        raise RunError("The run's data have changed since it was trained, so it cannot be reproduced.", "Put the original data back.")
    rows, held_out = encode_data(data, tokenizer, spec)
    with new_folder(target) as part:
        shutil.copyfile(Path(__file__).with_name("standalone.py"), part / "train.py")
        write_json(part / "run.json", run_settings(source, tokenizer, len(rows.rows)))
        write_json(part / "adapter_config.json", start_config(source))
        for name, encoded in (("train", rows), ("held_out", held_out)):
            write_atomic(part / f"{name}.jsonl", "".join(_row_line(row) for row in encoded.rows))
        versions = source.environment.get("versions") or {}
        write_atomic(part / "versions.txt", "".join(f"{n}=={v}\n" for n, v in versions.items() if n != "peft-studio"))
        write_json(part / "spec.json", spec.to_json())
        write_atomic(part / "README.md", _readme(source))
        if spec.method.family == "adapter":
            import studio.methods.bottleneck_tuner as tuner

            shutil.copyfile(tuner.__file__, part / "bottleneck_tuner.py")
        if needs_start(spec):
            _save_start(source, rows, held_out, part / "start.safetensors")
    return target


def run_settings(source: ExportSource, tokenizer: Any, rows: int) -> dict[str, Any]:
    """run.json: every number the script needs."""
    from studio.models.load import resolve_model
    from studio.train.run import EVALUATIONS, SCHEDULES, count_steps

    spec, training, environment = source.spec, source.spec.training, source.environment
    steps = count_steps(rows, spec)
    done = source.result.steps if source.result and source.result.steps else steps
    ratio = spec.method.lora_plus_ratio if isinstance(spec.method, LoraSpec) else 1.0
    return {
        "family": spec.method.family, "model": str(resolve_model(spec.model.id, source.home)), "revision": spec.model.revision,
        "quantization": spec.quantization, "double_quantization": spec.model.double_quantization, "attention": spec.model.attention,
        "trust_remote_code": spec.model.trust_remote_code, "device": str(environment.get("device", "cpu")),
        "dtype": str(environment.get("dtype", "float32")), "compute_dtype": str(environment.get("compute_dtype", "float32")),
        "seed": training.seed, "steps": steps, "last_step": min(done, steps), "warmup_steps": round(training.warmup * steps),
        "schedule": SCHEDULES[training.schedule], "learning_rate": spec.learning_rate, "lora_plus_ratio": ratio,
        "optimizer": training.optimizer, "weight_decay": training.weight_decay, "max_grad_norm": training.max_grad_norm,
        "batch_size": training.batch_size, "accumulation": training.accumulation, "padding": training.padding,
        "fixed_length": training.max_length if training.padding == "fixed" else 0,
        "eval_every": training.eval_every or -(-steps // EVALUATIONS), "gradient_checkpointing": training.gradient_checkpointing,
        "pad_id": next(token for token in (tokenizer.pad_token_id, tokenizer.eos_token_id, 0) if token is not None),
    }  # fmt: skip


def start_config(source: ExportSource) -> dict[str, Any]:
    """PEFT's configuration as training began with it: the saved one, but for initialisations that saving translates."""
    config = read_json(source.adapter / "adapter_config.json") or {}
    method = source.spec.method
    if isinstance(method, LoraSpec) and method.init not in ("default", *FROM_DATA):
        config |= {
            "init_lora_weights": method.init, "r": method.rank, "lora_alpha": method.alpha, "rank_pattern": dict(method.rank_pattern),
        }  # fmt: skip
    return config


def needs_start(spec: RunSpec) -> bool:
    """Whether the adapter's start cannot be had from the seed alone."""
    method = spec.method
    return (isinstance(method, LoraSpec) and method.init in FROM_DATA) or (method.family == "prefix" and method.init == "text")


def _save_start(source: ExportSource, rows: Any, held_out: Any, path: Path) -> None:
    """Attach the method once more, as the training did, and keep what it began with."""
    from safetensors.torch import save_file
    from transformers import set_seed

    from studio.models.load import load_base
    from studio.train.run import attach_method

    set_seed(source.spec.training.seed)
    model, _ = attach_method(load_base(source.spec, source.home), rows, held_out, source.spec)
    save_file({name: p.detach().cpu().contiguous() for name, p in model.named_parameters() if p.requires_grad}, path)


def _row_line(row: Any) -> str:
    return '{"ids": ' + str(list(row.ids)) + ', "labels": ' + str(list(row.labels)) + "}\n"


def _readme(source: ExportSource) -> str:
    return (
        f"# {source.name}, to train again\n\n"
        "Without PEFT Studio:\n\n```\npip install -r versions.txt\npython train.py\n```\n\n"
        "With it:\n\n```\npython -m studio train spec.json\n```\n\n"
        "`train.py` is one readable file; its first lines say what each file here is for.\n\n"
        "Below is the card of the run.\n\n---\n\n" + model_card(source).split("---\n", 2)[2].lstrip()
    )
