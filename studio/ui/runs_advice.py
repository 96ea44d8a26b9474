"""What a curve warns of, read off a run's records: not finite, exploding, not learning, overfitting; each with advice. No widgets.

Rules of thumb, not proofs: medians over stretches of the curve, so that one noisy batch warns of nothing. The thresholds are stated
below. They say nothing about whether the data are any good.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median
from typing import Any, NamedTuple

from studio.core.records import StepRecord

EXPLODED = 1.5
"""The latest losses' median over that of the best stretch: above it the loss has exploded."""
SPIKE_NATS = 0.5
"""And it is at least so many nats above."""
LEARNED = 0.99
"""The latest losses' median over that of the first: above it nothing was learned."""
OVERFITTED = 1.02
"""The latest held-out loss over the lowest, while the training loss goes on falling."""
MIN_STEPS = 20
MIN_SHARE = 0.3
"""Of the steps: before so much of the run is done (warmup included) a flat loss means nothing."""


class CurveWarning(NamedTuple):
    """kind: not-finite, exploding, not-learning or overfitting. What is seen, and what to do about it."""

    kind: str
    title: str
    text: str
    advice: str


def find_warnings(records: Sequence[StepRecord], total_steps: int = 0, learning_rate: float = 0.0) -> list[CurveWarning]:
    """Everything the records warn of, gravest first. `total_steps` 0 where it is not known yet."""
    rate = f" (now {learning_rate:.3g})" if learning_rate else ""
    train = [(r.step, r.loss) for r in records if r.loss is not None and math.isfinite(r.loss)]
    held_out = [(r.step, r.eval_loss) for r in records if r.eval_loss is not None and math.isfinite(r.eval_loss)]
    broken = next((r.step for r in records if _is_broken(r)), None)
    if broken is not None:
        return [CurveWarning(
            "not-finite", "The loss is not a number any more.", f"It became infinite or undefined at step {broken:,}; the rest is lost.",
            f"Stop, and start again with a third of the learning rate{rate} and training.max_grad_norm at 1; with fp16, switch to bf16.",
        )]  # fmt: skip
    exploding = _exploding(train, rate)
    found = [exploding, None if exploding else _not_learning(train, held_out, total_steps, rate), _overfitting(train, held_out)]
    return [warning for warning in found if warning]


def _is_broken(record: StepRecord) -> bool:
    """The file has null where a value is not finite, so a training line without a loss is one."""
    values = (record.loss, record.eval_loss, record.grad_norm)
    nothing = record.loss is None and record.eval_loss is None and record.learning_rate is not None
    return nothing or any(value is not None and not math.isfinite(value) for value in values)


def _stretches(values: Sequence[float]) -> list[float]:
    """Medians of a tenth of the curve each, at least five steps wide."""
    width = max(5, len(values) // 10)
    return [median(values[start : start + width]) for start in range(0, len(values) - width + 1, width)]


def _exploding(train: Sequence[tuple[int, float]], rate: str) -> CurveWarning | None:
    if len(train) < 10:
        return None
    values = [loss for _, loss in train]
    best, now = min(_stretches(values)), median(values[-5:])
    if now < EXPLODED * best or now - best < SPIKE_NATS:
        return None
    return CurveWarning(
        "exploding", "The loss has risen far above where it was.", f"It was about {best:.3g} and is {now:.3g} over the last five steps.",
        f"Lower the learning rate{rate} to a third, raise training.warmup, or set training.max_grad_norm to 1. "
        "An earlier checkpoint can be resumed.",
    )  # fmt: skip


def _not_learning(
    train: Sequence[tuple[int, float]], held_out: Sequence[tuple[int, float]], total_steps: int, rate: str
) -> CurveWarning | None:
    steps = train[-1][0] if train else 0
    if len(train) < MIN_STEPS or steps < max(MIN_STEPS, MIN_SHARE * total_steps):
        return None
    stretches = _stretches([loss for _, loss in train])
    if len(stretches) < 2 or stretches[-1] <= LEARNED * stretches[0]:
        return None
    if len(held_out) > 1 and held_out[-1][1] <= LEARNED * held_out[0][1]:
        return None
    return CurveWarning(
        "not-learning", "The loss does not fall.", f"It began at {stretches[0]:.3g} and is {stretches[-1]:.3g} after {steps:,} steps.",
        f"Raise the learning rate{rate} three- to tenfold (prefixes need about 5e-3), adapt more modules or a higher rank, and look at the "
        "data's preview: are the answers what is trained on?",
    )  # fmt: skip


def _overfitting(train: Sequence[tuple[int, float]], held_out: Sequence[tuple[int, float]]) -> CurveWarning | None:
    if len(held_out) < 3:
        return None
    best_step, best = min(held_out, key=lambda pair: pair[1])
    last_step, last = held_out[-1]
    if last < OVERFITTED * best or last_step == best_step:
        return None
    then = [loss for step, loss in train if step <= best_step][-10:]
    now = [loss for _, loss in train][-10:]
    if not then or not now or median(now) > median(then):
        return None
    return CurveWarning(
        "overfitting", "It learns the training rows by heart.",
        f"The held-out loss was lowest at step {best_step:,} ({best:.3f}) and is {last:.3f} now, while the training loss goes on falling.",
        "Stop around that step: set training.keep_best or training.patience. Or use more data, fewer epochs, a lower rank, some dropout.",
    )  # fmt: skip


def planned_memory_note(planned_bytes: Any, measured_bytes: float) -> str:
    """How far the measured peak lies from the plan, as '+4 %'; empty where either is unknown."""
    if not isinstance(planned_bytes, (int, float)) or planned_bytes <= 0 or measured_bytes <= 0:
        return ""
    return f"{100 * (measured_bytes / planned_bytes - 1):+.0f} %"
