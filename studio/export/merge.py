"""The adapter folded into the base: an ordinary model whose logits are the adapted model's.

W' = W + s B A is added up in fp32 and rounded once, when the model is saved. Over a quantized base there are two honest W: the
weights the adapter was trained over, dequantized (`as_trained`: the merged model answers as the adapted one did), or the original
16-bit ones (`original`: a little better or worse, for the adapter has also learned to make up for the rounding). Merging into 4-bit
codes and rounding again would be neither, and is not offered. Needs the whole base in fp32: 4 bytes a parameter.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from studio.core.files import write_atomic
from studio.export.card import model_card
from studio.export.source import ExportSource, new_folder, require_mergeable

if TYPE_CHECKING:
    from torch import nn

Weights = Literal["as_trained", "original"]


def merge_run(source: ExportSource, weights: Weights = "as_trained") -> tuple[Any, Any, Any]:
    """(model in fp32 on the CPU or the run's device, tokenizer, dtype to save in). Raises RunError, MethodError, ModelError."""
    import torch

    from studio.methods.adapters import load_adapter
    from studio.models.load import choose_dtype, load_base

    require_mergeable(source)
    spec = source.spec
    saved_in = choose_dtype(spec.model, "cpu")
    if spec.quantization == "none" or weights == "original":
        plain = {"quantization": "none", "dtype": "float32"}
        data = spec.to_json()
        # Loading asks only for the model; qlora insists on a quantized base, so the method is named lora here.
        base = load_base(type(spec).parse({**data, "model": {**data["model"], **plain}, "method": {"family": "lora"}}), source.home)
        if saved_in != torch.float32:
            _round_to(base.model, saved_in)
    else:
        base = load_base(spec, source.home)
        dequantize(base.model)
    model = load_adapter(base.model, source.adapter, "default").merge_and_unload(safe_merge=True)
    return model, base.tokenizer, saved_in


def _round_to(model: nn.Module, dtype: Any) -> None:
    """The adapter was trained over weights in `dtype`: hold exactly those, in fp32."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype).float()


def dequantize(model: nn.Module) -> int:
    """Replace every 4-bit and int8 linear layer by a plain one with the weights it computes with, all in fp32; how many there were."""
    import torch
    from peft.utils.integrations import dequantize_module_weight

    quantized = [(name, m) for name, m in model.named_modules() if type(m).__name__ in ("Linear4bit", "Linear8bitLt")]
    for name, module in quantized:
        weight = dequantize_module_weight(module).detach().float()
        plain = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=module.bias is not None, device=weight.device, dtype=torch.float32)
        plain.weight.data = weight
        if module.bias is not None:
            plain.bias.data = module.bias.detach().float()
        model.set_submodule(name, plain)
    _forget_quantization(model)
    model.float()
    return len(quantized)


def _forget_quantization(model: nn.Module) -> None:
    """transformers refuses to cast or to save a model as plain while it remembers having loaded a quantized one."""
    marks: dict[str, Any] = {
        "is_quantized": False, "is_loaded_in_4bit": False, "is_loaded_in_8bit": False, "hf_quantizer": None, "quantization_method": None,
    }  # fmt: skip
    for name, value in marks.items():
        if hasattr(model, name):
            setattr(model, name, value)
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config  # type: ignore[union-attr, operator]


def save_merged(source: ExportSource, target: Path, weights: Weights = "as_trained") -> Path:
    """The merged model as a folder of safetensors with tokenizer and model card. Raises RunError, DiskFull, OutOfMemory."""
    require_mergeable(source)
    model, tokenizer, dtype = merge_run(source, weights)
    with new_folder(target) as part:
        model.to(dtype).save_pretrained(part)
        tokenizer.save_pretrained(part)
        write_atomic(part / "README.md", model_card(source, "merged"))
    return target
