"""Which examples share a batch, in which order, and how a batch becomes tensors.

Padding is the largest waste of training on short texts: 73 % of all positions at a fixed 512, about half in random batches, 3 % where
examples of like length share one. Grouping must not turn an epoch into a march from short to long, so examples are shuffled first,
sorted within wide windows only, and the batches are shuffled again. The order is a pure function of (seed, epoch): a resumed run
skips ahead in it and meets the same batches.

Batches are padded on the right and carry no attention mask: a causal model's position never sees what stands to its right, and padded
positions have no label, so loss and gradients are exactly those with a mask (tests/train/test_loss.py shows it for every method).
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch

IGNORED = -100
WINDOW_BATCHES = 50
"""Batches' worth of shuffled examples that are sorted by length together."""

WIDTH_STEP = 16
"""On a CPU every new width costs some 25 MB that are kept: oneDNN prepares its products anew for each shape and holds the last 1,024.
A run of many widths grew from 2.2 to 4.9 GB; in whole steps there are few."""

Padding = Literal["grouped", "batch", "fixed"]


class Row(Protocol):
    """An encoded example: token ids, and labels that are -100 where nothing is learned."""

    ids: Sequence[int]
    labels: Sequence[int]


def order_batches(lengths: Sequence[int], batch_size: int, padding: Padding, seed: int) -> list[list[int]]:
    """Row numbers of every batch of one epoch. Each row once; only the last batch made may be smaller."""
    draw = random.Random(seed)
    rows = list(range(len(lengths)))
    draw.shuffle(rows)
    if padding == "grouped":
        window = batch_size * WINDOW_BATCHES
        rows = [row for start in range(0, len(rows), window) for row in sorted(rows[start : start + window], key=lengths.__getitem__)]
    batches = [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]
    if padding == "grouped":
        draw.shuffle(batches)
    return batches


@dataclass
class EpochBatches:
    """A batch sampler: iterating gives the current epoch's batches."""

    lengths: Sequence[int]
    batch_size: int
    padding: Padding
    seed: int
    epoch: int = 0

    def __len__(self) -> int:
        return -(-len(self.lengths) // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        # One large odd stride keeps (seed, epoch) pairs of neighbouring seeds apart.
        return iter(order_batches(self.lengths, self.batch_size, self.padding, self.seed * 1_000_003 + self.epoch))


def order_evaluation(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """Batches by descending length: the least padding, and an out-of-memory error at once instead of at the end."""
    rows = sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True)
    return [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]


@dataclass(frozen=True)
class Collator:
    """Rows -> {'input_ids': int64 (rows, positions), 'labels': the same, 'tokens': int64 (), tokens without padding}.

    `length` pads every batch to so many positions; 0 pads to the batch's longest row, rounded up to whole WIDTH_STEPs.
    """

    pad_id: int
    length: int = 0

    def __call__(self, rows: Sequence[Row]) -> dict[str, Any]:
        longest = max(len(row.ids) for row in rows)
        width = self.length if self.length >= longest else -(-longest // WIDTH_STEP) * WIDTH_STEP
        ids = torch.full((len(rows), width), self.pad_id, dtype=torch.long)
        labels = torch.full((len(rows), width), IGNORED, dtype=torch.long)
        for i, row in enumerate(rows):
            ids[i, : len(row.ids)] = torch.tensor(row.ids)
            labels[i, : len(row.labels)] = torch.tensor(row.labels)
        return {"input_ids": ids, "labels": labels, "tokens": torch.tensor(sum(len(row.ids) for row in rows))}
