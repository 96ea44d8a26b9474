"""One training run from spec to result, top to bottom. The engine is transformers' Trainer (engine.py); the run's files are its truth.

Knows nothing of who started it or who watches. Expected failures are StudioErrors; `__main__` turns every end into result.json.
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments, set_seed

from studio.core.errors import DataError, OutOfMemory, SetupError
from studio.core.files import folder_bytes, read_json, read_lines, write_atomic, write_json
from studio.core.paths import RunPaths, StudioHome
from studio.core.records import RunResult, RunStatus, StepRecord, losses_around, whole
from studio.core.spec import RunSpec
from studio.data.counts import count_rows, describe_counts
from studio.data.format import Encoded, encode_examples
from studio.data.load import LoadedData, load_data
from studio.methods import get_method
from studio.models.load import LoadedBase, load_base, load_tokenizer
from studio.train.batches import Collator, order_evaluation
from studio.train.callback import ProgressFile, Recorder, say
from studio.train.checkpoint import Origin, check_checkpoint, checkpoint_step, load_trainable
from studio.train.cpu_attention import use_cpu_attention
from studio.train.engine import Engine, Material
from studio.train.environment import describe_environment
from studio.train.fast_lora import fuse_lora
from studio.train.process import trained_on_cpu

EVALUATIONS = 5
SCHEDULES = {"linear": "linear", "cosine": "cosine", "constant": "constant_with_warmup"}
EVA_BATCHES = 16


def train(spec: RunSpec, paths: RunPaths, home: StudioHome, resume: Path | None = None) -> RunResult:
    """Train what `spec` asks for and leave adapter, curve and samples in the run's folder. `resume`: a checkpoint of this run.

    Raises StudioError: data that leave nothing to learn, a model that cannot be loaded, a full disk, a diverging loss, no memory.
    """
    check_reporter(spec.training.report_to)
    progress = ProgressFile(paths)
    with trained_on_cpu():
        set_seed(spec.training.seed)
        progress.show("reading the data")
        tokenizer = load_tokenizer(spec.model, home)
        data = load_data(spec.data, home, progress.show)
        train_rows, held_out = encode_data(data, tokenizer, spec)
        origin = Origin(spec.model.id, json.dumps(spec.to_json()["method"], sort_keys=True), data.fingerprint)
        if resume is not None:
            check_checkpoint(resume, origin)
        progress.show("loading the model")
        base = load_base(spec, home)
        model, material = attach_method(base, train_rows, held_out, spec)
        progress.place.check()
        facts = {"data_fingerprint": data.fingerprint, "data_rows": count_rows(data.report, train_rows, held_out)}
        write_json(paths.environment, describe_environment(str(base.device), base.dtype, material.compute) | facts)
        engine = build_engine(model, spec, paths, material, origin, resume)
        recorder = Recorder(engine, spec, paths, tokenizer, progress)
        engine.add_callback(recorder)
        continue_curve(paths, recorder, resume)
        run_engine(engine, resume)
        return finish(engine, recorder, spec, paths)


def check_reporter(name: str) -> None:
    """Raises SetupError where the tracker asked for is not installed."""
    needed = {"tensorboard": "tensorboard", "trackio": "trackio"}.get(name)
    if needed and importlib.util.find_spec(needed) is None:
        raise SetupError(f"Reporting to {name} needs the package {needed}.", f"pip install {needed}, or set training.report_to to none.")


def encode_data(data: LoadedData, tokenizer: Any, spec: RunSpec) -> tuple[Encoded, Encoded]:
    """Training and held-out rows as tokens. Raises DataError where nothing is left of either, before a model is loaded."""
    train_rows = encode_examples(data.train, tokenizer, spec.training)
    held_out = encode_examples(data.held_out, tokenizer, spec.training)
    say(describe_counts(count_rows(data.report, train_rows, held_out)))
    for name, encoded in (("to train on", train_rows), ("to hold out", held_out)):
        if not encoded.rows:
            longest = max(encoded.lengths, default=0)
            raise DataError(
                f"No row {name} is left: all {encoded.dropped} were dropped (the longest has {longest} tokens, the limit is "
                f"{spec.training.max_length}).",
                "Raise training.max_length, set training.too_long to cut, or choose other data.",
            )
    return train_rows, held_out


def attach_method(base: LoadedBase, train_rows: Encoded, held_out: Encoded, spec: RunSpec) -> tuple[Any, Material]:
    """The model with its adapter, trained weights in fp32, and all that the engine needs beside it."""
    method = get_method(spec.method.family)
    device = torch.device(base.device).type
    tokenizer = base.tokenizer
    pad_id = next(token for token in (tokenizer.pad_token_id, tokenizer.eos_token_id, 0) if token is not None)

    def first_batches() -> Iterator[dict[str, Any]]:
        collate = Collator(pad_id)
        for chosen in order_evaluation([1] * len(train_rows.rows), spec.training.batch_size)[:EVA_BATCHES]:
            rows = [train_rows.rows[i] for i in chosen]
            ids = collate(rows)["input_ids"]
            mask = torch.tensor([[position < len(row.ids) for position in range(ids.shape[1])] for row in rows], dtype=torch.long)
            yield {"input_ids": ids.to(base.device), "attention_mask": mask.to(base.device)}

    model = method.attach(base.model, spec, tokenizer, first_batches)
    if device == "cpu":
        use_cpu_attention(base.model)
        fuse_lora(model)
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.dtype != torch.float32:
            parameter.data = parameter.data.float()
    model.config.use_cache = False
    groups = [group for group in method.parameter_groups(model, spec) if group["params"]]
    return model, Material(train_rows.rows, held_out.rows, pad_id, device, choose_compute(spec, base.dtype, device), groups)


def choose_compute(spec: RunSpec, dtype: torch.dtype, device: str) -> torch.dtype:
    """What the forward pass computes in. auto follows the base's 16-bit type, and stays in fp32 over an fp32 base."""
    asked = spec.training.precision
    if asked == "auto":
        return dtype if dtype in (torch.bfloat16, torch.float16) else torch.float32
    if asked == "fp16" and device == "cpu":
        say("fp16 needs a GPU: computing in bf16")
        return torch.bfloat16
    return {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[asked]


def build_engine(model: Any, spec: RunSpec, paths: RunPaths, material: Material, origin: Origin, resume: Path | None) -> Engine:
    """The Trainer, its arguments taken from the spec."""
    training = spec.training
    steps = count_steps(len(material.train), spec)
    eval_every = training.eval_every or math.ceil(steps / EVALUATIONS)
    os.environ.setdefault("TENSORBOARD_LOGGING_DIR", str(paths.folder / "tensorboard"))
    args = TrainingArguments(
        output_dir=str(paths.checkpoints),
        use_cpu=material.device == "cpu",
        fp16=material.compute == torch.float16,
        seed=training.seed,
        max_steps=steps,
        per_device_train_batch_size=training.batch_size,
        gradient_accumulation_steps=training.accumulation,
        learning_rate=spec.learning_rate,
        lr_scheduler_type=SCHEDULES[training.schedule],
        warmup_steps=round(training.warmup * steps),
        max_grad_norm=training.max_grad_norm,
        activation_checkpointing=training.gradient_checkpointing,
        logging_steps=training.log_every,
        logging_nan_inf_filter=False,
        eval_strategy="steps",
        eval_steps=eval_every,
        eval_on_start=resume is None,
        save_strategy="steps",
        save_steps=training.save_every or eval_every,
        report_to=[training.report_to],
        run_name=paths.id,
        project="peft-studio",
        disable_tqdm=True,
        dataloader_pin_memory=False,
        remove_unused_columns=False,
    )
    engine = Engine(model, spec, material, args, origin)
    # It prints every log line as a Python dict; the recorder writes readable ones.
    from transformers.trainer_callback import PrinterCallback

    engine.remove_callback(PrinterCallback)
    return engine


def count_steps(rows: int, spec: RunSpec) -> int:
    """Optimizer steps of the whole run."""
    if spec.training.max_steps:
        return spec.training.max_steps
    per_epoch = math.ceil(math.ceil(rows / spec.training.batch_size) / spec.training.accumulation)
    return max(1, math.ceil(spec.training.epochs * per_epoch))


def continue_curve(paths: RunPaths, recorder: Recorder, resume: Path | None) -> None:
    """Begin the curve anew, or drop what it holds beyond the checkpoint, which is trained again, and remember what was measured."""
    last = -1 if resume is None else checkpoint_step(resume)
    if resume is not None:
        recorder.peak_memory_bytes = read_peak(paths)
    for path in (paths.metrics, paths.samples):
        if path.exists():
            kept = [line for line in read_lines(path)[0] if last is not None and whole(line.get("step")) <= last]
            # In one piece: killed at any moment, the run has the old curve or the new one.
            write_atomic(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in kept))
    for line in read_lines(paths.metrics)[0]:
        record = StepRecord.from_json(line)
        recorder.seconds_before = max(recorder.seconds_before, record.seconds)
        if record.eval_loss is not None:
            recorder.eval_losses[record.step] = record.eval_loss


def read_peak(paths: RunPaths) -> int:
    """Bytes that the run held at most before it goes on: of the result that the resume put aside, and of its curve as a whole."""
    result = (read_json(paths.resume) or {}).get("result")
    known = whole(result.get("peak_memory_bytes")) if isinstance(result, dict) else 0
    return max(known, *(whole(line.get("memory_bytes")) for line in read_lines(paths.metrics)[0]), 0)


def run_engine(engine: Engine, resume: Path | None) -> None:
    """Train. A device that has no room left is a named error with what to change."""
    try:
        engine.train(resume_from_checkpoint=str(resume) if resume else None)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemory(
            "There was not enough memory to train with these settings.",
            "Halve training.batch_size (double training.accumulation to keep the effective batch), lower training.max_length, turn on "
            "training.gradient_checkpointing, or choose QLoRA.",
        ) from error


def is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    text = str(error).lower()
    return "out of memory" in text or "can't allocate memory" in text or "not enough memory" in text


def finish(engine: Engine, recorder: Recorder, spec: RunSpec, paths: RunPaths) -> RunResult:
    """Save the adapter, the best one where that was asked for, and sum up."""
    recorder.progress.show("saving", engine.state.global_step, engine.state.max_steps)
    best = engine.state.best_global_step
    before, after = losses_around(sorted(recorder.eval_losses.items()))
    if spec.training.keep_best and best and best != engine.state.global_step and not recorder.stopped:
        folder = paths.checkpoints / f"step-{best:06d}"
        load_trainable(engine.model, folder)
        after = engine.state.best_metric
        say(f"kept the best adapter, of step {best}")
    engine.save_adapter(paths.adapter)
    trained = sum(p.numel() for p in engine.model.parameters() if p.requires_grad)
    total = engine.model.num_parameters()
    return RunResult(
        status=RunStatus.STOPPED if recorder.stopped else RunStatus.FINISHED,
        steps=engine.state.global_step,
        eval_loss_before=before,
        eval_loss_after=after,
        train_loss=recorder.last_loss,
        tokens=engine.tokens,
        samples=engine.samples,
        seconds=round(recorder.seconds, 3),
        trainable_parameters=trained,
        total_parameters=total,
        peak_memory_bytes=recorder.peak_memory_bytes,
        adapter_bytes=folder_bytes(paths.adapter),
    )
