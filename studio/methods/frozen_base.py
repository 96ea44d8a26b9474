"""The frozen base under an adapter: is it held as the spec says, and is it safe to train over? Needs torch only when called.

Three silent faults are closed here. A base loaded without the asked quantization trains all the same, in four times the memory. And on
CPUs with AVX512-BF16, bitsandbytes repacks a 4-bit layer in place on its first forward pass without gradients; training after that
loses the gradient through the base (measured: loss 3.72 in place of 2.34 after 40 steps, no warning). `support_avx512bf16_for_cpu`
on each layer decides, so it is turned off before anything runs. And on a CPU bitsandbytes 0.50 reads 4-bit weights wrongly whose rows
end inside a block of 64 (measured on normal weights, 96 wide: relative error 0.26 where NF4 has 0.09), so those are refused there.

Norms and embeddings stay in the base's dtype. peft's prepare_model_for_kbit_training would turn every 16-bit parameter that is not
quantized into fp32, on a small model mostly the embedding: memory for nothing, since the norms compute in fp32 anyway.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from studio.core.errors import MethodError

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

BLOCK = 64
"""Weights that share one absmax in a 4-bit layer, as bitsandbytes and the studio load them."""


def prepare_base(model: PreTrainedModel, quantization: str) -> None:
    """Freeze `model` and check that its linear layers are held as `quantization` (none, int8, nf4, fp4) says. Raises MethodError."""
    model.requires_grad_(False)
    found = {held_as(module) for module in layer_linears(model).values()}
    if found != {quantization}:
        shown = ", ".join(sorted(found)) or "no linear layer at all"
        raise MethodError(
            f"The base should be held as {quantization}, but its linear layers are {shown}.",
            "Load the base again with the run's own settings: studio.models.load does.",
        )
    keep_unpacked(model)
    _refuse_misread(model)


def _refuse_misread(model: nn.Module) -> None:
    for name, module in model.named_modules():
        if type(module).__name__ == "Linear4bit" and module.weight.device.type == "cpu" and module.in_features % BLOCK:
            raise MethodError(
                f"{name} is {module.in_features} wide, no multiple of {BLOCK}: on a CPU bitsandbytes reads such 4-bit weights wrongly.",
                "Set model.quantization to none or int8, or run on a CUDA device.",
            )


def held_as(module: nn.Module) -> str:
    """How a linear layer's weights are held: none, int8, nf4 or fp4."""
    kind = type(module).__name__
    if kind == "Linear4bit":
        return str(getattr(module.weight, "quant_type", "nf4"))
    return "int8" if kind == "Linear8bitLt" else "none"


def layer_linears(model: nn.Module) -> dict[str, nn.Module]:
    """Name -> linear module inside the model's layers, adapters' own left out: what LoRA can adapt. The LM head is none of them."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    found: dict[str, Any] = {}
    for name, module in model.named_modules():
        inside = any(part.isdigit() for part in name.split("."))
        if inside and isinstance(module, (nn.Linear, Conv1D)):
            found[name] = module
    return found


def widths(module: nn.Module) -> tuple[int, int]:
    """(in, out) of a linear layer, quantized or not; transformers' Conv1D keeps its weight as (in, out)."""
    if hasattr(module, "in_features"):
        return int(module.in_features), int(module.out_features)
    return int(module.weight.shape[0]), int(module.weight.shape[1])


def keep_unpacked(model: nn.Module) -> None:
    """Forbid the in-place repacking of 4-bit weights on CPU. Raises MethodError where it has already happened."""
    for name, module in model.named_modules():
        if type(module).__name__ != "Linear4bit":
            continue
        if getattr(getattr(module.weight, "quant_state", None), "packing_format_for_cpu", False):
            raise MethodError(
                f"The 4-bit weights of {name} were repacked for inference; training over them would lose gradients without a word.",
                "Load the base again before training.",
            )
        module.support_avx512bf16_for_cpu = False
