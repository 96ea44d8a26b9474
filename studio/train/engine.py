"""transformers' Trainer with our loss, batches, evaluation and checkpoints.

What is overridden and why:
- the loss runs the LM head at labelled positions only, and divides by the trained-on tokens of all accumulated batches;
- batches are ordered by studio.train.batches, so that a resumed run meets the same ones;
- evaluation is the mean over all held-out tokens (Trainer's is the mean over batches, which weighs a short answer like a long one);
- checkpoints hold safetensors and JSON only (Trainer's are pickles, which run code when a stranger's is opened), and appear whole or
  not at all;
- bf16 autocast is entered here: Trainer's own would convert every output to fp32.
"""

from __future__ import annotations

import contextlib
import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch.utils.data import DataLoader
from transformers import Trainer, TrainingArguments

from studio.core.errors import RunError
from studio.core.spec import RunSpec
from studio.methods import get_method
from studio.train.batches import Collator, EpochBatches, Row, order_evaluation
from studio.train.checkpoint import Origin, from_saving_error, keep_newest, load_checkpoint, load_random_state, save_checkpoint
from studio.train.loss import count_labels, sum_loss

NOT_FINITE = "Lower training.learning_rate (a third of it is a good next try), or set training.max_grad_norm to 1."


@dataclass(frozen=True)
class Material:
    """What the engine works on: encoded rows, the model with its method attached, and how it computes."""

    train: Sequence[Row]
    held_out: Sequence[Row]
    pad_id: int
    device: str
    compute: torch.dtype
    """What the forward pass computes in; below fp32 it runs under autocast."""
    parameter_groups: list[dict[str, Any]]


class Engine(Trainer):
    """One training of one adapter. `origin` is written into every checkpoint and checked on resume."""

    def __init__(self, model: Any, spec: RunSpec, material: Material, args: TrainingArguments, origin: Origin) -> None:
        self.spec, self.material, self.origin = spec, material, origin
        self.tokens = self.samples = 0
        self.on_evaluated: Callable[[int, int], None] = lambda batch, batches: None
        """Told after each batch of an evaluation which of how many it was."""
        width = spec.training.max_length if spec.training.padding == "fixed" else 0
        self.collator = Collator(material.pad_id, width)
        self.batches = EpochBatches(
            [len(row.ids) for row in material.train], spec.training.batch_size, spec.training.padding, spec.training.seed
        )
        rows: dict[str, Any] = {"train_dataset": material.train, "eval_dataset": material.held_out}
        super().__init__(model=model, args=args, data_collator=self.collator, **rows)
        self.loss_is_scaled_for_ga = True

    # Batches

    def get_train_dataloader(self) -> DataLoader:
        return DataLoader(self.material.train, batch_sampler=self.batches, collate_fn=self.collator)  # type: ignore[arg-type]

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        self.batches.epoch = kwargs["epoch"]
        super()._run_epoch(*args, **kwargs)

    def _get_num_items_in_batch(self, batch_samples: list[dict[str, Any]], device: Any) -> Any:
        return sum(count_labels(batch["labels"]) for batch in batch_samples).to(device)  # type: ignore[union-attr]

    # Loss

    def autocast_smart_context_manager(self, cache_enabled: bool | None = True) -> contextlib.AbstractContextManager[Any]:
        if self.args.fp16 or self.material.compute == torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.material.device, dtype=self.material.compute, cache_enabled=bool(cache_enabled))

    def compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None) -> Any:
        """This batch's share of the mean over all trained-on tokens of the accumulated batches."""
        self.tokens += int(inputs["tokens"])
        self.samples += len(inputs["labels"])
        return sum_loss(model, inputs["input_ids"], inputs["labels"], self.spec.training.labelled_head) / num_items_in_batch

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        loss = super().training_step(model, inputs, num_items_in_batch)
        if not torch.isfinite(loss):
            raise RunError(f"The loss became {float(loss)} at step {self.state.global_step + 1}: training diverged.", NOT_FINITE)
        return loss

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        return 0  # Trainer would walk over all parameters at every step to estimate them

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Hand the line to the callbacks. Not kept in the state: a long run's checkpoints would grow with it."""
        self.control = self.callback_handler.on_log(self.args, self.state, self.control, {**logs, "epoch": self.state.epoch or 0.0})

    # Optimizer

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        if self.optimizer is None:
            training = self.spec.training
            groups = [{"weight_decay": training.weight_decay, **group} for group in self.material.parameter_groups]
            self.optimizer = make_optimizer(training.optimizer, groups, self.spec.learning_rate)
        return self.optimizer

    # Evaluation

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """{'eval_loss'}: nats per held-out token that is trained on."""
        metrics = {"eval_loss": self.held_out_loss()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    @torch.no_grad()
    def held_out_loss(self) -> float:
        total, count = 0.0, 0
        with evaluating(self.model):
            rows = self.material.held_out
            batches = order_evaluation([len(row.ids) for row in rows], self.spec.training.batch_size)
            for number, chosen in enumerate(batches, 1):
                batch = self._prepare_inputs(self.collator([rows[i] for i in chosen]))
                with self.autocast_smart_context_manager():
                    part = sum_loss(self.model, batch["input_ids"], batch["labels"], self.spec.training.labelled_head)
                total += float(part)
                count += int(count_labels(batch["labels"]))
                self.on_evaluated(number, len(batches))
        return total / count if count else math.nan

    # Checkpoints

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        best = self.state.best_global_step
        save_checkpoint(self, Path(self.args.output_dir), {"tokens": self.tokens, "samples": self.samples})
        keep_newest(Path(self.args.output_dir), self.spec.training.keep_checkpoints, {best} if best else set())

    def save_adapter(self, folder: Path) -> None:
        """The adapter in PEFT's own format, in a folder that is whole or not there. Raises DiskFull, SetupError, MethodError."""
        part = folder.with_name(f".{folder.name}.part")
        try:
            shutil.rmtree(part, ignore_errors=True)
            get_method(self.spec.method.family).save(self.model, part, self.spec)
            shutil.rmtree(folder, ignore_errors=True)
            part.rename(folder)
        except (OSError, SafetensorError) as error:
            raise from_saving_error(error, "saving the adapter") from error
        finally:
            shutil.rmtree(part, ignore_errors=True)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Nothing here: weights and optimizer are loaded together, once the optimizer exists."""

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            extra = load_checkpoint(self, Path(checkpoint))
            self.tokens, self.samples = int(extra["tokens"]), int(extra["samples"])

    def _load_scaler(self, checkpoint: str | None) -> None:
        """Nothing here: the scaler is part of what _load_optimizer_and_scheduler loads."""

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            load_random_state(Path(checkpoint))


@contextlib.contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Within, dropout is off; afterwards the model is as it was."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def make_optimizer(name: str, groups: list[dict[str, Any]], learning_rate: float) -> torch.optim.Optimizer:
    """AdamW: torch's fused one, or bitsandbytes' with 8-bit moments (paged only where there is a GPU to page from)."""
    if name == "adamw":
        return torch.optim.AdamW(groups, lr=learning_rate, fused=True)
    import bitsandbytes

    kind = bitsandbytes.optim.PagedAdamW8bit if name == "paged_adamw_8bit" and torch.cuda.is_available() else bitsandbytes.optim.AdamW8bit
    return kind(groups, lr=learning_rate)
