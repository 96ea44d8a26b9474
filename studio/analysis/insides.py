"""What one prompt does inside a bottleneck adapter or a prefix, seen by forward hooks while the adapted model reads it once.

Adapter, at each place it was put (h the wrapped block's output, h_adapter = up(act(down(.))) what the adapter adds to it):

    active      on how many of the prompt's tokens each bottleneck unit is active: its activation is above 0, the open side of ReLU, GELU
                and SiLU; tanh has no closed side, so there above TANH_ACTIVE in size
    norms       mean over tokens of |h| and |h_adapter|, and of their quotient token by token: the first token of many models is
                hundreds of times larger than the others, and would be the only one heard in a quotient of means

Prefix (P learned keys before T prompt tokens): the part of its attention that each head of each layer spends on the P keys, mean over
tokens. Token t spread evenly over all it may see would spend P / (P + t); its mean over t = 1..T is `even_share`.

What it does not know: other prompts, and the tokens an answer would add. Attention weights exist only under eager attention: load the
base so. Sources: arXiv 1902.00751 (adapters), arXiv 2101.00190 (prefixes, section 4).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from studio.core.errors import AnalysisError

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from torch import nn

TANH_ACTIVE = 0.1
Hook = Callable[["nn.Module", tuple[Any, ...], Any], None]


@dataclass(frozen=True)
class AdapterPlace:
    """One adapter: `active` counts tokens per unit; norms are means over tokens, `ratio` of |h_adapter| / |h| (None where h is zero)."""

    name: str
    layer: int
    place: str
    active: tuple[int, ...]
    hidden_norm: float
    change_norm: float
    ratio: float | None


@dataclass(frozen=True)
class AdapterInsides:
    """All places in the order of the forward pass, for a prompt of `tokens`."""

    tokens: int
    placement: str
    activation: str
    places: tuple[AdapterPlace, ...]


@dataclass(frozen=True)
class PrefixInsides:
    """mass[i][j] is the part of layer layers[i], head j's attention that goes to the prefix, 0 to 1, mean over `tokens`."""

    tokens: int
    virtual_tokens: int
    layers: tuple[int, ...]
    mass: tuple[tuple[float, ...], ...]
    even_share: float


def adapter_insides(model: PeftModel, ids: Sequence[int]) -> AdapterInsides:
    """Look into the active bottleneck adapter while it reads `ids`. Errors: AnalysisError where the model holds none, or for NaN."""
    from studio.methods.bottleneck_tuner import BottleneckLayer

    adapter = model.active_adapter
    layers = {name: part for name, part in model.named_modules() if isinstance(part, BottleneckLayer) and adapter in part.bottleneck_up}
    if not layers:
        raise AnalysisError("This model holds no bottleneck adapter.", "Choose a run of the method Adapters.")
    settings = model.peft_config[adapter]
    hidden: dict[str, torch.Tensor] = {}
    found: list[AdapterPlace] = []

    def keep_hidden(name: str) -> Hook:
        return lambda _, __, output: hidden.update({name: output[0].float()})

    def measure(name: str) -> Hook:
        return lambda _, inputs, output: found.append(_place(name, hidden.pop(name), inputs[0][0], output[0], settings.activation))

    hooks: list[tuple[nn.Module, Hook]] = []
    for name, layer in layers.items():
        hooks += [(layer.get_base_layer(), keep_hidden(name)), (layer.bottleneck_up[adapter], measure(name))]
    with _hooked(hooks):
        _read(model, ids)
    return AdapterInsides(len(ids), settings.placement, settings.activation, tuple(found))


def _place(name: str, hidden: torch.Tensor, inner: torch.Tensor, change: torch.Tensor, activation: str) -> AdapterPlace:
    """`hidden` and `change` (tokens, hidden), `inner` (tokens, bottleneck) the activations between down and up."""
    active = inner.abs() > TANH_ACTIVE if activation == "tanh" else inner > 0
    size, added = hidden.norm(dim=-1), change.float().norm(dim=-1)
    if not (size.isfinite().all() and added.isfinite().all()):
        raise AnalysisError(f"NaN or infinity comes out of {name}.", "Its training diverged: train again with a lower learning rate.")
    heard = size > 0
    layer, place = _layer_of(name)
    return AdapterPlace(
        name=name.removeprefix("base_model.model."),
        layer=layer,
        place=place,
        active=tuple(active.sum(dim=0).tolist()),
        hidden_norm=float(size.mean()),
        change_norm=float(added.mean()),
        ratio=float((added[heard] / size[heard]).mean()) if heard.any() else None,
    )


def prefix_insides(model: PeftModel, ids: Sequence[int]) -> PrefixInsides:
    """Look at the attention on the active prefix while `ids` are read. Errors: AnalysisError for no prefix, or no weights to see."""
    count = int(getattr(model.peft_config[model.active_adapter], "num_virtual_tokens", 0) or 0)
    if not count:
        raise AnalysisError("This model holds no prefix.", "Choose a run of the method Prefix-Tuning.")
    mass: dict[int, tuple[float, ...]] = {}

    def measure(layer: int) -> Hook:
        def hook(_: nn.Module, __: tuple[Any, ...], output: Any) -> None:
            weights = _attention_weights(output, len(ids), count + len(ids))
            if weights is not None and layer not in mass:  # modules around the attention may hand its weights on
                share = weights[..., :count].float().sum(dim=-1).clamp(max=1)  # sixteen-bit weights may add up to a little more
                mass[layer] = tuple(share.mean(dim=-1).tolist())

        return hook

    numbered = [(part, name) for name, part in model.named_modules() if any(piece.isdigit() for piece in name.split("."))]
    with _hooked([(part, measure(_layer_of(name)[0])) for part, name in numbered]):
        _read(model, ids)
    if not mass:
        raise AnalysisError("This model's attention does not show its weights.", "Choose a run on a model with ordinary attention.")
    layers = tuple(sorted(mass))
    even = sum(count / (count + seen) for seen in range(1, len(ids) + 1)) / len(ids)
    return PrefixInsides(len(ids), count, layers, tuple(mass[layer] for layer in layers), even)


def _attention_weights(output: Any, queries: int, keys: int) -> torch.Tensor | None:
    """The weights (heads, queries, keys) among what a module gave for one prompt, None where there are none."""
    parts = output if isinstance(output, tuple) else ()
    return next((part[0] for part in parts if getattr(part, "ndim", 0) == 4 and tuple(part.shape[2:]) == (queries, keys)), None)


def _layer_of(name: str) -> tuple[int, str]:
    """(3, 'mlp.down_proj') of '...layers.3.mlp.down_proj'."""
    parts = name.split(".")
    index = next(index for index, part in enumerate(parts) if part.isdigit())
    return int(parts[index]), ".".join(parts[index + 1 :])


def _read(model: PeftModel, ids: Sequence[int]) -> None:
    import torch

    with torch.no_grad():
        model.eval()(input_ids=torch.tensor([list(ids)], device=model.device))


@contextmanager
def _hooked(hooks: Sequence[tuple[nn.Module, Hook]]) -> Iterator[None]:
    handles = [module.register_forward_hook(hook) for module, hook in hooks]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
