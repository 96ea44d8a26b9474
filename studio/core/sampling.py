"""How an answer's tokens are picked and how strong its adapter is, as checked values: free of torch, to be checked before any load.

studio.play.sampling picks the tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from studio.core.errors import PlayError

STRONGEST = 2.0


def check_strength(strength: float) -> None:
    """Raises PlayError for what no adapter can be scaled by."""
    if not 0 <= strength <= STRONGEST:
        raise PlayError(f"A strength goes from 0 to {STRONGEST:g}.")


@dataclass(frozen=True)
class Sampling:
    """temperature 0 is greedy; top_k 0 and top_p 1 cut nothing off."""

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    max_new_tokens: int = 256
    seed: int = 0

    @classmethod
    def parse(cls, data: dict[str, Any]) -> Sampling:
        """Checked values. Raises PlayError with every problem."""
        try:
            made = cls(
                float(data.get("temperature", 0)), float(data.get("top_p", 1)), int(data.get("top_k", 0)),
                int(data.get("max_new_tokens", 256)), int(data.get("seed", 0)),
            )  # fmt: skip
        except (TypeError, ValueError, OverflowError) as error:
            raise PlayError("The sampling settings must be numbers.", "Clear them to take the defaults.") from error
        problems = [
            text for wrong, text in (
                (not 0 <= made.temperature <= 5, "temperature goes from 0 to 5"),
                (not 0 < made.top_p <= 1, "top_p is above 0 and at most 1"),
                (made.top_k < 0, "top_k is 0 or more"),
                (not 0 <= made.seed < 2**63, "the seed is 0 or a whole number above"),
                (not 1 <= made.max_new_tokens <= 32768, "new tokens go from 1 to 32768"),
            ) if wrong
        ]  # fmt: skip
        if problems:
            raise PlayError(f"These sampling settings cannot be used: {'; '.join(problems)}.")
        return made
