"""LoRA's linear layer in one autograd step: y = x W^T + s (x A^T) B^T, the same numbers with half the passes over memory.

PEFT's layer casts its input to the adapter's fp32, autocast casts it back, and scaling and sum are passes of their own; autograd keeps
an intermediate of each. Here the low-rank product is added within a matrix product, and only x and x A^T are kept. With respect to a
frozen W the gradients are (dy: gradient of y)

    dx = dy W + s (dy B) A,   dA = s (dy B)^T x,   dB = s dy^T (x A^T)

A and B stay fp32 and get fp32 gradients; products run in the base's dtype, as under autocast. A layer this does not cover (dropout,
DoRA, several adapters, merged, quantized, another input dtype) runs PEFT's own code, decided at every call.
"""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor, nn

ADAPTER = "default"


def fuse_lora(model: nn.Module) -> int:
    """Let every plain LoRA layer of `model` compute its adapter 'default' in one step; gives how many there are."""
    layers = [module for module in model.modules() if type(module) is LoraLinear and is_plain(module)]
    for layer in layers:
        layer.forward = MethodType(_forward, layer)  # type: ignore[method-assign]
    return len(layers)


def is_plain(layer: LoraLinear) -> bool:
    """Nothing but W, A, B and a scale: no dropout, no DoRA or other variant, no bias on B, W a frozen nn.Linear."""
    base = layer.get_base_layer()
    return (
        type(base) is nn.Linear
        and not base.weight.requires_grad
        and ADAPTER in layer.lora_A
        and isinstance(layer.lora_dropout[ADAPTER], nn.Identity)
        and ADAPTER not in layer.lora_variant
        and layer.lora_B[ADAPTER].bias is None
    )


def _forward(layer: LoraLinear, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    base = layer.base_layer
    alone = layer.active_adapters == [ADAPTER] and not layer.disable_adapters and not layer.merged
    if not alone or args or kwargs or x.dtype != base.weight.dtype:
        return LoraLinear.forward(layer, x, *args, **kwargs)
    down, up = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight
    return _LoraProduct.apply(x, base.weight, base.bias, down, up, layer.scaling[ADAPTER])


class _LoraProduct(torch.autograd.Function):
    """x (..., in), W (out, in), bias (out) or None, A (r, in), B (out, r), s -> (..., out)."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        x, weight, bias, down, up, scale = inputs
        down, up = down.to(x.dtype), up.to(x.dtype)
        rows = x.reshape(-1, x.shape[-1])
        low = rows @ down.t()
        y = rows @ weight.t() if bias is None else torch.addmm(bias, rows, weight.t())
        y.addmm_(low, up.t(), alpha=scale)
        ctx.save_for_backward(rows, low, weight, down, up)
        ctx.scale, ctx.shape = scale, x.shape
        return y.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, None, None, Tensor, Tensor, None]:  # type: ignore[override]
        rows, low, weight, down, up = ctx.saved_tensors
        slope = upstream.reshape(-1, upstream.shape[-1])
        slope_low = slope @ up
        down_gradient = (slope_low.t() @ rows).float().mul_(ctx.scale)
        up_gradient = (slope.t() @ low).float().mul_(ctx.scale)
        x_gradient = None
        if ctx.needs_input_grad[0]:
            x_gradient = (slope @ weight).addmm_(slope_low, down, alpha=ctx.scale).view(ctx.shape)
        return x_gradient, None, None, down_gradient, up_gradient, None
