"""Tiny models of every kind, and the few steps of training that every family's tests share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from studio.core.shape import LinearShape, ModelShape
from studio.core.spec import RunSpec

TEXTS = ["Write a Python function that returns the sum of a list of numbers.", "return max(values)"]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """A second thread only slows down models this small, and sums in one order make equal runs equal."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def tiny_shape() -> ModelShape:
    """The shape of the tiny Llama, written down by hand."""
    linears = (
        LinearShape("self_attn.q_proj", 64, 64),
        LinearShape("self_attn.k_proj", 64, 32),
        LinearShape("self_attn.v_proj", 64, 32),
        LinearShape("self_attn.o_proj", 64, 64),
        LinearShape("mlp.gate_proj", 64, 128),
        LinearShape("mlp.up_proj", 64, 128),
        LinearShape("mlp.down_proj", 128, 64),
    )
    return ModelShape(
        model_type="llama", layers=2, hidden=64, intermediate=128, heads=4, kv_heads=2, head_dim=16, vocabulary=399, context=512,
        tied_embeddings=True, linears=linears, parameters=99_584,
    )  # fmt: skip


@pytest.fixture(scope="session")
def tiny_tokenizer(tiny_llama: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_llama)


@pytest.fixture
def tiny_base(tiny_llama: Path) -> Callable[..., Any]:
    """A fresh tiny base, held as none, int8, nf4 or fp4; fp32 unless told."""
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    def load(quantization: str = "none", dtype: Any = torch.float32, **settings: Any) -> Any:
        if quantization == "int8":
            settings["quantization_config"] = BitsAndBytesConfig(load_in_8bit=True)
        elif quantization != "none":
            settings["quantization_config"] = BitsAndBytesConfig(
                load_in_4bit=True, bnb_4bit_quant_type=quantization, bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
            )
        model = AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=dtype, **settings).eval()
        for module in model.modules():
            if hasattr(module, "support_avx512bf16_for_cpu"):
                module.support_avx512bf16_for_cpu = False
        return model

    return load


@pytest.fixture
def make_spec() -> Callable[..., RunSpec]:
    def make(family: str = "lora", quantization: str = "auto", training: dict | None = None, **method: Any) -> RunSpec:
        data = {"model": {"quantization": quantization}, "method": {"family": family, **method}, "training": training or {}}
        return RunSpec.parse(data)

    return make


@pytest.fixture(scope="session")
def tiny_batch(tiny_tokenizer: Any) -> dict[str, Any]:
    """Two sentences of unlike length, padded on the right."""
    return dict(tiny_tokenizer(TEXTS, return_tensors="pt", padding=True, padding_side="right"))


@pytest.fixture
def train_steps(tiny_batch: dict[str, Any]) -> Callable[..., list[float]]:
    """Train on the tiny batch with AdamW over the method's own groups; the loss of every step."""
    import torch

    from studio.methods import get_method

    def train(model: Any, spec: RunSpec, steps: int = 5, between: Callable[[int], None] | None = None) -> list[float]:
        groups = get_method(spec.method.family).parameter_groups(model, spec)
        optimizer = torch.optim.AdamW(groups)
        labels = tiny_batch["input_ids"].masked_fill(tiny_batch["attention_mask"] == 0, -100)
        losses = []
        for step in range(steps):
            model.train()
            loss = model(**tiny_batch, labels=labels).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
            if between:
                between(step)
        model.eval()
        return losses

    return train


@pytest.fixture
def logits_of(tiny_batch: dict[str, Any]) -> Callable[[Any], Any]:
    """Logits at the real positions of the tiny batch, in fp32."""
    import torch

    def compute(model: Any) -> Any:
        with torch.no_grad():
            return model(**tiny_batch).logits.float()[tiny_batch["attention_mask"].bool()]

    return compute


@pytest.fixture
def first_step(tiny_tokenizer: Any) -> Callable[[Any], tuple[Any, Any]]:
    """(generate's logits for its first token, forward's) on one prompt."""
    import torch

    def compute(model: Any) -> tuple[Any, Any]:
        prompt = tiny_tokenizer(TEXTS[0], return_tensors="pt")
        with torch.no_grad():
            forward = model(**prompt).logits[:, -1].float()
            answer = model.generate(**prompt, max_new_tokens=2, do_sample=False, output_logits=True, return_dict_in_generate=True)
        return answer.logits[0].float(), forward

    return compute
