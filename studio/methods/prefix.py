"""Prefix-Tuning: learned keys and values before the first token, in every layer (arXiv 2101.00190, section 4).

    Attention(Q, [P_k; K], [P_v; V])

Only P_k and P_v are trained: layers * 2 * key-value width * tokens parameters. With grouped-query attention the prefix is as narrow as
the keys and values: 16 * 2 * 512 * 16 = 262,144 for Llama-3.2-1B and 16 tokens. No weight of the base is touched.

- Projection (the paper's reparametrisation): the prefix is W2 tanh(W1 e + b1) + b2 of small embeddings e. Far more parameters in training;
  the saved adapter holds the resulting keys and values only.
- Initialisation from real text (the paper's section 7.4): the frozen base reads a text and its keys and values become the prefix, so
  training starts where the text was put before the prompt. A text of fewer tokens is repeated, a longer one cut. Under a projection W2
  is solved by least squares, which meets the keys and values exactly where the projection's width is at least the number of tokens.

Learning rates are higher than LoRA's, about 5e-3: at 1e-3 PEFT's own comparison learns next to nothing. The prefix is a filled cache,
which gradient checkpointing drops when it recomputes a layer, and which packed documents would share: neither goes with it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from studio.core.errors import MethodError
from studio.core.shape import ModelShape
from studio.core.spec import PrefixSpec, RunSpec
from studio.methods import frozen_base, saving
from studio.methods.base import Batches, MethodCard, MethodPart, make_card, plain_groups, register

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

LOW_LEARNING_RATE = 1e-3
"""At or below it a prefix hardly moves."""

TEXTS = {
    "formula": "Attention(Q, [P_k; K], [P_v; V])",
    "added": "Learned keys and values that every token of every layer attends to, as if they stood before the prompt.",
    "good_for": "Steering one model to many tasks, as a prompt does.",
    "architecture_change": "A prefix in attention; no weight changes.",
    "merges": "Does not merge: it takes its tokens' room in the context and the cache.",
    "source": "Li & Liang 2021, arXiv 2101.00190",
}


class PrefixMethod:
    """The prefix family."""

    family = "prefix"
    title = "Prefix-Tuning"
    sentence = "Learns keys and values that stand before every prompt."

    def problems(self, spec: RunSpec, shape: ModelShape) -> list[str]:
        method = _prefix_spec(spec)
        found = []
        if method.virtual_tokens >= shape.context:
            found.append(f"method.virtual_tokens {method.virtual_tokens} fills the model's context of {shape.context}: use far fewer.")
        if method.init == "text" and not method.init_text.strip():
            found.append("method.init_text is empty: give a sentence that describes the task, or set method.init to random.")
        return found

    def advice(self, spec: RunSpec) -> list[str]:
        if spec.learning_rate > LOW_LEARNING_RATE:
            return []
        return [f"A learning rate of {spec.learning_rate:g} hardly moves a prefix: about 5e-3 does."]

    def added_parameters(self, method: PrefixSpec, shape: ModelShape) -> int:
        return sum(count for _, _, count in _layer_free_parts(method, shape))

    def describe(self, method: PrefixSpec, shape: ModelShape) -> MethodCard:
        if method.projection:
            parts = [MethodPart(*part) for part in _layer_free_parts(method, shape)]
            return make_card(self, shape, parts, 1, TEXTS)
        each = method.virtual_tokens * shape.kv_width
        shapes = f"{method.virtual_tokens} × {shape.kv_width}"
        parts = [MethodPart("P_k", shapes, each), MethodPart("P_v", shapes, each)]
        return make_card(self, shape, parts, shape.layers, TEXTS)

    def attach(
        self, model: PreTrainedModel, spec: RunSpec, tokenizer: PreTrainedTokenizerBase, batches: Batches | None = None
    ) -> PeftModel:
        from peft import PrefixTuningConfig, get_peft_model

        method = _prefix_spec(spec)
        on = any(getattr(module, "gradient_checkpointing", False) for module in model.modules())
        if on or spec.training.gradient_checkpointing:
            raise MethodError(
                "Prefix-Tuning cannot run with gradient checkpointing: recomputing a layer loses the prefix's keys and values.",
                "Turn training.gradient_checkpointing off.",
            )
        frozen_base.prepare_base(model, spec.quantization)
        config = PrefixTuningConfig(
            task_type="CAUSAL_LM",
            num_virtual_tokens=method.virtual_tokens,
            prefix_projection=method.projection,
            encoder_hidden_size=method.projection_hidden or model.config.get_text_config().hidden_size,
        )
        states = _text_states(model, tokenizer, method) if method.init == "text" else None
        adapted = get_peft_model(model, config)
        if states is not None:
            _start_from(adapted.prompt_encoder["default"], states)
        return adapted

    def parameter_groups(self, model: PeftModel, spec: RunSpec) -> list[dict[str, Any]]:
        return plain_groups(model, spec)

    def save(self, model: PeftModel, folder: Path, spec: RunSpec) -> None:
        saving.write_adapter(model, folder, spec)


def _prefix_spec(spec: RunSpec) -> PrefixSpec:
    if not isinstance(spec.method, PrefixSpec):
        raise MethodError(f"These are settings of {spec.method.family}, not of a prefix.")
    return spec.method


def _layer_free_parts(method: PrefixSpec, shape: ModelShape) -> list[tuple[str, str, int]]:
    """(name, shapes, parameters) of what is trained, over all layers at once."""
    out = shape.layers * 2 * shape.kv_width
    if not method.projection:
        return [("P_k, P_v of all layers", f"{method.virtual_tokens} × {out}", method.virtual_tokens * out)]
    wide, inner = shape.kv_width, method.projection_hidden or shape.hidden
    return [
        ("embedding", f"{method.virtual_tokens} × {wide}", method.virtual_tokens * wide),
        ("W1, b1", f"{inner} × {wide}, {inner}", inner * wide + inner),
        ("W2, b2", f"{out} × {inner}, {out}", out * inner + out),
    ]


def _text_states(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, method: PrefixSpec) -> torch.Tensor:
    """Keys and values that the frozen base gives for the text: (tokens, layers * 2 * key-value width), fp32, in PEFT's order."""
    import torch

    ids = tokenizer(method.init_text, add_special_tokens=False)["input_ids"]
    if not ids:
        raise MethodError("method.init_text holds no token.", "Give a sentence that describes the task, or set method.init to random.")
    count = method.virtual_tokens
    repeated = (ids * (count // len(ids) + 1))[:count]
    was_training = model.training
    with torch.no_grad():
        cache = model.eval()(input_ids=torch.tensor([repeated], device=model.device), use_cache=True).past_key_values
    model.train(was_training)
    rows = []
    for layer in cache.layers:
        for state in (layer.keys, layer.values):
            if state.shape[2] != count:
                raise MethodError(
                    "This model's attention keeps no full cache, so no text can start a prefix.", "Set method.init to random."
                )
            rows.append(state[0].transpose(0, 1).reshape(count, -1).float())
    return torch.cat(rows, dim=1)


def _start_from(encoder: Any, states: torch.Tensor) -> None:
    """Make a prefix encoder give `states`: exactly without a projection, by least squares with one."""
    import torch

    with torch.no_grad():
        if not encoder.prefix_projection:
            encoder.embedding.weight.copy_(states)
            return
        last = encoder.transform[-1]
        features = encoder.transform[:-1](encoder.embedding.weight).double()
        mean = states.mean(dim=0)
        weight = torch.linalg.pinv(features) @ (states - mean).double()
        last.bias.copy_(mean)
        last.weight.copy_(weight.T)


register(PrefixMethod())
