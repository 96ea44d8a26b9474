from __future__ import annotations

import shutil
import struct
from pathlib import Path
from typing import Any

import pytest

from studio.core.errors import ModelError
from studio.core.files import read_json
from studio.core.paths import StudioHome
from studio.core.spec import RunSpec
from studio.models import gguf
from studio.models.load import load_base, resolve_model
from studio.models.shape import find_shape


def write_gguf(path: Path, model_folder: Path) -> None:
    """The tiny Llama as an F32 GGUF, by the format's own library: the oracle for reading one back."""
    import torch
    from gguf import GGUFWriter
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    config = model.config
    writer = GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(10000.0)
    _write_tokenizer(writer, tokenizer)
    for name, tensor in _tensors(model):
        writer.add_tensor(name, tensor.detach().numpy().copy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _write_tokenizer(writer: Any, tokenizer: Any) -> None:
    import json

    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list([token for token, _ in sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])])
    writer.add_token_types([3 if index < 3 else 1 for index in range(len(tokenizer))])
    writer.add_token_merges([" ".join(pair) if isinstance(pair, list) else pair for pair in model["merges"]])
    writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_unk_token_id(tokenizer.unk_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    writer.add_chat_template(tokenizer.chat_template)


NAMES = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}  # fmt: skip


def _tensors(model: Any) -> Any:
    yield "token_embd.weight", model.model.embed_tokens.weight
    yield "output_norm.weight", model.model.norm.weight
    heads = {"attn_q": model.config.num_attention_heads, "attn_k": model.config.num_key_value_heads}
    for index, layer in enumerate(model.model.layers):
        for name, short in NAMES.items():
            weight = layer.get_submodule(name).weight
            if short in heads:  # GGUF stores rotary pairs side by side, transformers in two halves
                rows = weight.shape[0] // heads[short] // 2
                weight = weight.reshape(heads[short], 2, rows, -1).swapaxes(1, 2).reshape(weight.shape)
            yield f"blk.{index}.{short}.weight", weight


@pytest.fixture(scope="module")
def tiny_gguf(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    write_gguf(path, tiny_llama)
    return path


def test_the_header_is_what_the_formats_own_library_reads(tiny_gguf: Path) -> None:
    from gguf import GGUFReader

    header, oracle = gguf.read_header(tiny_gguf), GGUFReader(tiny_gguf)
    assert {name: shape for name, (shape, _) in header.tensors.items()} == {t.name: tuple(map(int, t.shape)) for t in oracle.tensors}
    for key, value in header.metadata.items():
        expected = oracle.fields[key].contents()
        assert value == (len(expected) if isinstance(expected, list) else pytest.approx(expected)), key
    assert (header.architecture, header.dtype) == ("llama", "float32")


def test_its_shape_is_known_without_converting_it(tiny_gguf: Path, tiny_llama: Path, tmp_path: Path) -> None:
    home = StudioHome(tmp_path)
    assert find_shape(str(tiny_gguf), home) == find_shape(str(tiny_llama), home)
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_a_gguf_answers_as_the_model_it_was_made_of(tiny_gguf: Path, tiny_llama: Path, tmp_path: Path, quantization: str) -> None:
    import torch

    home = StudioHome(tmp_path)
    bases = [
        load_base(RunSpec.parse({"model": {"id": str(path), "quantization": quantization, "dtype": "float32"}}), home)
        for path in (tiny_gguf, tiny_llama)
    ]
    text = "def total(numbers):\n    result = numbers"
    ids = [torch.tensor([base.tokenizer(text).input_ids], device=base.device) for base in bases]
    assert torch.equal(ids[0], ids[1])
    with torch.no_grad():
        logits = [base.model(input_ids=one).logits for base, one in zip(bases, ids, strict=True)]
    assert torch.allclose(logits[0], logits[1], atol=1e-5)
    assert bases[0].tokenizer.chat_template == bases[1].tokenizer.chat_template
    assert bases[0].tokenizer.eos_token == "<|im_end|>"


def test_digits_stay_apart_from_the_space_before_them(tiny_gguf: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(resolve_model(str(tiny_gguf), StudioHome(tmp_path)))
    pieces = [piece for piece, _ in tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str("x = 128\n    12")]
    assert pieces == ["x", "Ġ=", "Ġ", "1", "2", "8", "ĊĠĠĠĠ", "1", "2"]


def test_it_is_converted_once_and_again_when_the_file_changes(tiny_gguf: Path, tmp_path: Path) -> None:
    home, copy = StudioHome(tmp_path / "home"), tmp_path / "copy.gguf"
    shutil.copy(tiny_gguf, copy)
    first = resolve_model(str(copy), home)
    made = (Path(first) / gguf.STAMP).stat().st_mtime_ns
    assert resolve_model(str(copy), home) == first
    assert (Path(first) / gguf.STAMP).stat().st_mtime_ns == made
    copy.touch()
    assert gguf.converted_folder(copy, home) != first


def test_a_torn_conversion_is_made_again(tiny_gguf: Path, tmp_path: Path) -> None:
    home = StudioHome(tmp_path)
    folder = gguf.converted_folder(tiny_gguf, home)
    left = folder.parent / f".{folder.name}.abc.part"
    left.mkdir(parents=True)
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"torn")
    assert Path(resolve_model(str(tiny_gguf), home)) == folder
    assert not left.exists()
    assert gguf.is_complete(folder)
    (folder / "model.safetensors").write_bytes(b"torn")
    assert not gguf.is_complete(folder)


def test_a_folder_with_one_gguf_is_that_gguf_and_with_two_asks_which(tiny_gguf: Path, tmp_path: Path) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    shutil.copy(tiny_gguf, folder / "a.gguf")
    assert gguf.find_gguf(folder) == folder / "a.gguf"
    shutil.copy(tiny_gguf, folder / "b.gguf")
    with pytest.raises(ModelError, match=r"a\.gguf, b\.gguf"):
        gguf.find_gguf(folder)


def test_what_is_no_gguf_is_refused(tiny_gguf: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.gguf"
    whole = tiny_gguf.read_bytes()
    endless = struct.pack("<4sIQQ", b"GGUF", 3, 1 << 40, 1)
    long_text = struct.pack("<4sIQQQ", b"GGUF", 3, 0, 1, 1 << 50)
    for content in (b"", b"GGUF", b"pickle" * 20, whole[:1000], endless, long_text):
        bad.write_bytes(content)
        with pytest.raises(ModelError, match="cut short"):
            gguf.read_header(bad)


def test_an_architecture_nobody_knows_is_named(tmp_path: Path) -> None:
    from gguf import GGUFWriter

    path = tmp_path / "odd.gguf"
    writer = GGUFWriter(path, "nosuch")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ModelError, match="nosuch"):
        resolve_model(str(path), StudioHome(tmp_path / "home"))
    assert read_json(tmp_path / "home" / gguf.STAMP) is None
