"""The Method protocol, the one interface of every PEFT family, and the register that finds a family by name.

A family is one file: its mathematics and source in the docstring, one class that satisfies `Method`, one `register` call. Nothing
here or in a family's file imports torch at the top, so the interface's process can count and describe methods. What needs torch
(`attach`, `parameter_groups`, `save`) imports it inside, and runs in child processes only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, get_args

from studio.core.errors import MethodError
from studio.core.shape import ModelShape
from studio.core.spec import Family, MethodSpec, RunSpec

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Batches = Callable[[], Iterable[dict[str, Any]]]
"""Gives a few tokenised batches (input_ids, attention_mask on the model's device) of the training data: EVA looks at them."""


@dataclass(frozen=True)
class MethodPart:
    """One piece that a method adds in every adapted layer: 'q_proj', A (8, 576), B (576, 8) and their parameters."""

    place: str
    shapes: str
    parameters: int


@dataclass(frozen=True)
class MethodCard:
    """What a method adds to one chosen model: the data of a comparison card, drawn elsewhere."""

    family: str
    title: str
    sentence: str
    formula: str
    added: str
    """What is added, and where."""
    parts: tuple[MethodPart, ...]
    """Per adapted layer, in the order of the forward pass."""
    layers: int
    """How many layers are adapted."""
    parameters: int
    """All trainable parameters."""
    share: float
    """parameters over those of base and adapter together, 0..1."""
    adapter_bytes: int
    """On disk, in fp32."""
    good_for: str
    architecture_change: str
    merges: str
    """Whether the adapter can be folded into the base, as a sentence."""
    source: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class Method(Protocol):
    """One PEFT family. `method` arguments are that family's spec, `spec` the whole run's."""

    family: str
    title: str
    sentence: str

    def problems(self, spec: RunSpec, shape: ModelShape) -> list[str]:
        """Why this method cannot run on this model, each a sentence with its advice. Contradictions inside the spec are its own to list."""

    def advice(self, spec: RunSpec) -> list[str]:
        """Sentences worth reading before a start; none of them forbids it."""

    def added_parameters(self, method: MethodSpec, shape: ModelShape) -> int:
        """How many parameters are trained, exactly as PEFT counts them after `attach`."""

    def describe(self, method: MethodSpec, shape: ModelShape) -> MethodCard:
        """The comparison card's data for one model."""

    def attach(
        self, model: PreTrainedModel, spec: RunSpec, tokenizer: PreTrainedTokenizerBase, batches: Batches | None = None
    ) -> PeftModel:
        """The base frozen, with a new trainable adapter named 'default' in fp32. Raises MethodError."""

    def parameter_groups(self, model: PeftModel, spec: RunSpec) -> list[dict[str, Any]]:
        """Optimizer groups over every trainable parameter: params, lr, weight_decay."""

    def save(self, model: PeftModel, folder: Path, spec: RunSpec) -> None:
        """Write adapter_config.json and adapter_model.safetensors so that PEFT loads them on the original base. Raises StudioError."""


_METHODS: dict[str, Method] = {}


def register(method: Method) -> None:
    """Make a family known. Raises ValueError where its name or title is taken: two families must not pass for one another."""
    for known in _METHODS.values():
        if known.family == method.family or known.title == method.title:
            raise ValueError(f"The method {method.family!r} ({method.title}) clashes with {known.family!r} ({known.title}).")
    _METHODS[method.family] = method


def get_method(family: str) -> Method:
    """The method of a family. Raises MethodError for a name that is not registered."""
    if family not in _METHODS:
        raise MethodError(f"There is no method {family!r}.", f"Choose one of {', '.join(_METHODS)}.")
    return _METHODS[family]


def all_methods() -> list[Method]:
    """Every family, in the order in which they are shown."""
    return [_METHODS[family] for family in get_args(Family)]


def make_card(method: Method, shape: ModelShape, parts: Iterable[MethodPart], layers: int, texts: dict[str, str]) -> MethodCard:
    """A card whose totals follow from its parts; `texts` are the fields in words. A part counts once per adapted layer."""
    parts = tuple(parts)
    parameters = layers * sum(part.parameters for part in parts)
    return MethodCard(
        family=method.family,
        title=method.title,
        sentence=method.sentence,
        parts=parts,
        layers=layers,
        parameters=parameters,
        share=parameters / (shape.parameters + parameters) if parameters else 0.0,
        adapter_bytes=4 * parameters,
        **texts,
    )


def plain_groups(model: PeftModel, spec: RunSpec) -> list[dict[str, Any]]:
    """All trainable parameters in one group at the run's learning rate."""
    params = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [{"params": params, "lr": spec.learning_rate, "weight_decay": spec.training.weight_decay}]
