"""Oracle: what autograd really keeps, listed tensor by tensor while a small Llama runs forward under each method."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from studio.core.paths import StudioHome
from studio.core.spec import RunSpec
from studio.models.memory import _method_bytes, _per_layer, layer_bytes
from studio.models.shape import find_shape

BATCH, LENGTH = 4, 256
CASES: dict[str, dict[str, Any]] = {
    "lora": {"method": {"family": "lora"}},
    "lora on two": {"method": {"family": "lora", "targets": ["q_proj", "v_proj"]}},
    "lora with dropout": {"method": {"family": "lora", "dropout": 0.1}},
    "dora": {"method": {"family": "lora", "dora": True}},
    "lora in fp32": {"method": {"family": "lora"}, "model": {"dtype": "float32"}},
    "lora, eager": {"method": {"family": "lora"}, "model": {"attention": "eager"}},
    "qlora": {"method": {"family": "qlora"}},
    "pfeiffer": {"method": {"family": "adapter", "bottleneck": 16}},
    "houlsby": {"method": {"family": "adapter", "bottleneck": 16, "placement": "houlsby"}},
    "prefix": {"method": {"family": "prefix", "init": "random"}},
}


@pytest.mark.parametrize("name", CASES)
def test_kept_bytes_per_layer_are_those_autograd_keeps(tiny_llama: Path, tmp_path: Path, name: str) -> None:
    parts = CASES[name]
    dtype = parts.get("model", {}).get("dtype", "bfloat16")
    spec = RunSpec.parse(
        {**parts, "model": {"id": str(tiny_llama), "dtype": dtype, **parts.get("model", {})}, "training": {"batch_size": BATCH}}
    )
    shape = find_shape(str(tiny_llama), StudioHome(tmp_path))
    compute = 4 if dtype == "float32" else 2
    planned = shape.layers * (layer_bytes(spec, shape, compute, LENGTH) * BATCH * LENGTH + _per_layer(spec, shape, compute))
    kept = _kept(spec, StudioHome(tmp_path))
    if spec.method.family != "adapter":
        assert planned == pytest.approx(kept, rel=0.15)
        return
    # Before the first adapter nothing needs a gradient; the plan counts that layer all the same.
    first = (layer_bytes(spec, shape, compute, LENGTH) - _method_bytes(spec, shape, compute, True)) * BATCH * LENGTH
    assert 0.85 * (planned - first) < kept < 1.15 * planned


def _kept(spec: RunSpec, home: StudioHome) -> int:
    """Bytes of every storage saved for the backward pass in the forward pass of the layers, weights left out."""
    import contextlib

    import torch

    from studio.methods import get_method
    from studio.models.load import load_base
    from studio.train.cpu_attention import use_cpu_attention
    from studio.train.fast_lora import fuse_lora

    base = load_base(spec, home)
    model = get_method(spec.method.family).attach(base.model, spec, base.tokenizer)
    model.config.use_cache = False
    use_cpu_attention(base.model)
    fuse_lora(model)
    model.train()
    ids = torch.randint(10, 200, (BATCH, LENGTH), generator=torch.Generator().manual_seed(0))
    known = {tensor.untyped_storage().data_ptr() for tensor in [*model.parameters(), *model.buffers()]}
    kept: dict[int, Any] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept.setdefault(storage.data_ptr(), (storage.nbytes(), tensor))
        return tensor

    low = base.dtype == torch.bfloat16
    autocast = torch.autocast("cpu", dtype=torch.bfloat16) if low else contextlib.nullcontext()
    handle = base.model.lm_head.register_forward_pre_hook(lambda _, args: (args[0][:, :1],))
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), autocast:
        model(input_ids=ids).logits.float().sum()
    handle.remove()
    return sum(size for size, _ in kept.values())
