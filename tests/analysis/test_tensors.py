"""Tensors read from files equal what torch reads; every broken file is a sentence."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from studio.analysis.tensors import describe_model, open_model, read_header, read_linear, read_tensor
from studio.core.errors import AnalysisError, ModelNotFound


def _save(folder: Path, tensors: dict[str, torch.Tensor], config: dict | None = None) -> Path:
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config or {"model_type": "llama"}))
    return folder


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_every_float_dtype_is_read_exactly(tmp_path: Path, dtype: torch.dtype) -> None:
    weight = torch.randn(7, 5, generator=torch.Generator().manual_seed(0)).to(dtype)
    save_file({"model.layers.0.mlp.up_proj.weight": weight, "x": torch.zeros(1)}, tmp_path / "model.safetensors")
    read = read_tensor(open_model(tmp_path).tensors["model.layers.0.mlp.up_proj.weight"])
    assert np.array_equal(read, weight.double().numpy())


def test_a_real_model_folder_is_described(tiny_llama: Path) -> None:
    described = describe_model(tiny_llama)
    stored = load_file(tiny_llama / "model.safetensors")
    assert described.layers == 2
    assert described.linear_layers == 14
    assert described.parameters == sum(tensor.numel() for tensor in stored.values())
    assert described.linear_parameters == sum(tensor.numel() for name, tensor in stored.items() if name.endswith("proj.weight"))
    assert {"self_attn.q_proj", "mlp.down_proj"} <= set(described.modules)
    assert json.loads(json.dumps(described.to_json()))["model_type"] == "llama"


@pytest.mark.parametrize(
    "module", ["q_proj", "self_attn.q_proj", "model.layers.1.self_attn.q_proj", "model.layers.1.self_attn.q_proj.weight"]
)
def test_a_module_is_found_by_short_and_whole_name(tiny_llama: Path, module: str) -> None:
    linear = open_model(tiny_llama).linear(1, module)
    assert np.array_equal(
        read_linear(linear), load_file(tiny_llama / "model.safetensors")["model.layers.1.self_attn.q_proj.weight"].float()
    )


def test_conv1d_weights_arrive_as_out_by_in(tmp_path: Path) -> None:
    weight = torch.arange(6.0).reshape(2, 3)
    model = open_model(_save(tmp_path / "m", {"h.0.attn.c_attn.weight": weight}, {"model_type": "gpt2"}))
    linear = model.linear(0, "c_attn")
    assert linear.shape == (3, 2)
    assert np.array_equal(read_linear(linear), weight.T)


def test_shards_are_joined_and_a_missing_one_is_named(tmp_path: Path) -> None:
    save_file({"model.layers.0.a.weight": torch.ones(2, 2)}, tmp_path / "model-1.safetensors")
    save_file({"model.layers.1.a.weight": torch.ones(2, 2)}, tmp_path / "model-2.safetensors")
    index = {"weight_map": {"model.layers.0.a.weight": "model-1.safetensors", "model.layers.1.a.weight": "model-2.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert [item.layer for item in open_model(tmp_path).linear_layers] == [0, 1]
    (tmp_path / "model-2.safetensors").unlink()
    with pytest.raises(AnalysisError, match=r"1 of 2 weight files are missing: model-2\.safetensors"):
        open_model(tmp_path)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.int8])
def test_codes_are_not_taken_for_weights(tmp_path: Path, dtype: torch.dtype) -> None:
    folder = _save(tmp_path / "m", {"model.layers.0.q_proj.weight": torch.ones(4, 4).to(dtype)})
    linear = open_model(folder).linear(0, "q_proj")
    with pytest.raises(AnalysisError, match="holds codes and not weights"):
        read_linear(linear)


@pytest.mark.parametrize(
    ("tensors", "config", "evidence"),
    [
        ({"a": torch.ones(1)}, {"quantization_config": {"quant_method": "gptq"}}, "gptq"),
        ({"layers.0.q.weight.absmax": torch.ones(1)}, {}, "absmax"),
        ({"layers.0.q.weight.quant_state.bitsandbytes__nf4": torch.ones(1)}, {}, "bitsandbytes__nf4"),
        ({"layers.0.q.qweight": torch.ones(1)}, {}, "qweight"),
    ],
)
def test_a_quantized_model_is_refused(tmp_path: Path, tensors: dict[str, torch.Tensor], config: dict, evidence: str) -> None:
    with pytest.raises(AnalysisError, match=f"already quantized.*{evidence}"):
        open_model(_save(tmp_path / "m", tensors, config))


def test_pickles_are_refused(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(AnalysisError, match="pickled checkpoint"):
        open_model(tmp_path)
    with pytest.raises(AnalysisError, match="pickled checkpoint"):
        read_header(tmp_path / "pytorch_model.bin")


def test_no_folder_and_an_empty_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="no model folder"):
        open_model(tmp_path / "nothing")
    with pytest.raises(ModelNotFound, match="holds no safetensors file"):
        open_model(tmp_path)


@pytest.mark.parametrize("content", [b"", b"abc", b"\xff" * 40, (20).to_bytes(8, "little") + b"x" * 20, (2).to_bytes(8, "little") + b"[]"])
def test_a_file_that_is_not_safetensors_is_a_sentence(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(content)
    with pytest.raises(AnalysisError, match=r"not a safetensors file|cannot be read"):
        open_model(tmp_path)


def test_a_file_without_tensors_is_a_sentence(tmp_path: Path) -> None:
    save_file({}, tmp_path / "model.safetensors")
    with pytest.raises(AnalysisError, match="hold no tensors"):
        describe_model(tmp_path)


def test_a_relative_attention_bias_is_no_linear_layer(tmp_path: Path) -> None:
    names = ("encoder.block.0.layer.0.SelfAttention.q", "encoder.block.0.layer.0.SelfAttention.relative_attention_bias")
    model = open_model(_save(tmp_path / "m", {f"{name}.weight": torch.ones(2, 2) for name in names}))
    assert [item.name for item in model.linear_layers] == [names[0]]


def test_a_torn_file_is_a_sentence(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    save_file({"a": torch.ones(100)}, file)
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(AnalysisError, match="cut off"):
        open_model(tmp_path)


def test_unknown_layers_and_modules_name_what_there_is(tiny_llama: Path) -> None:
    model = open_model(tiny_llama)
    with pytest.raises(AnalysisError, match=r"no layer 9.*from 0 to 1"):
        model.linear(9, "q_proj")
    with pytest.raises(AnalysisError, match=r"no module z_proj.*q_proj"):
        model.linear(0, "z_proj")
    with pytest.raises(AnalysisError, match="no layer -1"):
        model.linear(-1, "q_proj")


def test_two_modules_of_one_name_are_not_guessed(tmp_path: Path) -> None:
    tensors = {"model.layers.0.experts.0.up.weight": torch.ones(2, 2), "model.layers.0.experts.1.up.weight": torch.ones(2, 2)}
    model = open_model(_save(tmp_path / "m", tensors))
    with pytest.raises(AnalysisError, match="2 modules called up"):
        model.linear(0, "up")
