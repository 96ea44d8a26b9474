"""A model's layers rounded one after the other, on what really reaches them.

Each layer gets the hidden states that the rounded layers before it give, and within a layer the matrices are rounded in the order in
which they are used, those with the same input together: every matrix makes up for what was lost before it. Only one layer is in fp32
at a time; besides the model, memory holds the calibration rows' hidden states (4 bytes x tokens x hidden size).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from studio.calibration.rounding import Rounded, round_matrix
from studio.core.errors import ModelError
from studio.methods.frozen_base import layer_linears


@dataclass
class Batch:
    """What enters a layer: hidden states (rows, positions, hidden), which positions are text and not padding, and all else it takes."""

    hidden: Tensor
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
        for group in group_by_input(layer, entering[0], number):
            second_moment = collect_second_moment(layer, group[0], entering, number)
            for module in group:
                rounded: Rounded = round_matrix(module.weight.data, second_moment, double_quantization)
                written[module], module.weight.data = rounded.written, rounded.read
        for batch in entering:
            batch.hidden = run_layer(layer, batch, number)
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
    return Batch(seen[0][0][0].float(), text, [(_float(args[1:]), _float(kwargs)) for args, kwargs in seen])


def _float(value: Any) -> Any:
    """The same with every floating tensor in fp32."""
    if isinstance(value, Tensor):
        return value.float() if value.is_floating_point() else value
    if isinstance(value, tuple | list):
        return type(value)(_float(part) for part in value)
    return {name: _float(part) for name, part in value.items()} if isinstance(value, dict) else value


def run_layer(layer: nn.Module, batch: Batch, number: int) -> Tensor:
    args, kwargs = batch.others[number]
    found = layer(batch.hidden, *args, **kwargs)
    return found[0] if isinstance(found, tuple) else found


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
        run_layer(layer, batch, number)
    used = {module for group in groups for module in group}
    return groups + [[module] for module in linears if module not in used]


def collect_second_moment(layer: nn.Module, module: nn.Linear, batches: list[Batch], number: int) -> Tensor:
    """H = X Xᵀ (in, in), fp32, over every text position that reaches `module`. Raises ModelError where it is not finite."""
    total = torch.zeros(module.in_features, module.in_features, device=module.weight.device)

    def add(_: nn.Module, args: tuple[Any, ...]) -> None:
        found = args[0]
        # A mixture's experts see positions without their place: padding among them cannot be told, and is little.
        inputs = found[batch.text] if found.shape[:-1] == batch.text.shape else found.reshape(-1, found.shape[-1])
        total.addmm_(inputs.t(), inputs)
        raise _Reached

    with _hooks([module.register_forward_pre_hook(add)]):
        for batch in batches:
            try:
                run_layer(layer, batch, number)
            except _Reached:
                continue
    if not total.isfinite().all():
        raise ModelError(f"Layer {number} of this model is given values that are not finite.", "Check the model's weights.")
    return total


@contextmanager
def _hooks(handles: list[Any]) -> Iterator[None]:
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
