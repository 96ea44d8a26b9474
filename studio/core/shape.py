"""The shape of a decoder-only transformer: all that a plan, a parameter count or a method's check needs to know of a model.

Built from a config alone by studio.models.shape; nothing here reads a file or a weight.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class LinearShape:
    """One linear layer that every transformer layer has. `name` is its path inside the layer: 'self_attn.q_proj'."""

    name: str
    in_features: int
    out_features: int
    bias: bool = False

    @property
    def weights(self) -> int:
        return self.in_features * self.out_features

    @property
    def short_name(self) -> str:
        """'q_proj' of 'self_attn.q_proj'."""
        return self.name.rsplit(".", 1)[-1]

    @property
    def is_attention(self) -> bool:
        return "attn" in self.name


@dataclass(frozen=True)
class ModelShape:
    """Widths and counts of one model; every layer is alike."""

    model_type: str
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    context: int
    tied_embeddings: bool
    linears: tuple[LinearShape, ...]
    parameters: int
    """All parameters, tied ones once."""

    @property
    def linear_weights(self) -> int:
        """Weights in the layers' linear modules: what quantization holds in few bits. Embeddings and LM head stay as they are."""
        return self.layers * sum(linear.weights for linear in self.linears)

    @property
    def kv_width(self) -> int:
        return self.kv_heads * self.head_dim
