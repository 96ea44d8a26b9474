"""What a run writes while it trains: metrics, samples, progress, snapshots; and what it listens to: the stop file, patience.

Knows Trainer's events and the run's files, and no mathematics. Every line is flushed as it is written, so a killed run keeps its curve.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from typing import Any

import psutil
import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from studio.core.errors import RunError
from studio.core.files import append_line, write_json
from studio.core.paths import RunPaths
from studio.core.records import Progress, SampleRecord, StepRecord
from studio.core.spec import RunSpec
from studio.train.engine import NOT_FINITE, Engine
from studio.train.process import Place
from studio.train.samples import answer_prompts
from studio.train.snapshots import save_snapshot

PROGRESS_INTERVAL_S = 0.5
LOG_INTERVAL_S = 15.0
"""An evaluation that takes longer says in the log how far it is."""


class ProgressFile:
    """progress.json, written at most twice a second unless the phase changes or the last step is done."""

    def __init__(self, paths: RunPaths) -> None:
        self.path, self.place = paths.progress, Place(paths)
        self.last = Progress("")
        self.written_at = self.said_at = 0.0
        self.clock: Callable[[], float | None] = lambda: None
        """Seconds of training so far; None before it."""

    def show(self, phase: str, step: int = 0, total_steps: int = 0, batch: int = 0, batches: int = 0) -> None:
        """Raises RunError where the run's folder was moved or deleted."""
        self.place.check()
        now = time.monotonic()
        progress = Progress(phase, step, total_steps, batch, batches, self.clock())
        is_end = step == total_steps and step != self.last.step
        if phase == self.last.phase and now - self.written_at < PROGRESS_INTERVAL_S and not is_end:
            return
        if phase != self.last.phase or (batches and now - self.said_at >= LOG_INTERVAL_S):
            say(progress.sentence)
            self.said_at = now
        self.last, self.written_at = progress, now
        write_json(self.path, vars(progress))


def say(text: str) -> None:
    """One line of the run's log."""
    print(f"{time.strftime('%H:%M:%S')}  {text}", flush=True)


def memory_bytes(device: str) -> int:
    """What training holds: the allocator's peak on a GPU, else this process's resident memory."""
    return torch.cuda.max_memory_allocated() if device == "cuda" else psutil.Process().memory_info().rss


def peak_memory_bytes(device: str) -> int:
    """The most memory training has held so far: what the plan foretells. The kernel's own mark catches what is freed between two steps."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


class Recorder(TrainerCallback):
    """Writes the run's files. After training it knows what the result needs."""

    def __init__(self, engine: Engine, spec: RunSpec, paths: RunPaths, tokenizer: Any, progress: ProgressFile) -> None:
        self.engine, self.spec, self.paths, self.tokenizer, self.progress = engine, spec, paths, tokenizer, progress
        self.eval_losses: dict[int, float] = {}
        self.stopped = False
        self.peak_memory_bytes = 0
        self.seconds_before = 0.0
        self.started = time.monotonic()
        self.last_line = (0.0, 0)
        self.last_loss: float | None = None
        engine.on_evaluated = self.show_evaluation

    @property
    def seconds(self) -> float:
        return self.seconds_before + time.monotonic() - self.started

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        # A state read from a checkpoint carries the intervals of the run it was written by.
        state.logging_steps, state.eval_steps, state.save_steps = args.logging_steps, args.eval_steps, args.save_steps
        self.started = time.monotonic()
        self.progress.clock = lambda: round(self.seconds, 3)
        self.last_line = (self.seconds, self.engine.tokens)
        self.progress.show("training" if not args.eval_on_start else "evaluating", state.global_step, state.max_steps)

    def show_evaluation(self, batch: int, batches: int) -> None:
        state = self.engine.state
        self.progress.show("evaluating", state.global_step, state.max_steps, batch, batches)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> TrainerControl:
        self.peak_memory_bytes = max(self.peak_memory_bytes, peak_memory_bytes(self.engine.material.device))
        if self.paths.stop.exists() and state.global_step < state.max_steps:
            self.stopped = True
            control.should_training_stop = control.should_save = control.should_log = True
            control.should_evaluate = False
        phase = "saving" if self.stopped else "evaluating" if control.should_evaluate else "training"
        self.progress.show(phase, state.global_step, state.max_steps)
        return control

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: dict[str, float], **_: Any) -> None:
        self.progress.place.check()
        if "train_runtime" in logs:
            return
        seconds, tokens = self.seconds, self.engine.tokens
        record = StepRecord(
            step=state.global_step,
            epoch=round(logs["epoch"], 4),
            loss=logs.get("loss"),
            eval_loss=logs.get("eval_loss"),
            learning_rate=logs.get("learning_rate"),
            grad_norm=logs.get("grad_norm"),
            tokens=tokens,
            tokens_per_s=self._speed(seconds, tokens) if "loss" in logs else None,
            memory_bytes=memory_bytes(self.engine.material.device),
            seconds=round(seconds, 3),
        )
        append_line(self.paths.metrics, record.to_json())
        # The result's peak is the curve's too: the last line is of an evaluation, after the last step.
        self.peak_memory_bytes = max(self.peak_memory_bytes, record.memory_bytes or 0)
        say(_line(record, state.max_steps))
        self.last_loss = record.loss if record.loss is not None else self.last_loss
        # Time spent evaluating and saving is not part of the speed of training.
        self.last_line = (seconds, tokens)
        if record.grad_norm is not None and not math.isfinite(record.grad_norm) and not args.fp16:
            raise RunError(f"The gradient became {record.grad_norm} at step {record.step}: training diverged.", NOT_FINITE)

    def _speed(self, seconds: float, tokens: int) -> float:
        before, tokens_before = self.last_line
        return round((tokens - tokens_before) / max(seconds - before, 1e-6), 1)

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, metrics: dict[str, float], **_: Any
    ) -> TrainerControl:
        loss = metrics["eval_loss"]
        self.eval_losses[state.global_step] = loss
        if state.best_metric is None or loss < state.best_metric:
            state.best_metric, state.best_global_step = loss, state.global_step
            control.should_save = control.should_save or (self.spec.training.keep_best and state.global_step > 0)
        self._write_samples(state.global_step)
        save_snapshot(self.engine.model, self.paths, state.global_step, self.spec)
        if self._is_out_of_patience(state):
            say(f"no better evaluation in {self.spec.training.patience}: stopping early")
            control.should_training_stop = control.should_save = True
        self.progress.show("training", state.global_step, state.max_steps)
        self.last_line = (self.seconds, self.engine.tokens)
        return control

    def _is_out_of_patience(self, state: TrainerState) -> bool:
        patience = self.spec.training.patience
        since_best = [step for step in self.eval_losses if step > (state.best_global_step or 0)]
        return 0 < patience <= len(since_best)

    def _write_samples(self, step: int) -> None:
        prompts = self.spec.training.sample_prompts
        if not prompts:
            return
        self.progress.show("answering the sample prompts", step, self.engine.state.max_steps)
        with self.engine.autocast_smart_context_manager():
            answers = answer_prompts(self.engine.model, self.tokenizer, prompts, self.spec.data.system_prompt)
        for prompt, answer in zip(prompts, answers, strict=True):
            append_line(self.paths.samples, vars(SampleRecord(step, prompt, answer)))

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.last_line = (self.seconds, self.engine.tokens)


def _line(record: StepRecord, total: int) -> str:
    parts = [f"step {record.step}/{total}"]
    if record.loss is not None:
        parts.append(f"loss {record.loss:.4f}")
    if record.eval_loss is not None:
        parts.append(f"held-out loss {record.eval_loss:.4f}")
    if record.learning_rate is not None:
        parts.append(f"learning rate {record.learning_rate:.2e}")
    if record.tokens_per_s is not None:
        parts.append(f"{record.tokens_per_s:.0f} tokens/s")
    return "  ".join(parts)
