"""QLoRA: LoRA over a frozen base held in 4 bits (arXiv 2305.14314, equation 5).

    y = dequant(W_4bit) x + s B A x

The base's linear weights are NF4 (or FP4) codes of 4 bits in blocks of 64 with one absmax each; with double quantization the absmax
values are 8-bit codes themselves: 4.127 bits per weight in place of 16. Each forward and backward pass dequantizes a layer to the
compute dtype, uses it and drops it. Gradients reach A and B through the dequantized weights; the codes never change.

A and B are fp32. Norms and embeddings keep the base's dtype (studio.methods.frozen_base says why), and the LM head is not quantized.
Merging into the 4-bit base would quantize again; merge into the base's 16-bit weights instead.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from studio.core.errors import MethodError
from studio.core.shape import ModelShape
from studio.core.spec import RunSpec
from studio.methods.base import Batches, register
from studio.methods.lora import CARD_TEXTS, LoraMethod

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class QLoraMethod(LoraMethod):
    """LoRA, with the promise that the base is really held in 4 bits."""

    family = "qlora"
    title = "QLoRA"
    sentence = "LoRA on a base whose linear layers are held in 4 bits: about a quarter of their memory."
    texts = CARD_TEXTS | {
        "formula": "y = (dequant(W in 4 bits) + (α / r) · B A) x",
        "added": "The same two thin matrices as LoRA; the frozen weights beside them are 4-bit codes.",
        "good_for": "A model that does not fit otherwise; slower per step, since weights are dequantized on the way.",
        "merges": "Merges into the base's 16-bit weights; into the 4-bit ones only with new rounding.",
        "source": "Dettmers et al. 2023, arXiv 2305.14314",
    }

    def problems(self, spec: RunSpec, shape: ModelShape) -> list[str]:
        found = super().problems(spec, shape)
        if spec.quantization not in ("nf4", "fp4"):
            found.append("QLoRA needs a 4-bit base: set model.quantization to nf4 or fp4, or choose LoRA.")
        return found

    def attach(
        self, model: PreTrainedModel, spec: RunSpec, tokenizer: PreTrainedTokenizerBase, batches: Batches | None = None
    ) -> PeftModel:
        if spec.quantization not in ("nf4", "fp4"):
            raise MethodError(
                f"QLoRA needs a 4-bit base, not {spec.quantization}.", "Set model.quantization to nf4 or fp4, or choose LoRA."
            )
        return super().attach(model, spec, tokenizer, batches)


register(QLoraMethod())
