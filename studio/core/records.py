"""What happened in a run, as typed records read from its folder.

A metrics line is one StepRecord; result.json is one RunResult. Both are written by the training child and read by everyone else.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from enum import Enum
from typing import Any

LARGEST = 1e100
"""No figure of a run is larger, and sums and products of such ones are still numbers."""


def is_number(value: Any) -> bool:
    """Whether a value read from a file can be a figure of a run: a finite number that is not out of all reason."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= LARGEST


def whole(value: Any) -> int:
    """A count as it was written; 0 for text, NaN, infinity and what no counter reaches."""
    return int(value) if is_number(value) and 0 <= value < 2**53 else 0


class RunStatus(str, Enum):
    """Where a run stands. Computed from its files and its process, never remembered."""

    QUEUED = "queued"
    RUNNING = "running"
    STOPPING = "stopping"
    FINISHED = "finished"
    STOPPED = "stopped"
    CANCELLED = "cancelled"
    FAILED = "failed"
    LOST = "lost"
    UNREADABLE = "unreadable"

    @property
    def is_active(self) -> bool:
        """A process works on it."""
        return self in (RunStatus.RUNNING, RunStatus.STOPPING)

    @property
    def is_over(self) -> bool:
        return not self.is_active and self is not RunStatus.QUEUED


@dataclass(frozen=True)
class StepRecord:
    """One line of metrics.jsonl. A training line carries `loss`, an evaluation line `eval_loss`; the rest where known.

    loss and eval_loss are nats per trained-on token; grad_norm before clipping; tokens counts all tokens the model has read since the
    run began (padding left out); memory_bytes is the process's resident memory, or the allocator's peak on a GPU; seconds since
    training began.
    """

    step: int
    epoch: float = 0.0
    loss: float | None = None
    eval_loss: float | None = None
    learning_rate: float | None = None
    grad_norm: float | None = None
    tokens: int = 0
    tokens_per_s: float | None = None
    memory_bytes: int | None = None
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        return {key: value for key, value in asdict(self).items() if value is not None}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> StepRecord:
        """Unknown keys are passed over, so that an older studio reads a newer run; so are values that are no numbers."""
        known = {f.name: data[f.name] for f in fields(cls) if is_number(data.get(f.name))}
        return cls(**{**known, "step": whole(data.get("step"))})


def losses_around(evaluations: Iterable[tuple[int, float]]) -> tuple[float | None, float | None]:
    """Held-out loss before the first step and at the last evaluation after it, of (step, loss) in the order measured.

    None where there was no such evaluation: a run that was stopped early has only the one before, which says nothing of its training.
    """
    before = after = None
    for step, loss in evaluations:
        if step > 0:
            after = loss
        else:
            before = loss
    return before, after


@dataclass(frozen=True)
class SampleRecord:
    """One line of samples.jsonl: a sample prompt's greedy answer at a step."""

    step: int
    prompt: str
    answer: str


@dataclass(frozen=True)
class Progress:
    """progress.json: what the child is doing. phase is a short phrase for a person: 'loading the model', 'training', 'saving'.

    An evaluation counts its batches, for it may take longer than all steps so far; 0 of 0 elsewhere. seconds: of training, when this
    was written; None before it has begun.
    """

    phase: str
    step: int = 0
    total_steps: int = 0
    batch: int = 0
    batches: int = 0
    seconds: float | None = None

    @property
    def sentence(self) -> str:
        """The phase, and how far it is: 'evaluating 12 of 20 batches'."""
        return f"{self.phase} {self.batch:,} of {self.batches:,} batches" if self.batches else self.phase


@dataclass(frozen=True)
class RunResult:
    """result.json: how a run ended. `error` is StudioError.to_json() of a failed run."""

    status: RunStatus
    steps: int = 0
    eval_loss_before: float | None = None
    eval_loss_after: float | None = None
    train_loss: float | None = None
    tokens: int = 0
    samples: int = 0
    seconds: float = 0.0
    trainable_parameters: int = 0
    total_parameters: int = 0
    peak_memory_bytes: int = 0
    adapter_bytes: int = 0
    error: dict[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "status": self.status.value}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> RunResult:
        """Raises ValueError where a value is not what the field holds, KeyError without a status."""
        known = {f.name: data[f.name] for f in fields(cls) if f.name in data}
        wrong = [f.name for f in fields(cls) if f.name in known and not _fits(f.name, f.default, known[f.name])]
        if wrong:
            raise ValueError(f"{', '.join(wrong)}: not what a result holds")
        return cls(**{**known, "status": RunStatus(known["status"])})


def _fits(name: str, default: Any, value: Any) -> bool:
    """Whether a field of result.json holds text, an error, or a finite number; None only where that is its default."""
    if name == "status":
        return isinstance(value, str)
    if value is None:
        return default is None
    if name == "error":
        return isinstance(value, dict)
    return is_number(value)


@dataclass(frozen=True)
class RunNotes:
    """notes.json: what a person wrote about a run."""

    name: str = ""
    tags: list[str] = field(default_factory=list)
    text: str = ""
