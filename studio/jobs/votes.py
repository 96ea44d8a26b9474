"""Which answer a person found better, kept in the run's folder, and what the votes say with how much certainty.

The interval is Wilson's score interval (1927) for the share of "better" among the votes that decided; ties are counted apart.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Literal

from studio.core.files import append_line, read_lines
from studio.core.paths import RunPaths
from studio.core.units import show_percent

Verdict = Literal["better", "worse", "tie"]
Z_95 = 1.959963984540054


@dataclass(frozen=True)
class Tally:
    """A run's votes. `low` and `high` bound the share of better among decided votes with 95 % confidence; 0 and 1 where none decided."""

    better: int
    worse: int
    tie: int
    low: float
    high: float

    @property
    def summary(self) -> str:
        decided = self.better + self.worse
        counts = f"{self.better} better, {self.worse} worse, {self.tie} tied"
        if not decided:
            return f"{counts}."
        share, low, high = (show_percent(value) for value in (self.better / decided, self.low, self.high))
        return f"{counts}: better in {share} of decided votes (95 % interval {low} to {high})."


def add_vote(paths: RunPaths, verdict: Verdict, prompt: str, blind: bool) -> Tally:
    """Keep one vote on the run's adapter against its base, and count them all."""
    append_line(paths.votes, {"verdict": verdict, "prompt": prompt, "blind": blind, "time": time.time()})
    return count_votes(paths)


def count_votes(paths: RunPaths) -> Tally:
    lines, _ = read_lines(paths.votes)
    better, worse, tie = (sum(line.get("verdict") == name for line in lines) for name in ("better", "worse", "tie"))
    low, high = wilson_interval(better, better + worse)
    return Tally(better, worse, tie, low, high)


def wilson_interval(successes: int, trials: int, z: float = Z_95) -> tuple[float, float]:
    """(low, high) of a share; (0, 1) without trials."""
    if trials == 0:
        return 0.0, 1.0
    share, spread = successes / trials, z * z / trials
    centre = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * math.sqrt(share * (1 - share) / trials + spread / (4 * trials))
    return max(0.0, centre - half), min(1.0, centre + half)
