"""A model's shape from its config alone: widths, linear layers and the exact number of parameters, without torch and without weights.

Knows the decoder families named in ARCHITECTURES, whose layers are all alike; mixtures of experts, encoder-decoders and models that
also see or hear are refused rather than guessed. Each formula follows the published architecture (Llama arXiv 2302.13971, Mistral
2310.06825, Qwen2 2407.10671, Qwen3 2505.09388, Gemma 2403.08295 and 2408.00118, Phi-3 2404.14219, GPT-2, OPT 2205.01068) and is
tested against the model transformers builds from the same config.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from studio.core.catalog import find_model
from studio.core.errors import ModelError, ModelNotFound
from studio.core.files import read_json
from studio.core.paths import ASSETS, StudioHome
from studio.core.shape import LinearShape, ModelShape
from studio.models.gguf import find_gguf, read_header
from studio.models.hub import is_hub_reachable
from studio.models.load_errors import explain_failure


@dataclass(frozen=True)
class _Body:
    """What one architecture adds up to: its linear layers, the other parameters of a layer, and those outside layers and embeddings."""

    linears: tuple[LinearShape, ...]
    layer_rest: int
    outside: int


@dataclass(frozen=True)
class _Widths:
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    context: int

    @property
    def query(self) -> int:
        return self.heads * self.head_dim

    @property
    def key_value(self) -> int:
        return self.kv_heads * self.head_dim


@dataclass(frozen=True)
class _Architecture:
    build: Callable[[_Widths, dict[str, Any]], _Body]
    tied: bool = False
    """Whether LM head and embeddings are one matrix where the config does not say."""
    names: tuple[str, ...] = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "max_position_embeddings")


def shape_from_config(config: dict[str, Any]) -> ModelShape:
    """The shape of the model a transformers config describes. Raises ModelError for an unknown model_type or a missing or bad field."""
    kind = str(config.get("model_type", ""))
    architecture = ARCHITECTURES.get(kind)
    if architecture is None:
        raise ModelError(
            f"The studio cannot plan a model of type {kind or 'unknown'} from its config.",
            f"Those it can: {', '.join(sorted(ARCHITECTURES))}.",
        )
    hidden_name, intermediate_name, layers_name, heads_name, context_name = architecture.names
    hidden, heads, layers = (_positive(config, name) for name in (hidden_name, heads_name, layers_name))
    if config.get("head_dim") is None and hidden % heads:
        raise ModelError(f"The config's {hidden_name} {hidden} is not a multiple of its {heads_name} {heads}.", "Check config.json.")
    widths = _Widths(
        hidden=hidden,
        intermediate=_positive(config, intermediate_name, 4 * hidden if kind == "gpt2" else None),
        heads=heads,
        kv_heads=_positive(config, "num_key_value_heads", heads),
        head_dim=_positive(config, "head_dim", hidden // heads),
        context=_positive(config, context_name),
    )
    body = architecture.build(widths, config)
    tied = bool(config.get("tie_word_embeddings", architecture.tied))
    vocabulary = _positive(config, "vocab_size")
    layer = body.layer_rest + sum(linear.weights + (linear.out_features if linear.bias else 0) for linear in body.linears)
    total = layers * layer + body.outside + vocabulary * hidden * (1 if tied else 2)
    return ModelShape(
        model_type=kind,
        layers=layers,
        hidden=hidden,
        intermediate=widths.intermediate,
        heads=heads,
        kv_heads=widths.kv_heads,
        head_dim=widths.head_dim,
        vocabulary=vocabulary,
        context=widths.context,
        tied_embeddings=tied,
        linears=body.linears,
        parameters=total,
    )


def find_shape(model_id: str, home: StudioHome) -> ModelShape:
    """The shape of a catalog entry, shipped config, local folder, GGUF file or hub model, of which only config.json is fetched.

    Raises ModelNotFound, GatedModel, ModelError.
    """
    return shape_from_config(find_config(model_id, home))


def find_config(model_id: str, home: StudioHome) -> dict[str, Any]:
    """The config behind `find_shape`, in transformers' words."""
    text = model_id.strip()
    path = Path(text).expanduser()
    if text and path.exists():
        return _local_config(path)
    if text.startswith(("/", "./", "../", "~")) or text.lower().endswith(".gguf"):
        raise ModelNotFound(f"There is no model at {text}.", "Check the path; it should be a folder with config.json or a .gguf file.")
    shipped = shipped_configs()
    entry = find_model(text)
    if entry and entry.config.stem in shipped:
        return shipped[entry.config.stem]
    for name, config in shipped.items():
        if text in (name, config.get("_name_or_path")):
            return config
    return _hub_config(text)


def shipped_configs() -> dict[str, dict[str, Any]]:
    """The configs that come with the studio, by name: what a plan needs of well-known models, without a download."""
    found = {path.stem: read_json(path) for path in sorted((ASSETS / "configs").glob("*.json"))}
    return {name: config for name, config in found.items() if config is not None}


def _local_config(path: Path) -> dict[str, Any]:
    gguf = find_gguf(path)
    if gguf:
        return _gguf_config(gguf)
    config = read_json(path / "config.json")
    if config is None:
        raise ModelNotFound(
            f"{path} holds no model: it has no readable config.json.", "Name the folder that holds config.json and the weights."
        )
    return config


def _hub_config(model_id: str) -> dict[str, Any]:
    from huggingface_hub import hf_hub_download

    with explain_failure(model_id):
        config = read_json(Path(hf_hub_download(model_id, "config.json", local_files_only=not is_hub_reachable())))
    if config is None:
        raise ModelError(f"The config of {model_id} is no JSON object.", "Choose another model.")
    return config


def _gguf_config(path: Path) -> dict[str, Any]:
    header = read_header(path)
    kind = header.architecture

    def field(name: str) -> Any:
        return header.metadata.get(f"{kind}.{name}")

    heads = field("attention.head_count")
    config = {
        "model_type": kind,
        "hidden_size": field("embedding_length"),
        "intermediate_size": field("feed_forward_length"),
        "num_hidden_layers": field("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": field("attention.head_count_kv") or heads,
        "head_dim": field("attention.key_length"),
        "max_position_embeddings": field("context_length"),
        "vocab_size": header.metadata.get("tokenizer.ggml.tokens"),
        "tie_word_embeddings": "output.weight" not in header.tensors,
        "attention_bias": kind == "llama" and "blk.0.attn_q.bias" in header.tensors,
    }
    return {name: value for name, value in config.items() if value is not None}


def _positive(config: dict[str, Any], name: str, default: int | None = None) -> int:
    value = config.get(name)
    value = default if value is None else value
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ModelError(f"The model's config has no usable {name} (found {value!r}).", "Check config.json.")
    return value


def _attention(widths: _Widths, bias: bool, output_bias: bool) -> tuple[LinearShape, ...]:
    hidden, query, kv = widths.hidden, widths.query, widths.key_value
    return (
        LinearShape("self_attn.q_proj", hidden, query, bias),
        LinearShape("self_attn.k_proj", hidden, kv, bias),
        LinearShape("self_attn.v_proj", hidden, kv, bias),
        LinearShape("self_attn.o_proj", query, hidden, output_bias),
    )


def _gated_mlp(widths: _Widths, bias: bool = False) -> tuple[LinearShape, ...]:
    return (
        LinearShape("mlp.gate_proj", widths.hidden, widths.intermediate, bias),
        LinearShape("mlp.up_proj", widths.hidden, widths.intermediate, bias),
        LinearShape("mlp.down_proj", widths.intermediate, widths.hidden, bias),
    )


def _llama(norms: int = 2, head_norms: int = 0) -> Callable[[_Widths, dict[str, Any]], _Body]:
    """Rotary attention and a gated MLP; `norms` of the hidden width a layer and, where given, norms of a head's width on q and k."""

    def build(widths: _Widths, config: dict[str, Any]) -> _Body:
        bias = bool(config.get("attention_bias", False))
        linears = _attention(widths, bias, bias) + _gated_mlp(widths, bool(config.get("mlp_bias", False)))
        return _Body(linears, norms * widths.hidden + head_norms * widths.head_dim, widths.hidden)

    return build


def _qwen2(widths: _Widths, config: dict[str, Any]) -> _Body:
    return _Body(_attention(widths, True, False) + _gated_mlp(widths), 2 * widths.hidden, widths.hidden)


def _phi3(widths: _Widths, config: dict[str, Any]) -> _Body:
    hidden = widths.hidden
    linears = (
        LinearShape("self_attn.qkv_proj", hidden, widths.query + 2 * widths.key_value),
        LinearShape("self_attn.o_proj", widths.query, hidden),
        LinearShape("mlp.gate_up_proj", hidden, 2 * widths.intermediate),
        LinearShape("mlp.down_proj", widths.intermediate, hidden),
    )
    return _Body(linears, 2 * hidden, hidden)


def _gpt2(widths: _Widths, config: dict[str, Any]) -> _Body:
    hidden = widths.hidden
    linears = (
        LinearShape("attn.c_attn", hidden, 3 * hidden, True),
        LinearShape("attn.c_proj", hidden, hidden, True),
        LinearShape("mlp.c_fc", hidden, widths.intermediate, True),
        LinearShape("mlp.c_proj", widths.intermediate, hidden, True),
    )
    return _Body(linears, 4 * hidden, 2 * hidden + widths.context * hidden)


def _opt(widths: _Widths, config: dict[str, Any]) -> _Body:
    hidden = widths.hidden
    if config.get("word_embed_proj_dim", hidden) != hidden or not config.get("do_layer_norm_before", True):
        raise ModelError("This OPT projects its embeddings, which the studio does not plan.", "Choose another size of OPT.")
    linears = tuple(LinearShape(f"self_attn.{name}", hidden, hidden, True) for name in ("k_proj", "v_proj", "q_proj", "out_proj"))
    linears += (LinearShape("fc1", hidden, widths.intermediate, True), LinearShape("fc2", widths.intermediate, hidden, True))
    # Two more positions than the context: the embedding's offset.
    return _Body(linears, 4 * hidden, 2 * hidden + (widths.context + 2) * hidden)


ARCHITECTURES: dict[str, _Architecture] = {
    "llama": _Architecture(_llama()),
    "mistral": _Architecture(_llama()),
    "smollm3": _Architecture(_llama(), tied=True),
    "qwen2": _Architecture(_qwen2),
    "qwen3": _Architecture(_llama(head_norms=2)),
    "gemma": _Architecture(_llama(), tied=True),
    "gemma2": _Architecture(_llama(norms=4), tied=True),
    "gemma3_text": _Architecture(_llama(norms=4, head_norms=2), tied=True),
    "phi3": _Architecture(_phi3),
    "gpt2": _Architecture(_gpt2, tied=True, names=("n_embd", "n_inner", "n_layer", "n_head", "n_positions")),
    "opt": _Architecture(
        _opt, tied=True, names=("hidden_size", "ffn_dim", "num_hidden_layers", "num_attention_heads", "max_position_embeddings")
    ),
}
"""Every architecture a plan can be made for, by transformers' model_type."""
