from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from studio.core.errors import DiskFull, GatedModel, ModelError, ModelNotFound, OutOfMemory
from studio.core.paths import StudioHome
from studio.core.spec import ModelSpec, RunSpec
from studio.models.hardware import detect_hardware
from studio.models.load import choose_dtype, load_base, load_tokenizer, resolve_model
from studio.models.load_errors import explain_failure

QUANTIZATIONS = {"none": "Linear", "int8": "Linear8bitLt", "nf4": "Linear4bit", "fp4": "Linear4bit"}


@pytest.fixture
def home(tmp_path: Path) -> StudioHome:
    return StudioHome(tmp_path / "home")


def _spec(folder: Path, **model: Any) -> RunSpec:
    return RunSpec.parse({"model": {"id": str(folder), **model}})


def _print_of(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


@pytest.mark.parametrize("quantization", QUANTIZATIONS)
def test_every_quantization_loads_answers_and_leaves_the_folder_alone(tiny_llama: Path, home: StudioHome, quantization: str) -> None:
    import torch

    before = _print_of(tiny_llama)
    base = load_base(_spec(tiny_llama, quantization=quantization), home)
    layer = base.model.model.layers[0]
    for linear in (layer.self_attn.q_proj, layer.mlp.down_proj):
        assert type(linear).__name__ == QUANTIZATIONS[quantization]
    assert type(base.model.lm_head) is torch.nn.Linear
    assert base.model.lm_head.weight.dtype == base.model.model.embed_tokens.weight.dtype == base.dtype
    assert not base.model.training
    assert not any(parameter.requires_grad for parameter in base.model.parameters())
    ids = torch.tensor([base.tokenizer("def total(numbers):").input_ids], device=base.device)
    with torch.no_grad():
        assert torch.isfinite(base.model(input_ids=ids).logits).all()
    assert _print_of(tiny_llama) == before


def test_the_kind_of_4_bit_and_double_quantization_are_those_asked_for(tiny_llama: Path, home: StudioHome) -> None:
    for kind, double in (("nf4", True), ("fp4", False)):
        base = load_base(_spec(tiny_llama, quantization=kind, double_quantization=double), home)
        weight = base.model.model.layers[0].mlp.up_proj.weight
        assert (weight.quant_type, weight.compress_statistics, weight.quant_state.nested) == (kind, double, double)


def test_gradients_through_a_4_bit_layer_survive_a_pass_without_gradients(tiny_llama: Path, home: StudioHome) -> None:
    """bitsandbytes repacks weights in such a pass where the CPU has AVX512-BF16; afterwards gradients would be wrong without a word."""
    import torch

    base = load_base(_spec(tiny_llama, quantization="nf4"), home)
    ids = torch.tensor([base.tokenizer("return the sum of numbers").input_ids], device=base.device)

    def gradient() -> torch.Tensor:
        embedded = base.model.model.embed_tokens(ids).detach().requires_grad_()
        base.model(inputs_embeds=embedded, labels=ids).loss.backward()
        return embedded.grad.float()

    base.model.train()
    before = gradient()
    base.model.eval()
    with torch.no_grad():
        base.model(input_ids=ids)
    base.model.train()
    assert before.abs().sum() > 0
    assert torch.equal(gradient(), before)


def test_dtype_follows_the_device_unless_asked_for() -> None:
    import torch

    assert choose_dtype(ModelSpec(dtype="float32"), "cpu") == torch.float32
    assert choose_dtype(ModelSpec(), "cpu") == (torch.bfloat16 if detect_hardware().bf16 else torch.float32)


def test_a_tokenizer_without_padding_gets_one(tiny_llama: Path, home: StudioHome, tmp_path: Path) -> None:
    copy = shutil.copytree(tiny_llama, tmp_path / "copy")
    config = (copy / "tokenizer_config.json").read_text().replace('"pad_token": "<|im_end|>"', '"pad_token": null')
    (copy / "tokenizer_config.json").write_text(config)
    tokenizer = load_tokenizer(ModelSpec(id=str(copy)), home)
    assert tokenizer.pad_token == tokenizer.eos_token == "<|im_end|>"


def test_pickled_weights_are_refused_unread(tiny_llama: Path, home: StudioHome, tmp_path: Path) -> None:
    import pickle

    class Trap:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "ran",))

    copy = shutil.copytree(tiny_llama, tmp_path / "copy")
    (copy / "model.safetensors").unlink()
    (copy / "pytorch_model.bin").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(ModelError, match="pickles"):
        load_base(_spec(copy), home)
    assert not (tmp_path / "ran").exists()


def test_code_of_a_models_own_runs_only_with_consent(tiny_llama: Path, home: StudioHome, tmp_path: Path) -> None:
    import json

    copy = shutil.copytree(tiny_llama, tmp_path / "copy")
    config = json.loads((copy / "config.json").read_text())
    del config["model_type"]
    config["auto_map"] = {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}
    (copy / "config.json").write_text(json.dumps({**config, "model_type": "of-its-own"}))
    (copy / "evil.py").write_text(f"import pathlib\npathlib.Path({str(tmp_path / 'ran')!r}).touch()\n")
    with pytest.raises(ModelError, match="code of its own"):
        load_base(_spec(copy), home)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("damage", "needle"),
    [
        (lambda folder: (folder / "model.safetensors").write_bytes(b"\x00" * 64), "damaged|cut short"),
        (lambda folder: (folder / "model.safetensors").unlink(), "no weights"),
        (lambda folder: (folder / "config.json").unlink(), "config.json"),
        (lambda folder: (folder / "config.json").write_text("{"), "cannot be loaded|readable"),
    ],
)
def test_broken_folders_are_named(tiny_llama: Path, home: StudioHome, tmp_path: Path, damage: Any, needle: str) -> None:
    copy = shutil.copytree(tiny_llama, tmp_path / "copy")
    damage(copy)
    with pytest.raises(ModelError, match=needle):
        load_base(_spec(copy), home)


def test_a_missing_shard_is_named(tiny_llama: Path, home: StudioHome, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    copy = shutil.copytree(tiny_llama, tmp_path / "copy")
    (copy / "model.safetensors").unlink()
    AutoModelForCausalLM.from_pretrained(tiny_llama).save_pretrained(copy, max_shard_size="200KB")
    shards = sorted(copy.glob("model-*.safetensors"))
    assert len(shards) > 1
    shards[-1].unlink()
    with pytest.raises(ModelError, match="incomplete"):
        load_base(_spec(copy), home)


@pytest.mark.parametrize("name", ["/no/such/folder", "./nothing", "~/no-model-here", "nothing.gguf", "a/b/c", "../x", "with space", "-x"])
def test_names_that_are_no_models_are_refused_before_any_network(home: StudioHome, name: str) -> None:
    with pytest.raises(ModelNotFound):
        resolve_model(name, home)


def test_hub_ids_pass_and_the_starter_says_how_to_get_it(home: StudioHome) -> None:
    assert resolve_model("Qwen/Qwen2.5-0.5B-Instruct", home) == "Qwen/Qwen2.5-0.5B-Instruct"
    assert resolve_model("HuggingFaceTB/SmolLM2-135M-Instruct", home) == "HuggingFaceTB/SmolLM2-135M-Instruct"
    with pytest.raises(ModelNotFound, match="setup"):
        resolve_model("starter", home)


def test_an_unknown_hub_model_out_of_reach_is_named(home: StudioHome) -> None:
    with pytest.raises(ModelNotFound, match="cannot be reached"):
        load_base(RunSpec.parse({"model": {"id": "nobody/nothing"}}), home)


def test_memory_and_disk_running_out_are_named() -> None:
    for error, kind in (
        (MemoryError(), OutOfMemory),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 5 bytes."), OutOfMemory),
        (OSError(28, "No space left on device"), DiskFull),
    ):
        with pytest.raises(kind), explain_failure("a/model"):
            raise error


HUB_CHILD = """
import os, sys
from pathlib import Path
from studio.core.errors import StudioError
from studio.core.paths import StudioHome
from studio.core.spec import RunSpec
from studio.models.load import load_base
from studio.models.shape import find_shape
home = StudioHome(Path(sys.argv[1]))
for model_id in sys.argv[2:]:
    try:
        shape = find_shape(model_id, home)
        print(model_id, shape.hidden, load_base(RunSpec.parse({"model": {"id": model_id}}), home).model.num_parameters())
    except StudioError as error:
        print(model_id, type(error).__name__, repr(error.__cause__), file=sys.stderr)
        print(model_id, type(error).__name__)
"""


def _load_from_hub(endpoint: str, tmp_path: Path, *model_ids: str) -> list[str]:
    """Lines that a process of its own prints, whose hub is `endpoint`: the client reads its settings when it is imported."""
    environment = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy") and key != "HF_HUB_OFFLINE"}
    environment |= {"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "hf"), "HF_TOKEN": "hf_secret", "PYTHONPATH": os.getcwd()}
    environment["HF_HUB_DISABLE_XET"] = "1"
    done = subprocess.run([sys.executable, "-c", HUB_CHILD, str(tmp_path), *model_ids], env=environment, capture_output=True, text=True)
    print(done.stderr)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.strip().splitlines()


def test_hub_models_load_through_a_mirror_with_its_token_and_later_offline(tiny_llama: Path, hub: Any, tmp_path: Path) -> None:
    online = _load_from_hub(hub.endpoint, tmp_path, "someone/tiny", "someone/gated", "someone/missing")
    assert online[0].startswith("someone/tiny 64 ")
    assert online[1:] == ["someone/gated GatedModel", "someone/missing ModelNotFound"]
    assert hub.tokens == {"Bearer hf_secret"}
    hub.close()
    offline = _load_from_hub(hub.endpoint, tmp_path, "someone/tiny", "someone/other")
    assert offline == [online[0], "someone/other ModelNotFound"]


def test_gated_is_a_class_of_its_own() -> None:
    assert issubclass(GatedModel, ModelError)


def test_a_link_to_a_gguf_is_known_by_its_own_name(tmp_path: Path, home: StudioHome, monkeypatch: pytest.MonkeyPatch) -> None:
    """As hub caches keep one: the file itself is named by its checksum."""
    (tmp_path / "0a1b2c").write_bytes(b"GGUF")
    link = tmp_path / "model.gguf"
    link.symlink_to(tmp_path / "0a1b2c")
    monkeypatch.setattr("studio.models.gguf.convert_cached", lambda source, home: source)
    assert resolve_model(str(link), home) == link
