"""Which linear layers LoRA adapts, and at which rank: the same answer from a ModelShape (counting) as PEFT gives on the model itself.

PEFT matches a target against a module's full name or its ending, and a rank pattern as a regular expression against the name's end.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from studio.core.shape import LinearShape, ModelShape
from studio.core.spec import LoraSpec

LAYERS_PATH = {"gpt2": "transformer.h", "opt": "model.decoder.layers"}
"""Where a model type keeps its layers, if not at model.layers: a rank pattern may name the whole path."""


@dataclass(frozen=True)
class Target:
    """One linear layer of one transformer layer that gets a LoRA of this rank."""

    layer: int
    linear: LinearShape
    rank: int
    name: str = ""
    """The module's whole path in the model."""

    @property
    def parameters(self) -> int:
        """A (rank, in) and B (out, rank)."""
        return self.rank * (self.linear.in_features + self.linear.out_features)


def matches(name: str, targets: Iterable[str]) -> bool:
    """PEFT's rule: the whole name, or its ending after a dot."""
    return any(name == target or name.endswith(f".{target}") for target in targets)


def target_names(method: LoraSpec, linear_names: Iterable[str]) -> list[str]:
    """The names PEFT is given: short ones ('q_proj'), with their parent only where attention and MLP share a short name (GPT-2's c_proj).

    `linear_names` are paths that end in '<block>.<name>', of all linear layers inside the transformer layers.
    """
    if isinstance(method.targets, list):
        return [name.strip() for name in method.targets if name.strip()]
    names = sorted(set(linear_names))
    if method.targets == "all-linear":
        return sorted({_tail(name, 1) for name in names})
    wants_attention = method.targets == "attention"
    wanted = {name for name in names if is_attention(name) == wants_attention}
    others = {_tail(name, 1) for name in names if name not in wanted}
    return sorted({_tail(name, 2 if _tail(name, 1) in others else 1) for name in wanted})


def is_attention(name: str) -> bool:
    """Whether a linear layer's path runs through the attention block."""
    return "attn" in name or "attention" in name


def _tail(name: str, parts: int) -> str:
    return ".".join(name.split(".")[-parts:])


def find_targets(method: LoraSpec, shape: ModelShape) -> Iterator[Target]:
    """Every adapted linear layer with its rank, layer by layer."""
    names = target_names(method, (linear.name for linear in shape.linears))
    path = LAYERS_PATH.get(shape.model_type, "model.layers")
    layers = sorted(set(method.layers)) or range(shape.layers)
    for layer in layers:
        if layer >= shape.layers:
            continue
        for linear in shape.linears:
            full = f"{path}.{layer}.{linear.name}"
            if matches(full, names):
                yield Target(layer, linear, pattern_rank(method.rank, method.rank_pattern, full), full)


def pattern_rank(rank: int, patterns: dict[str, int], name: str) -> int:
    """The rank at a module: that of the first pattern that matches the end of its name, else `rank`."""
    return next((own for pattern, own in patterns.items() if pattern_matches(pattern, name)), rank)


def pattern_matches(pattern: str, name: str) -> bool:
    """PEFT's rule for keys of a rank pattern. Raises re.error."""
    return re.match(rf"(.*\.)?({pattern})$", name) is not None


def invalid_patterns(method: LoraSpec) -> list[str]:
    """Keys of the rank pattern that are no regular expressions."""
    found = []
    for pattern in method.rank_pattern:
        try:
            re.compile(pattern)
        except re.error:
            found.append(pattern)
    return found
