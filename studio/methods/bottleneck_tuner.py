"""The bottleneck adapter as a PEFT tuner: PeftModel attaches, saves, loads, disables, switches and stacks it like any other.

Imported by child processes only (it needs torch); importing it registers the type BOTTLENECK with PEFT, which has none of its own.
PEFT's list of types is an enum, closed by intent, so the member is added by hand; studio.methods.bottleneck holds the mathematics.

A module of the base is wrapped. With h its output and x its input,

    after:    h + up(act(down(h)))      wrapped is the last linear layer of the attention block or of the MLP
    beside:   h + up(act(down(x)))      wrapped is the MLP itself

`up` starts at zero, so a new adapter changes nothing, exactly. Several active adapters are applied in the order of the active list,
each to the output of the one before. What is wrapped may be plain, int8 or 4-bit: only its output is touched. The change is not
linear, so it cannot be merged into the base, and an adapter folder loads only where this module has been imported. Batches that mix
adapters (`adapter_names`) are refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from peft import PeftConfig
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from peft.utils import PeftType, register_peft_method
from torch import nn
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

TYPE_NAME = "BOTTLENECK"

NO_MERGE = (
    "A bottleneck adapter has a nonlinearity between two layers, so it cannot be merged into the base's weights: keep it beside the base."
)

ACTIVATIONS = {"relu": functional.relu, "gelu": functional.gelu, "silu": functional.silu, "tanh": torch.tanh}


def _add_peft_type(name: str) -> None:
    """Make `PeftType.<name>` a member like the others."""
    if name in PeftType.__members__:
        return
    member = str.__new__(PeftType, name)
    member._name_ = name
    member._value_ = name
    member._sort_order_ = len(PeftType.__members__)
    member.__objclass__ = PeftType
    # Up to Python 3.11 the enum's lookup by attribute reads the map; from 3.12 on the class attribute itself is read.
    type.__setattr__(PeftType, name, member)
    PeftType._member_names_.append(name)
    PeftType._member_map_[name] = member
    PeftType._value2member_map_[name] = member


_add_peft_type(TYPE_NAME)


@dataclass
class BottleneckConfig(PeftConfig):
    """The adapter_config.json of a bottleneck adapter."""

    target_modules: list[str] | None = field(default=None, metadata={"help": "Endings of the names of the modules that are wrapped."})
    bottleneck: int = field(default=64, metadata={"help": "Width between down and up."})
    placement: str = field(default="pfeiffer", metadata={"help": "houlsby or pfeiffer: after the wrapped module; parallel: beside it."})
    activation: str = field(default="relu", metadata={"help": "relu, gelu, silu or tanh."})
    dropout: float = field(default=0.0, metadata={"help": "Share of bottleneck activations dropped in training."})
    init_weights: bool = field(default=True, metadata={"help": "Whether up starts at zero, so that nothing changes at first."})

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = getattr(PeftType, TYPE_NAME)
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"The activation {self.activation!r} is none of {', '.join(ACTIVATIONS)}.")


class BottleneckLayer(nn.Module, BaseTunerLayer):
    """A wrapped module of the base with any number of bottleneck adapters on it."""

    adapter_layer_names = ("bottleneck_down", "bottleneck_up")
    other_param_names = ("bottleneck_settings",)

    def __init__(self, base_layer: nn.Module) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.bottleneck_down = nn.ModuleDict()
        self.bottleneck_up = nn.ModuleDict()
        self.bottleneck_settings: dict[str, BottleneckConfig] = {}
        self._disable_adapters = False
        self.merged_adapters: list[str] = []

    def add_bottleneck(self, name: str, config: BottleneckConfig) -> None:
        """Add an adapter in fp32 on the wrapped module's device."""
        wide = width_of(self.get_base_layer())
        place = {"dtype": torch.float32, "device": next(self.get_base_layer().parameters()).device}
        self.bottleneck_down[name] = nn.Linear(wide, config.bottleneck, **place)
        self.bottleneck_up[name] = nn.Linear(config.bottleneck, wide, **place)
        self.bottleneck_settings[name] = config
        nn.init.zeros_(self.bottleneck_down[name].bias)
        if config.init_weights:
            nn.init.zeros_(self.bottleneck_up[name].weight)
            nn.init.zeros_(self.bottleneck_up[name].bias)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """(batch, length, in) -> (batch, length, hidden), in the wrapped module's dtype."""
        h = self.base_layer(x, *args, **kwargs)
        if self.disable_adapters:
            return h
        for name in self.active_adapters:
            if name in self.bottleneck_down:
                beside = self.bottleneck_settings[name].placement == "parallel"
                h = h + self._change(name, x if beside else h).to(h.dtype)
        return h

    def _change(self, name: str, source: torch.Tensor) -> torch.Tensor:
        """up(act(down(source))): in fp32, or in autocast's dtype where autocast is on."""
        settings = self.bottleneck_settings[name]
        down, up = self.bottleneck_down[name], self.bottleneck_up[name]
        if not torch.is_autocast_enabled(source.device.type):
            source = source.to(down.weight.dtype)
        inner = ACTIVATIONS[settings.activation](down(source))
        inner = functional.dropout(inner, settings.dropout, self.training)
        return up(inner)

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        raise NotImplementedError(NO_MERGE)

    def unmerge(self) -> None:
        raise NotImplementedError(NO_MERGE)

    def __repr__(self) -> str:
        return f"bottleneck.{super().__repr__()}"


class BottleneckModel(BaseTuner):
    """PEFT's tuner for bottleneck adapters."""

    prefix = "bottleneck_"
    tuner_layer_cls = BottleneckLayer
    target_module_mapping: dict[str, list[str]] = {}  # noqa: RUF012 - PEFT's own attribute

    def _create_and_replace(
        self,
        peft_config: BottleneckConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        if isinstance(target, BottleneckLayer):
            target.add_bottleneck(adapter_name, peft_config)
            return
        layer = BottleneckLayer(target)
        layer.set_adapter(self.active_adapters)
        layer.add_bottleneck(adapter_name, peft_config)
        if adapter_name not in self.active_adapters:
            layer.requires_grad_(False)
        setattr(parent, target_name, layer)

    @contextmanager
    def _enable_peft_forward_hooks(self, *args: Any, **kwargs: Any) -> Iterator[None]:
        """PEFT asks here before each forward: the place to refuse what would else be ignored without a word."""
        if kwargs.get("adapter_names") is not None:
            raise ValueError("Bottleneck adapters cannot be mixed within a batch: run one pass per adapter.")
        yield

    def _unload_and_optionally_merge(self, merge: bool = True, **kwargs: Any) -> nn.Module:
        if merge:
            raise NotImplementedError(NO_MERGE)
        return super()._unload_and_optionally_merge(merge=False, **kwargs)


def width_of(module: nn.Module) -> int:
    """Output width of a linear layer, or of the last linear layer inside a block."""
    linears = [part for part in module.modules() if isinstance(part, (nn.Linear, Conv1D))]
    if not linears:
        raise ValueError(f"{type(module).__name__} holds no linear layer to put an adapter on.")
    last = linears[-1]
    return last.nf if isinstance(last, Conv1D) else last.out_features


register_peft_method(name=TYPE_NAME.lower(), config_cls=BottleneckConfig, model_cls=BottleneckModel)
