"""The four families on the starter model's real weights, in bf16 and 4 bits."""

from __future__ import annotations

import pytest
import torch

from studio.core.paths import StudioHome
from studio.methods import get_method
from studio.methods.adapters import load_adapter, save_adapter
from studio.models.load import load_base

pytestmark = pytest.mark.real

ANSWER = 'def double(number):\n    """Return twice the number."""\n    return 2 * number\n'
SETTINGS = [
    {"family": "lora"},
    {"family": "qlora"},
    {"family": "adapter", "placement": "houlsby"},
    {"family": "adapter", "placement": "parallel"},
    {"family": "prefix"},
]


def _load(spec, starter_home):
    return load_base(spec, StudioHome.find(starter_home))


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_learns_and_generates_what_forward_says(settings, make_spec, starter_home, tmp_path):
    spec = make_spec(**settings)
    method = get_method(spec.method.family)
    loaded = _load(spec, starter_home)
    torch.manual_seed(0)
    batch = loaded.tokenizer(ANSWER, return_tensors="pt")
    model = method.attach(loaded.model, spec, loaded.tokenizer).train()
    optimizer = torch.optim.AdamW(method.parameter_groups(model, spec))
    losses = []
    for _ in range(6):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = model(**batch, labels=batch["input_ids"]).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    save_adapter(model, tmp_path, spec)

    fresh = _load(spec, starter_home)
    adapted = load_adapter(fresh.model, tmp_path, "mine")
    with torch.no_grad():
        forward = adapted(**batch).logits[:, -1].float()
        answer = adapted.generate(**batch, max_new_tokens=1, do_sample=False, output_logits=True, return_dict_in_generate=True)
        with adapted.disable_adapter():
            base = adapted(**batch).logits[:, -1].float()
    generated = answer.logits[0].float()
    # bf16 has 8 bits: the same sums in another order differ by about a hundredth of the logits' spread.
    assert (generated - forward).abs().max() < 0.25
    assert (generated - base).norm() > 4 * (generated - forward).norm()


def test_a_prefix_from_text_starts_far_better_than_a_random_one(make_spec, starter_home):
    losses = {}
    for init in ("text", "random"):
        spec = make_spec("prefix", init=init)
        loaded = _load(spec, starter_home)
        batch = loaded.tokenizer(ANSWER, return_tensors="pt")
        torch.manual_seed(0)
        model = get_method("prefix").attach(loaded.model, spec, loaded.tokenizer)
        with torch.no_grad():
            losses[init] = model(**batch, labels=batch["input_ids"]).loss.item()
    assert losses["text"] < losses["random"]
