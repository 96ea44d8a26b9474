"""A merged Llama model as one GGUF file for llama.cpp and its kin, written with the format's own library and read back to check it.

Covers LlamaForCausalLM with a byte-level BPE tokenizer (SmolLM2, Llama 3), in f32, f16 or bf16. Two things a reader must know of the
format: q and k are stored with the two halves of every head interleaved, since llama.cpp rotates neighbouring pairs where
transformers rotates halves; and Llama 3's stretched rotary frequencies are a tensor of divisors, `rope_freqs.weight`. Not covered:
other architectures, sentencepiece tokenizers, quantized types; llama.cpp's own converter takes the merged folder for those.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from studio.core.errors import RunError
from studio.export.source import ExportSource, new_file

if TYPE_CHECKING:
    import numpy

Precision = Literal["f32", "f16", "bf16"]

ELSEWHERE = "Export the merged model instead; llama.cpp's convert_hf_to_gguf.py takes that folder."

LAYER_TENSORS = {
    "input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "post_attention_layernorm": "ffn_norm", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}  # fmt: skip

# How a tokenizer splits text before BPE, recognised by its own rules -> llama.cpp's name for them.
SPLITS = (("{1,3}| ?[^", "llama-bpe"), ("\\p{N}| ?[^", "qwen2"))


def write_gguf(source: ExportSource, target: Path, precision: Precision = "f16") -> Path:
    """Merge, write, read back, compare. Raises RunError for a model the format's writer here does not cover."""
    from studio.export.merge import merge_run

    model, tokenizer, _ = merge_run(source)
    check_covered(model, tokenizer)
    with new_file(target) as part:
        write_model(model, tokenizer, part, source.name, precision)
        check_written(model, part, precision)
    return target


def check_covered(model: Any, tokenizer: Any) -> None:
    """Raises RunError, saying what is not covered and what to do instead."""
    kind = type(model).__name__
    if kind != "LlamaForCausalLM":
        raise RunError(f"GGUF export covers Llama models, and this is a {kind}.", ELSEWHERE)
    if getattr(model.config, "attention_bias", False) or getattr(model.config, "mlp_bias", False):
        raise RunError("GGUF export does not cover Llama models with biases.", ELSEWHERE)
    if rope_type(model.config) not in ("default", "llama3"):
        raise RunError(f"GGUF export does not cover rotary positions of type {rope_type(model.config)}.", ELSEWHERE)
    _split_name(tokenizer)


def rope_type(config: Any) -> str:
    return str((getattr(config, "rope_parameters", None) or {}).get("rope_type", "default"))


def _rope_theta(config: Any) -> float:
    return float((getattr(config, "rope_parameters", None) or {}).get("rope_theta", 10_000.0))


def _head_dim(config: Any) -> int:
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def write_model(model: Any, tokenizer: Any, path: Path, name: str, precision: Precision = "f16") -> None:
    """The whole file: settings, tokenizer, tensors."""
    import gguf

    writer = gguf.GGUFWriter(path, "llama")
    try:
        _add_settings(writer, model.config, name, precision)
        add_tokenizer(writer, tokenizer, model.config.vocab_size)
        for tensor_name, values in gguf_tensors(model):
            data, kind = _encode(values, precision)
            writer.add_tensor(tensor_name, data, raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()


def _add_settings(writer: Any, config: Any, name: str, precision: Precision) -> None:
    import gguf

    types = {"f32": gguf.LlamaFileType.ALL_F32, "f16": gguf.LlamaFileType.MOSTLY_F16, "bf16": gguf.LlamaFileType.MOSTLY_BF16}
    writer.add_name(name)
    writer.add_file_type(types[precision])
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(_head_dim(config))
    writer.add_value_length(_head_dim(config))
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(_rope_theta(config))
    writer.add_rope_dimension_count(_head_dim(config))


def gguf_tensors(model: Any) -> list[tuple[str, numpy.ndarray]]:
    """(name in the format, fp32 values) of every tensor, q and k interleaved."""
    config, found = model.config, []
    state = {name: tensor.detach().float().cpu().numpy() for name, tensor in model.state_dict().items()}
    found.append(("token_embd.weight", state["model.embed_tokens.weight"]))
    for layer in range(config.num_hidden_layers):
        for ours, theirs in LAYER_TENSORS.items():
            values = state[f"model.layers.{layer}.{ours}.weight"]
            if theirs in ("attn_q", "attn_k"):
                values = interleave(values, config.num_attention_heads if theirs == "attn_q" else config.num_key_value_heads)
            found.append((f"blk.{layer}.{theirs}.weight", values))
    found.append(("output_norm.weight", state["model.norm.weight"]))
    if not config.tie_word_embeddings:
        found.append(("output.weight", state["lm_head.weight"]))
    if rope_type(config) == "llama3":
        found.append(("rope_freqs.weight", rope_divisors(config)))
    return found


def interleave(weight: numpy.ndarray, heads: int) -> numpy.ndarray:
    """(heads * d, in): within each head row i of the first half is followed by row i of the second."""
    rows, columns = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def rope_divisors(config: Any) -> numpy.ndarray:
    """Llama 3's scaling as what each rotary frequency is divided by, (head_dim / 2,): 1 for short waves, `factor` for long ones, and
    between them a blend of the frequencies, linear in (context / wavelength)."""
    import numpy as np

    rope, width = config.rope_parameters, _head_dim(config)
    factor, low, high = (float(rope[name]) for name in ("factor", "low_freq_factor", "high_freq_factor"))
    context = float(rope["original_max_position_embeddings"])
    divisors = []
    for i in range(0, width, 2):
        wavelength = 2 * math.pi * _rope_theta(config) ** (i / width)
        share = min(1.0, max(0.0, (context / wavelength - low) / (high - low)))
        divisors.append(1.0 / ((1.0 - share) / factor + share))
    return np.array(divisors, dtype=np.float32)


def _encode(values: numpy.ndarray, precision: Precision) -> tuple[numpy.ndarray, Any]:
    """Bytes as the format holds them, and their type. Norms and other vectors stay fp32, as llama.cpp wants them."""
    import gguf
    import numpy as np

    if values.ndim == 1 or precision == "f32":
        return np.ascontiguousarray(values, dtype=np.float32), gguf.GGMLQuantizationType.F32
    if precision == "f16":
        return np.ascontiguousarray(values, dtype=np.float16), gguf.GGMLQuantizationType.F16
    kind = gguf.GGMLQuantizationType.BF16
    return gguf.quants.quantize(np.ascontiguousarray(values, dtype=np.float32), kind), kind


def add_tokenizer(writer: Any, tokenizer: Any, vocab_size: int) -> None:
    """Tokens, their kinds, merges, special ids and chat template."""
    import gguf

    model = json.loads(tokenizer.backend_tokenizer.to_str())
    by_id = {index: token for token, index in tokenizer.get_vocab().items()}
    added = {item["id"]: item for item in model.get("added_tokens", [])}
    tokens, kinds = [], []
    for index in range(vocab_size):
        unused = index not in by_id
        special = index in added and added[index]["special"]
        tokens.append(by_id.get(index, f"[PAD{index}]"))
        kinds.append(
            gguf.TokenType.UNUSED if unused else gguf.TokenType.CONTROL if special
            else gguf.TokenType.USER_DEFINED if index in added else gguf.TokenType.NORMAL
        )  # fmt: skip
    merges = [item if isinstance(item, str) else " ".join(item) for item in model["model"]["merges"]]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(_split_name(tokenizer))
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges(merges)
    for name in ("bos", "eos", "unk", "pad"):
        index = getattr(tokenizer, f"{name}_token_id")
        if index is not None:
            getattr(writer, f"add_{name}_token_id")(index)
    writer.add_add_bos_token(bool(tokenizer("a").input_ids[:1] == [tokenizer.bos_token_id]))
    if isinstance(tokenizer.chat_template, str):
        writer.add_chat_template(tokenizer.chat_template)


def _split_name(tokenizer: Any) -> str:
    """llama.cpp's name for the way this tokenizer splits text. Raises RunError for a kind that is not known here."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    model = json.loads(backend.to_str()) if backend is not None else {}
    splitter = json.dumps(model.get("pre_tokenizer"), ensure_ascii=False)
    if (model.get("model") or {}).get("type") != "BPE" or "ByteLevel" not in splitter:
        raise RunError("GGUF export covers byte-level BPE tokenizers, and this model has another kind.", ELSEWHERE)
    patterns = splitter.replace("\\\\", "\\")
    for sign, name in SPLITS:
        if sign in patterns:
            return name
    if '"individual_digits": true' in splitter:
        return "smollm"
    if "Split" in splitter:
        raise RunError("GGUF export does not know how this model's tokenizer splits text.", ELSEWHERE)
    return "gpt-2"


def read_gguf(path: Path) -> Any:
    """The model in the file as transformers reads it, in fp32."""
    import torch
    import transformers

    options: dict[str, Any] = {"gguf_file": path.name, "dtype": torch.float32}
    if hasattr(transformers, "GgufConfig"):  # newer releases keep the weights packed unless asked not to
        options["quantization_config"] = transformers.GgufConfig(dequantize=True)
    with contextlib.redirect_stderr(io.StringIO()):  # its progress bar cannot be turned off
        return transformers.AutoModelForCausalLM.from_pretrained(path.parent, **options)


def check_written(model: Any, path: Path, precision: Precision) -> None:
    """Every tensor read back is the model's, rounded to the file's type. Raises RunError where one is not."""
    import torch

    kind = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}[precision]
    written = read_gguf(path).state_dict()
    for name, tensor in model.state_dict().items():
        expected = tensor.detach().float().cpu()
        expected = expected if expected.ndim == 1 else expected.to(kind).float()
        if name not in written or not torch.equal(written[name].float(), expected):
            raise RunError(
                f"The GGUF file read back differs from the model at {name}.", "Export the merged model instead, and report this."
            )
