"""What every test stands on: an empty home, a tiny random Llama, the starter model, and no network.

Nothing here skips. A machine that cannot have the starter model fails the tests that need it.
"""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

# Before huggingface_hub and gradio are imported anywhere: they read these once.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "2")

USER_HOME = Path(os.environ.get("PEFT_STUDIO_HOME") or Path.home() / ".peft-studio")
"""The home outside the tests: only the starter model is kept there, so that it is converted once and not once per session."""

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

TOKENIZER_TEXT = """
Write a Python function that returns the sum of a list of numbers. Return the largest value. Count the words in the text.
def total(numbers):
    result = 0
    for number in numbers:
        result = result + number
    return result
def largest(values):
    if not values:
        return None
    return max(values)
def count_words(text):
    return len(text.split())
def is_even(number):
    return number % 2 == 0
The function returns true when the number is even. Return the function as code. What does this function return?
"""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect `cuda` tests where there is no CUDA device."""
    needing = [item for item in items if item.get_closest_marker("cuda")]
    if needing and not _has_cuda():
        config.hook.pytest_deselected(items=needing)
        items[:] = [item for item in items if item not in needing]


def _has_cuda() -> bool:
    if shutil.which("nvidia-smi") is None:
        return False
    import torch

    return torch.cuda.is_available()


@pytest.fixture(scope="session", autouse=True)
def no_network() -> Iterator[None]:
    """Refuse every connection of this process that leaves the machine."""
    connect = socket.socket.connect

    def connect_locally(self: socket.socket, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in ("127.0.0.1", "::1", "localhost", "0.0.0.0"):
            raise ConnectionRefusedError(f"Tests reach no network: {address!r}.")
        connect(self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", connect_locally)
        yield


@pytest.fixture(scope="session", autouse=True)
def home_of_the_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Keep a test that forgets to name a home out of the user's own."""
    with pytest.MonkeyPatch.context() as patch:
        home = tmp_path_factory.mktemp("home")
        patch.setenv("PEFT_STUDIO_HOME", str(home))
        yield home


@pytest.fixture
def studio_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty studio home for one test, which child processes inherit."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("PEFT_STUDIO_HOME", str(home))
    return home


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random LlamaForCausalLM (2 layers, hidden 64, 4 heads on 2 key-value heads) and a ChatML tokenizer.

    Seeded: the same weights in every session. Tests that write into the folder copy it first.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("models") / "tiny-llama"
    tokenizer = _train_tokenizer()
    tokenizer.save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def _train_tokenizer() -> Any:
    """A byte-level BPE of a few hundred tokens with SmolLM2's special tokens; like there, padding and end of turn are one token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=512,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator([TOKENIZER_TEXT], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        unk_token="<|endoftext|>",
        chat_template=CHATML,
        model_max_length=512,
    )


@pytest.fixture(scope="session")
def starter_model() -> Path:
    """The starter model's folder in the user's home, fetched and converted there if it is missing; a failure fails the test."""
    from studio.core.paths import StudioHome
    from studio.models.starter import ensure_starter_model

    return ensure_starter_model(StudioHome.find(USER_HOME), print)


@pytest.fixture
def starter_home(studio_home: Path, starter_model: Path) -> Path:
    """A home of its own for one test that finds the starter model there without fetching it again."""
    from studio.core.paths import StudioHome

    link = StudioHome.find(studio_home).starter_model
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(starter_model, target_is_directory=True)
    return studio_home
