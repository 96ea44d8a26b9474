"""A model's layers rounded one after the other, on what really reaches them.

Each layer gets the hidden states that the rounded layers before it give, and within a layer the matrices are rounded in the order in
which they are used, those with the same input together. Beside them run the hidden states of the model as it was: each matrix is to
give its original outputs from the inputs that arrive, and so makes up for what was lost before it. Only one layer is in fp32 at a
time; besides the model, memory holds the calibration rows' hidden states twice and one layer's inputs, 4 bytes each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from studio.calibration.rounding import Rounded, make_up, round_matrix
from studio.core.errors import ModelError
from studio.methods.frozen_base import layer_linears


@dataclass
class Batch:
    """What enters a layer: hidden states (rows, positions, hidden), which positions are text and not padding, and all else it takes."""

    original: Tensor
    """Out of the layers before it as they were."""
    hidden: Tensor
    """Out of those layers rounded."""
    text: Tensor
    others: list[tuple[tuple[Any, ...], dict[str, Any]]]
    """Layer by layer: the arguments besides the hidden states."""


class _Reached(Exception):
    """The matrix in question has its input; the rest of the layer need not run."""


@torch.no_grad()
def round_layers(
    model: nn.Module, batches: Sequence[tuple[Tensor, Tensor]], double_quantization: bool, report: Callable[[int, int], None]
) -> None:
    """Replace the weights of every linear in the layers by what NF4's codes stand for, as written into a file.

    `batches` are (ids, text) of (rows, positions), int64 and bool, padded on the right. `report(done, all)` is called before each layer.
    Raises ModelError for layers without nn.Linear, or whose inputs are not finite.
    """
    layers = find_layers(model)
    entering = [enter_layers(model, layers, ids, text) for ids, text in batches]
    for number, layer in enumerate(layers):
        report(number, len(layers))
        dtype = next(layer.parameters()).dtype
        layer.float()
        written: dict[nn.Linear, Tensor] = {}
        groups = group_by_input(layer, entering[0], number)
        wanted = [watch_inputs(layer, [group[0] for group in groups], batch, number) for batch in entering]
        for group in groups:
            moments = collect_moments(layer, group[0], entering, [inputs.get(group[0]) for inputs in wanted], number)
            for module in group:
                rounded: Rounded = round_matrix(make_up(module.weight.data, *moments), moments[0], double_quantization)
                written[module], module.weight.data = rounded.written, rounded.read
        for batch in entering:
            batch.hidden = run_layer(layer, batch.hidden, batch.others[number])
        for module, weight in written.items():
            module.weight.data = weight
        layer.to(dtype)


def find_layers(model: nn.Module) -> list[nn.Module]:
    """The decoder's layers in order. Raises ModelError where they are not made of nn.Linear."""
    names = list(dict.fromkeys(_layer_of(name) for name in layer_linears(model)))
    layers = [model.get_submodule(name) for name in names]
    if not layers or not all(isinstance(module, nn.Linear) for module in layer_linears(model).values()):
        raise ModelError("The layers of this model are not made of plain linear layers.", "Use it as it is, with NF4 or int8.")
    return layers


def _layer_of(name: str) -> str:
    """'model.layers.3.mlp.up_proj' -> 'model.layers.3'."""
    pieces = name.split(".")
    return ".".join(pieces[: 1 + next(i for i, piece in enumerate(pieces) if piece.isdigit())])


def enter_layers(model: nn.Module, layers: list[nn.Module], ids: Tensor, text: Tensor) -> Batch:
    """One pass of the whole model, to see what each layer is called with."""
    seen: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def look(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen.append((args, kwargs))

    with _hooks([layer.register_forward_pre_hook(look, with_kwargs=True) for layer in layers]):
        model(input_ids=ids, use_cache=False)
    hidden = seen[0][0][0].float()
    return Batch(hidden, hidden, text, [(_float(args[1:]), _float(kwargs)) for args, kwargs in seen])


def _float(value: Any) -> Any:
    """The same with every floating tensor in fp32."""
    if isinstance(value, Tensor):
        return value.float() if value.is_floating_point() else value
    if isinstance(value, tuple | list):
        return type(value)(_float(part) for part in value)
    return {name: _float(part) for name, part in value.items()} if isinstance(value, dict) else value


def run_layer(layer: nn.Module, hidden: Tensor, others: tuple[tuple[Any, ...], dict[str, Any]]) -> Tensor:
    found = layer(hidden, *others[0], **others[1])
    return found[0] if isinstance(found, tuple) else found


def watch_inputs(layer: nn.Module, modules: list[nn.Linear], batch: Batch, number: int) -> dict[nn.Module, Tensor]:
    """Run the layer as it was on the original hidden states, which become its outputs; what each of `modules` was given."""
    seen: dict[nn.Module, Tensor] = {}

    def look(module: nn.Module, args: tuple[Any, ...]) -> None:
        seen[module] = text_only(args[0], batch.text)

    with _hooks([module.register_forward_pre_hook(look) for module in modules]):
        batch.original = run_layer(layer, batch.original, batch.others[number])
    return seen


def text_only(inputs: Tensor, text: Tensor) -> Tensor:
    """(n, in): inputs at text positions. Where they come without their places, as a mixture's experts', padding cannot be told."""
    return inputs[text] if inputs.shape[:-1] == text.shape else inputs.reshape(-1, inputs.shape[-1])


def group_by_input(layer: nn.Module, batch: Batch, number: int) -> list[list[nn.Linear]]:
    """The layer's linears in order of use, those that are given the very same tensor together; then those that were not used."""
    groups: list[list[nn.Linear]] = []
    inputs: list[Tensor] = []  # kept, so that no two live at one address

    def look(module: nn.Module, args: tuple[Any, ...]) -> None:
        if not inputs or args[0] is not inputs[-1]:
            inputs.append(args[0])
            groups.append([])
        groups[-1].append(module)  # type: ignore[arg-type]

    linears = [module for module in layer.modules() if isinstance(module, nn.Linear)]
    with _hooks([module.register_forward_pre_hook(look) for module in linears]):
        run_layer(layer, batch.original, batch.others[number])
    used = {module for group in groups for module in group}
    return groups + [[module] for module in linears if module not in used]


def collect_moments(
    layer: nn.Module, module: nn.Linear, batches: list[Batch], wanted: list[Tensor | None], number: int
) -> tuple[Tensor, Tensor]:
    """H = X̂ X̂ᵀ and C = X X̂ᵀ, (in, in), fp32, of the inputs X̂ that reach `module` and the X in `wanted` that should.

    Where the two cannot be paired (an expert that is given other positions than before), C is H. Raises ModelError where one is not finite.
    """
    second, cross = (torch.zeros(module.in_features, module.in_features, device=module.weight.device) for _ in range(2))

    for batch, original in zip(batches, wanted, strict=True):

        def add(_: nn.Module, args: tuple[Any, ...], batch: Batch = batch, original: Tensor | None = original) -> None:
            found = text_only(args[0], batch.text)
            second.addmm_(found.t(), found)
            paired = original is not None and original.shape == found.shape and args[0].shape[:-1] == batch.text.shape
            cross.addmm_((original if paired else found).t(), found)  # type: ignore[union-attr]
            raise _Reached

        with _hooks([module.register_forward_pre_hook(add)]), suppress(_Reached):
            run_layer(layer, batch.hidden, batch.others[number])
    if not (second.isfinite().all() and cross.isfinite().all()):
        raise ModelError(f"Layer {number} of this model is given values that are not finite.", "Check the model's weights.")
    return second, cross


@contextmanager
def _hooks(handles: list[Any]) -> Iterator[None]:
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
