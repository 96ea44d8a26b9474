"""Oracle: the model transformers builds from the same config on the meta device, counted tensor by tensor."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from studio.core.catalog import BASE_MODELS
from studio.core.errors import ModelError, ModelNotFound
from studio.core.paths import StudioHome
from studio.models.shape import find_shape, shape_from_config, shipped_configs

OTHERS: dict[str, dict[str, Any]] = {
    "qwen3": {"model_type": "qwen3", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4,
              "num_key_value_heads": 2, "head_dim": 32, "vocab_size": 500, "max_position_embeddings": 128, "tie_word_embeddings": True},
    "gemma": {"model_type": "gemma", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4,
              "num_key_value_heads": 1, "head_dim": 32, "vocab_size": 500, "max_position_embeddings": 128},
    "gemma2": {"model_type": "gemma2", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4,
               "num_key_value_heads": 2, "head_dim": 32, "vocab_size": 500, "max_position_embeddings": 128},
    "gemma3_text": {"model_type": "gemma3_text", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3,
                    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "vocab_size": 500, "max_position_embeddings": 128},
    "phi3": {"model_type": "phi3", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4,
             "num_key_value_heads": 2, "vocab_size": 500, "max_position_embeddings": 128, "pad_token_id": 0},
    "smollm3": {"model_type": "smollm3", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4, "num_attention_heads": 4,
                "num_key_value_heads": 2, "vocab_size": 500, "max_position_embeddings": 128, "pad_token_id": 0},
    "gpt2": {"model_type": "gpt2", "n_embd": 64, "n_layer": 3, "n_head": 4, "n_positions": 128, "vocab_size": 500},
    "gpt2 of an uncommon width": {"model_type": "gpt2", "n_embd": 64, "n_inner": 100, "n_layer": 3, "n_head": 4, "n_positions": 128,
                                  "vocab_size": 500, "tie_word_embeddings": False},
    "llama with biases": {"model_type": "llama", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
                          "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 500, "max_position_embeddings": 128,
                          "attention_bias": True, "mlp_bias": True},
}  # fmt: skip
SHIPPED = shipped_configs()
CONFIGS = SHIPPED | OTHERS


@pytest.mark.parametrize("name", CONFIGS)
def test_counts_and_layers_are_those_of_the_real_model(name: str) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.pytorch_utils import Conv1D

    config = {key: value for key, value in CONFIGS[name].items() if not key.startswith("_")}
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config))
    model.tie_weights()
    shape = shape_from_config(CONFIGS[name])
    assert shape.parameters == sum(tensor.numel() for tensor in model.parameters())

    found = {}
    for path, module in model.named_modules():
        if ".0." in path and isinstance(module, (torch.nn.Linear, Conv1D)):
            rows, columns = module.weight.shape
            widths = (rows, columns) if isinstance(module, Conv1D) else (columns, rows)
            found[path.split(".0.", 1)[1]] = (*widths, module.bias is not None)
    assert {one.name: (one.in_features, one.out_features, one.bias) for one in shape.linears} == found
    assert shape.tied_embeddings == (model.get_input_embeddings().weight is model.get_output_embeddings().weight)


def test_every_model_on_offer_has_a_config_and_the_size_the_catalog_states(tmp_path: Path) -> None:
    for model in BASE_MODELS:
        assert find_shape(model.id, StudioHome(tmp_path)).parameters == model.parameters, model.id
        assert find_shape(model.hub_id, StudioHome(tmp_path)).parameters == model.parameters, model.id


def test_well_known_models_are_found_by_name_and_hub_id(tmp_path: Path) -> None:
    assert find_shape("GPT-3-175B", StudioHome(tmp_path)).layers == 96
    assert find_shape("Qwen/Qwen2.5-7B", StudioHome(tmp_path)).hidden == 3584


def test_the_lecture_model_has_the_lectures_widths(tmp_path: Path) -> None:
    shape = find_shape("meta-llama/Llama-3.2-1B", StudioHome(tmp_path))
    assert (shape.layers, shape.hidden, shape.kv_width, shape.intermediate, shape.vocabulary) == (16, 2048, 512, 8192, 128_256)


def test_a_local_folder_is_read(tiny_llama: Path, tmp_path: Path) -> None:
    shape = find_shape(str(tiny_llama), StudioHome(tmp_path))
    assert (shape.layers, shape.hidden, shape.kv_width) == (2, 64, 32)


@pytest.mark.parametrize(
    ("config", "needle"),
    [
        ({"model_type": "mixtral"}, "mixtral"),
        ({}, "unknown"),
        ({"model_type": "llama", "hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 0}, "num_hidden_layers"),
        ({"model_type": "llama", "hidden_size": "64"}, "hidden_size"),
        ({**OTHERS["phi3"], "hidden_size": 65}, "not a multiple"),
        ({"model_type": "opt", "hidden_size": 64, "ffn_dim": 64, "num_hidden_layers": 1, "num_attention_heads": 4, "vocab_size": 9,
          "max_position_embeddings": 8, "word_embed_proj_dim": 32}, "projects"),
    ],
)  # fmt: skip
def test_what_cannot_be_counted_is_refused(config: dict[str, Any], needle: str) -> None:
    with pytest.raises(ModelError, match=needle):
        shape_from_config(config)


def test_models_that_are_nowhere_are_named(tmp_path: Path) -> None:
    for name in ("/no/such/folder", "./nothing.gguf", "nobody/nothing"):
        with pytest.raises(ModelNotFound):
            find_shape(name, StudioHome(tmp_path))
    (tmp_path / "config.json").write_text("[1]")
    with pytest.raises(ModelNotFound, match=r"config\.json"):
        find_shape(str(tmp_path), StudioHome(tmp_path))


def test_shipped_configs_hold_plain_facts_only() -> None:
    for name, config in SHIPPED.items():
        assert all(isinstance(value, (int, str, list, bool)) for value in config.values()), name
        json.dumps(config)
