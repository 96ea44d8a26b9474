"""Adapter folders: what they say of themselves, and everything that must be refused before the base is touched."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from studio.core.errors import MethodError
from studio.methods import get_method
from studio.methods.adapters import base_warning, describe_adapter, load_adapter, save_adapter, switch_adapter

SETTINGS = {
    "lora": {"family": "lora", "rank_pattern": {"q_proj": 2}},
    "adapter": {"family": "adapter", "bottleneck": 8, "placement": "houlsby"},
    "prefix": {"family": "prefix", "virtual_tokens": 5},
}


@pytest.fixture
def adapter(tiny_base, make_spec, tiny_tokenizer, tmp_path):
    def make(family="lora", **settings):
        spec = make_spec(**{**SETTINGS[family], **settings})
        model = get_method(family).attach(tiny_base(), spec, tiny_tokenizer)
        save_adapter(model, tmp_path / family, spec)
        return tmp_path / family

    return make


def _change_config(folder, **changes):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def _small_llama(**changes):
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=512, **{**sizes, **changes})).eval()


def test_describes_each_family(adapter):
    assert describe_adapter(adapter("lora")).summary == "rank 8, alpha 16, 7 modules"
    assert describe_adapter(adapter("adapter")).summary == "houlsby, bottleneck 8"
    assert describe_adapter(adapter("prefix")).summary == "5 virtual tokens"


def test_a_name_of_another_base_is_a_warning(adapter):
    info = describe_adapter(adapter())
    assert base_warning(info, "/models/SmolLM2-135M-Instruct") == ""
    assert "SmolLM2-135M-Instruct" in base_warning(info, "Qwen/Qwen2.5-0.5B")


@pytest.mark.parametrize("family", SETTINGS)
def test_another_base_is_named_with_both_shapes_and_stays_whole(family, adapter):
    folder = adapter(family)
    base = _small_llama()
    before = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    with pytest.raises(MethodError, match="does not fit this base") as caught:
        load_adapter(base, folder, "other")
    numbers = {"lora": ("64", "32"), "adapter": ("64", "32"), "prefix": ("128", "64")}[family]
    assert all(number in caught.value.message for number in numbers)
    assert caught.value.hint
    after = base.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("family", SETTINGS)
@pytest.mark.parametrize("layers", [1, 3])
def test_a_base_of_another_depth_is_refused(family, layers, adapter):
    deeper = _small_llama(hidden_size=64, intermediate_size=128, num_hidden_layers=layers)
    with pytest.raises(MethodError, match="does not fit"):
        load_adapter(deeper, adapter(family), "other")


def test_lora_on_chosen_layers_loads_on_its_base(adapter, tiny_base):
    assert list(load_adapter(tiny_base(), adapter(layers=[1]), "some").peft_config) == ["some"]


@pytest.mark.parametrize("length", [0, 3, 8, 100, -1])
def test_cut_off_weights_are_refused(length, adapter, tiny_base):
    path = adapter() / "adapter_model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:length])
    with pytest.raises(MethodError, match="damaged or cut off"):
        load_adapter(tiny_base(), path.parent, "cut")


@pytest.mark.parametrize(
    "content",
    [
        b"\xff" * 64,
        (1 << 60).to_bytes(8, "little") + b"{}",
        (4).to_bytes(8, "little") + b"[1] ",
        (2).to_bytes(8, "little") + b"{}",
        (25).to_bytes(8, "little") + b'{"a": {"shape": "nonsense"}}'[:25],
        (13).to_bytes(8, "little") + b'{"a": [1, 2]}',
        (45).to_bytes(8, "little") + b'{"a": {"shape": [-1], "dtype": "F32"}}       ',
        (49).to_bytes(8, "little") + b'{"a": {"shape": [-1, -1], "dtype": "F32"}}       ' + bytes(4),
        (49).to_bytes(8, "little") + b'{"a": {"shape": [Infinity], "dtype": "F32"}}     ' + bytes(4),
        (200_000).to_bytes(8, "little") + b"[" * 200_000,
    ],
)
def test_weights_that_are_not_safetensors_are_refused(content, adapter):
    folder = adapter()
    (folder / "adapter_model.safetensors").write_bytes(content)
    with pytest.raises(MethodError, match="damaged or cut off"):
        describe_adapter(folder)


def test_overlapping_tensors_are_refused_at_loading(adapter, tiny_base):
    """The sizes add up and the places do not: only the safetensors reader sees it."""
    path = adapter() / "adapter_model.safetensors"
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    names = [name for name in header if name.endswith("q_proj.lora_A.weight")]
    header[names[0]]["data_offsets"] = header[names[1]]["data_offsets"]
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])
    with pytest.raises(MethodError, match="cannot load"):
        load_adapter(tiny_base(), path.parent, "overlapping")


def test_pickled_weights_are_refused_unread(adapter, tiny_base):
    folder = adapter()
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(MethodError, match="pickled"):
        load_adapter(tiny_base(), folder, "pickled")


def test_what_is_no_adapter_is_refused(tmp_path, adapter):
    with pytest.raises(MethodError, match="no folder"):
        describe_adapter(tmp_path / "nowhere")
    with pytest.raises(MethodError, match="holds no adapter"):
        describe_adapter(tmp_path)
    folder = adapter()
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(MethodError, match="has no weights"):
        describe_adapter(folder)
    (folder / "adapter_config.json").write_text("{")
    with pytest.raises(MethodError, match="damaged"):
        describe_adapter(folder)


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("lora", {"r": 4}),
        ("lora", {"rank_pattern": {}}),
        ("adapter", {"bottleneck": 9}),
        ("prefix", {"num_virtual_tokens": 6}),
        ("lora", {"r": "x"}),
    ],
)
def test_config_and_weights_of_different_adapters_are_refused(family, changes, adapter):
    folder = adapter(family)
    _change_config(folder, **changes)
    with pytest.raises(MethodError, match="contradicts itself"):
        describe_adapter(folder)


@pytest.mark.parametrize(
    "changes",
    [
        {"peft_type": "IA3"},
        {"peft_type": None},
        {"init_lora_weights": "pissa_niter_4"},
        {"init_lora_weights": "olora"},
        {"megatron_config": {"a": 1}, "megatron_core": "antigravity"},
        {"layer_replication": [[0, 2]]},
        {"modules_to_save": ["lm_head"]},
        {"bias": "all"},
    ],
)
def test_other_types_and_raw_initialisations_are_refused(changes, adapter):
    folder = adapter()
    _change_config(folder, **changes)
    with pytest.raises(MethodError):
        describe_adapter(folder)


@pytest.mark.parametrize("changes", [{"num_layers": 1}, {"token_dim": 16}, {"num_attention_heads": 4}])
def test_a_prefix_cut_for_other_heads_is_refused(changes, adapter, tiny_base):
    folder = adapter("prefix")
    _change_config(folder, **changes)
    with pytest.raises(MethodError, match="does not fit this base: its"):
        load_adapter(tiny_base(), folder, "cut")


def test_names_are_unique_and_plain(adapter, tiny_base):
    folder = adapter()
    model = load_adapter(tiny_base(), folder, "mine")
    with pytest.raises(MethodError, match="already loaded"):
        load_adapter(model, folder, "mine")
    for name in ("", "a.b", "__base__"):
        with pytest.raises(MethodError, match="cannot name"):
            load_adapter(model, folder, name)
    with pytest.raises(MethodError, match="No adapter"):
        switch_adapter(model, "yours")


def test_families_do_not_mix_on_one_model(adapter, tiny_base):
    model = load_adapter(tiny_base(), adapter("lora"), "mine")
    with pytest.raises(MethodError, match="cannot take prefix beside it"):
        load_adapter(model, adapter("prefix"), "yours")


def test_an_unwritable_folder_is_a_named_error(tiny_base, make_spec, tiny_tokenizer, tmp_path):
    spec = make_spec()
    model = get_method("lora").attach(tiny_base(), spec, tiny_tokenizer)
    blocked = tmp_path / "file"
    blocked.write_text("")
    from studio.core.errors import StudioError

    with pytest.raises(StudioError, match=r"[Ss]aving the adapter"):
        save_adapter(model, blocked / "adapter", spec)


def test_an_adapter_moves_between_machines(adapter, tiny_base, tmp_path, logits_of):
    """No path of the machine it was trained on is inside, and a copied folder loads."""
    folder = adapter("adapter")
    text = (folder / "adapter_config.json").read_text()
    assert str(tmp_path) not in text and "tiny-llama" not in text
    moved = shutil.copytree(folder, tmp_path / "elsewhere")
    load_adapter(tiny_base(), moved, "moved")
