"""The labelled-only loss against the model's own, for every method: value to 1e-5, gradients to 1e-5."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from studio.core.paths import StudioHome
from studio.core.spec import RunSpec
from studio.methods import get_method
from studio.models.load import load_base
from studio.train import loss as loss_module
from studio.train.loss import count_labels, sum_loss

METHODS = [
    {"family": "lora", "rank": 4},
    {"family": "lora", "rank": 4, "dora": True, "rslora": True},
    {"family": "qlora", "rank": 4},
    {"family": "adapter", "bottleneck": 8},
    {"family": "adapter", "bottleneck": 8, "placement": "houlsby"},
    {"family": "prefix", "virtual_tokens": 5},
    {"family": "prefix", "virtual_tokens": 5, "projection": True},
]


@pytest.fixture(params=METHODS, ids=lambda method: "-".join(str(value) for value in method.values()))
def model(request: pytest.FixtureRequest, make_spec: Callable[..., RunSpec], home: StudioHome) -> Iterator[Any]:
    spec = make_spec(method=request.param)
    torch.manual_seed(0)
    base = load_base(spec, home)
    adapted = get_method(spec.method.family).attach(base.model, spec, base.tokenizer)
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.05)
    adapted.eval()
    return adapted


def make_batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(3, 300, (3, 24), generator=generator)
    labels = ids.clone()
    labels[:, :9] = -100
    mask = torch.ones_like(ids)
    for row, length in ((1, 17), (2, 11)):
        ids[row, length:], labels[row, length:], mask[row, length:] = 2, -100, 0
    return ids, labels, mask


def gradients(model: Any, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_loss_is_the_models_own(model: Any) -> None:
    """The model's own loss runs with an attention mask, ours without: padding on the right changes nothing."""
    ids, labels, mask = make_batch()
    own = model(input_ids=ids, attention_mask=mask, labels=labels, use_cache=False).loss
    ours = sum_loss(model, ids, labels) / count_labels(labels)
    assert float(ours.detach()) == pytest.approx(float(own.detach()), abs=1e-5)
    expected, found = gradients(model, own), gradients(model, sum_loss(model, ids, labels) / count_labels(labels))
    assert found.keys() == expected.keys() and found
    for name, gradient in expected.items():
        assert torch.allclose(found[name], gradient, atol=1e-5, rtol=1e-3), name


def test_full_head_gives_the_same(model: Any) -> None:
    ids, labels, _ = make_batch()
    full = sum_loss(model, ids, labels, labelled_head=False).detach()
    assert float(full) == pytest.approx(float(sum_loss(model, ids, labels).detach()), rel=1e-5)


def test_small_chunks_give_the_same(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ids, labels, _ = make_batch()
    whole = sum_loss(model, ids, labels)
    expected = gradients(model, whole)
    monkeypatch.setattr(loss_module, "CHUNK_LOGITS", 4 * model.config.vocab_size)
    parts = sum_loss(model, ids, labels)
    assert float(parts.detach()) == pytest.approx(float(whole.detach()), rel=1e-6)
    for name, gradient in gradients(model, parts).items():
        assert torch.allclose(gradient, expected[name], atol=1e-5, rtol=1e-3), name


def test_a_changed_head_runs_through_the_models_own_code(model: Any) -> None:
    """A head that is trained cannot use the closed form; the loss stays, and the head gets its gradient."""
    ids, labels, _ = make_batch()
    expected = float(sum_loss(model, ids, labels).detach())
    head = model.get_output_embeddings()
    head.weight.requires_grad_(True)
    loss = sum_loss(model, ids, labels)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-5)
    assert head.weight.grad is not None and float(head.weight.grad.abs().sum()) > 0


def test_a_batch_without_labels_is_zero(model: Any) -> None:
    ids, labels, _ = make_batch()
    loss = sum_loss(model, ids, torch.full_like(labels, -100))
    loss.backward()
    assert float(loss.detach()) == 0.0


def test_hooks_leave_no_trace(model: Any) -> None:
    ids, labels, _ = make_batch()
    sum_loss(model, ids, labels)
    assert model(input_ids=ids).logits.shape[:2] == ids.shape
