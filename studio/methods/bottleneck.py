"""Bottleneck adapters: a small two-layer network after or beside a block of the frozen base.

    h + up(act(down(h))),   down: hidden -> m,  up: m -> hidden, both with biases

2 d m + m + d parameters each (d hidden, m bottleneck): 264,256 for d 2048, m 64. `up` starts at zero: the model starts as the base.

- houlsby (arXiv 1902.00751, figure 2): after the attention block and after the MLP, each before its residual is added.
- pfeiffer (arXiv 2005.00247, found by search over placements): after the MLP only. Half the parameters.
- parallel (arXiv 2110.04366, section 3.3 and table 1): beside the MLP, fed with the MLP's input: mlp(x) + up(act(down(x))). The
  paper's scale factor is left at 1.

Houlsby's layer norms stay frozen here, unlike in the paper, so that adapters of several tasks share one base. The change is not
linear: it cannot be merged, and costs a little time in every forward pass. Where attention or MLP end in a dropout of their own
(GPT-2), the adapter sits before it. The tuner itself is studio.methods.bottleneck_tuner.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from studio.core.errors import MethodError
from studio.core.shape import ModelShape
from studio.core.spec import AdapterSpec, RunSpec
from studio.methods import frozen_base, saving
from studio.methods.base import Batches, MethodCard, MethodPart, make_card, plain_groups, register
from studio.methods.targets import is_attention

if TYPE_CHECKING:
    from peft import PeftModel
    from torch import nn
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

WHERE = {
    "houlsby": "after the attention block and after the MLP of every layer",
    "pfeiffer": "after the MLP of every layer",
    "parallel": "beside the MLP of every layer",
}


class BottleneckMethod:
    """The adapter family."""

    family = "adapter"
    title = "Adapters"
    sentence = "Puts a small network with a narrow middle into every layer."

    def problems(self, spec: RunSpec, shape: ModelShape) -> list[str]:
        method = _adapter_spec(spec)
        found = []
        size = bottleneck_size(method, shape.hidden)
        if size > shape.hidden:
            found.append(f"method.bottleneck {size} is wider than the model's hidden size: use at most {shape.hidden}.")
        if size < 1:
            found.append(
                f"method.reduction_factor {method.reduction_factor} leaves nothing of the hidden size: use at most {shape.hidden}."
            )
        if not adapter_places(_linears(shape), shape.hidden, method.placement):
            found.append(f"This model has no block where a {method.placement} adapter goes: choose another placement, or LoRA.")
        return found

    def advice(self, spec: RunSpec) -> list[str]:
        return []

    def added_parameters(self, method: AdapterSpec, shape: ModelShape) -> int:
        places = adapter_places(_linears(shape), shape.hidden, method.placement)
        return shape.layers * len(places) * adapter_parameters(shape.hidden, bottleneck_size(method, shape.hidden))

    def describe(self, method: AdapterSpec, shape: ModelShape) -> MethodCard:
        size = bottleneck_size(method, shape.hidden)
        shapes = f"down {size} × {shape.hidden}, up {shape.hidden} × {size}, both with biases"
        count = adapter_parameters(shape.hidden, size)
        places = adapter_places(_linears(shape), shape.hidden, method.placement)
        texts = {
            "formula": f"{'mlp(x)' if method.placement == 'parallel' else 'h'} + up({method.activation}(down("
            f"{'x' if method.placement == 'parallel' else 'h'})))",
            "added": f"A two-layer network with a narrow middle, {WHERE[method.placement]}, added to what the layer gives.",
            "good_for": "Many tasks over time: one small adapter each, switched or stacked on one base.",
            "architecture_change": "An extra block in every layer.",
            "merges": "Does not merge: a little more time per token.",
            "source": "Houlsby et al. 2019, arXiv 1902.00751; Pfeiffer et al. 2020, arXiv 2005.00247; He et al. 2021, arXiv 2110.04366",
        }
        return make_card(self, shape, (MethodPart(place, shapes, count) for place in places), shape.layers, texts)

    def attach(
        self, model: PreTrainedModel, spec: RunSpec, tokenizer: PreTrainedTokenizerBase, batches: Batches | None = None
    ) -> PeftModel:
        from peft import get_peft_model

        from studio.methods.bottleneck_tuner import BottleneckConfig

        method = _adapter_spec(spec)
        frozen_base.prepare_base(model, spec.quantization)
        hidden = model.config.get_text_config().hidden_size
        size = bottleneck_size(method, hidden)
        if not 1 <= size <= hidden:
            raise MethodError(f"A bottleneck of {size} does not fit the hidden size {hidden}.", f"Use 1 to {hidden}.")
        places = adapter_places(_linears_of_model(model), hidden, method.placement)
        if not places:
            raise MethodError(f"This model has no block where a {method.placement} adapter goes.", "Choose another placement, or LoRA.")
        config = BottleneckConfig(
            task_type="CAUSAL_LM",
            target_modules=places,
            bottleneck=size,
            placement=method.placement,
            activation=method.activation,
            dropout=method.dropout,
        )
        return get_peft_model(model, config)

    def parameter_groups(self, model: PeftModel, spec: RunSpec) -> list[dict[str, Any]]:
        return plain_groups(model, spec)

    def save(self, model: PeftModel, folder: Path, spec: RunSpec) -> None:
        saving.write_adapter(model, folder, spec)


def _adapter_spec(spec: RunSpec) -> AdapterSpec:
    if not isinstance(spec.method, AdapterSpec):
        raise MethodError(f"These are settings of {spec.method.family}, not of an adapter.")
    return spec.method


def bottleneck_size(method: AdapterSpec, hidden: int) -> int:
    """Width between down and up."""
    return hidden // method.reduction_factor if method.reduction_factor else method.bottleneck


def adapter_parameters(hidden: int, bottleneck: int) -> int:
    """Two weights and two biases."""
    return 2 * hidden * bottleneck + bottleneck + hidden


def _linears(shape: ModelShape) -> list[tuple[str, int]]:
    return [(linear.name, linear.out_features) for linear in shape.linears]


def _linears_of_model(model: nn.Module) -> list[tuple[str, int]]:
    """(name inside its layer, output width) of the linear layers, in the order they are defined in."""
    found: dict[str, int] = {}
    for name, module in frozen_base.layer_linears(model).items():
        parts = name.split(".")
        start = next(index for index, part in enumerate(parts) if part.isdigit()) + 1
        found.setdefault(".".join(parts[start:]), frozen_base.widths(module)[1])
    return list(found.items())


def adapter_places(linears: Iterable[tuple[str, int]], hidden: int, placement: str) -> list[str]:
    """Endings of the names of the modules to wrap; empty where the model lacks one. A block ends in its last linear of hidden width."""
    back = [name for name, width in linears if width == hidden]
    attention = next((name for name in reversed(back) if is_attention(name)), "")
    mlp = next((name for name in reversed(back) if not is_attention(name)), "")
    if placement == "parallel":
        mlp = mlp.rpartition(".")[0]
    wanted = [attention, mlp] if placement == "houlsby" else [mlp]
    return wanted if all(wanted) else []


register(BottleneckMethod())
