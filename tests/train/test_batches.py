"""Batches: every row once, little padding, an order that depends on seed and epoch only."""

from __future__ import annotations

import random
from typing import NamedTuple

import pytest

from studio.train.batches import Collator, EpochBatches, order_batches, order_evaluation


class Row(NamedTuple):
    ids: list[int]
    labels: list[int]


DRAW = random.Random(7)
LENGTHS = [DRAW.choice([20, 40, 80, 160, 320]) + i % 17 for i in range(1000)]


def padded_share(batches: list[list[int]]) -> float:
    positions = sum(len(batch) * max(LENGTHS[i] for i in batch) for batch in batches)
    return 1 - sum(LENGTHS) / positions


@pytest.mark.parametrize("padding", ["grouped", "batch", "fixed"])
def test_every_row_is_in_one_batch(padding: str) -> None:
    batches = order_batches(LENGTHS, 8, padding, seed=1)
    assert sorted(row for batch in batches for row in batch) == list(range(1000))
    assert {len(batch) for batch in batches} == {8}


def test_grouping_leaves_little_padding() -> None:
    assert padded_share(order_batches(LENGTHS, 8, "grouped", seed=1)) < 0.05
    assert padded_share(order_batches(LENGTHS, 8, "batch", seed=1)) > 0.4


def test_short_and_long_batches_are_mixed() -> None:
    """Length and position in the epoch are uncorrelated, unlike in a sorted epoch."""
    means = [sum(LENGTHS[i] for i in batch) / len(batch) for batch in order_batches(LENGTHS, 8, "grouped", seed=3)]
    centre, middle = sum(means) / len(means), (len(means) - 1) / 2
    covariance = sum((i - middle) * (mean - centre) for i, mean in enumerate(means))
    spread = (sum((i - middle) ** 2 for i in range(len(means))) * sum((mean - centre) ** 2 for mean in means)) ** 0.5
    assert abs(covariance / spread) < 0.3


def test_order_is_a_function_of_seed_and_epoch() -> None:
    batches = EpochBatches(LENGTHS, 8, "grouped", seed=5)
    first = list(batches)
    assert list(batches) == first
    batches.epoch = 1
    assert list(batches) != first
    assert list(EpochBatches(LENGTHS, 8, "grouped", seed=6)) != first
    assert len(batches) == len(first) == 125


def test_last_batch_may_be_smaller() -> None:
    batches = order_batches([5, 9, 7], 2, "grouped", seed=0)
    assert sorted(map(len, batches)) == [1, 2]
    assert len(EpochBatches([5, 9, 7], 2, "batch", 0)) == 2


def test_evaluation_goes_from_long_to_short() -> None:
    batches = order_evaluation([3, 9, 5, 7], 2)
    assert batches == [[1, 3], [2, 0]]


def test_collator_pads_right_and_ignores_padding() -> None:
    rows = [Row([1, 2, 3], [-100, 2, 3]), Row([4], [4])]
    batch = Collator(pad_id=9, length=3)(rows)
    assert batch["input_ids"].tolist() == [[1, 2, 3], [4, 9, 9]]
    assert batch["labels"].tolist() == [[-100, 2, 3], [4, -100, -100]]
    assert int(batch["tokens"]) == 4
    assert Collator(pad_id=9, length=5)(rows)["input_ids"].shape == (2, 5)


@pytest.mark.parametrize(("longest", "width"), [(1, 16), (16, 16), (17, 32), (384, 384)])
def test_widths_come_in_whole_steps_so_that_few_differ(longest: int, width: int) -> None:
    batch = Collator(pad_id=9)([Row([5] * longest, [5] * longest), Row([4], [4])])
    assert batch["input_ids"].shape == batch["labels"].shape == (2, width)
    assert int((batch["labels"] != -100).sum()) == int(batch["tokens"]) == longest + 1
