"""Bytes a run needs, part by part, from the spec and the model's shape alone.

What autograd keeps was listed tensor by tensor on a real Llama (saved_tensors_hooks; tests/models/test_memory.py repeats it) and is
written down here per token and layer. The base is frozen, so a frozen linear layer keeps no input; what is kept are norms (in fp32,
whatever the base), attention, the MLP's product, and what the method adds. tests/benchmarks/plan_memory.py compares the sum with
the peak of real training processes. What is not known here: the allocator's luck, and models whose code keeps more than Llama's.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

from studio.core.shape import LinearShape, ModelShape
from studio.core.spec import AdapterSpec, LoraSpec, PrefixSpec, RunSpec
from studio.methods import get_method
from studio.methods.bottleneck import bottleneck_size
from studio.methods.targets import find_targets
from studio.models.hardware import Hardware
from studio.models.sizes import DataSize, batch_positions

PartName = Literal["weights", "adapter", "gradients", "optimizer", "activations", "logits", "overhead"]

# Bits per weight, arXiv 2305.14314: 4 bits, one fp32 absmax per 64 weights; double quantization holds that absmax in 8 bits, with one
# fp32 per 256 of them. Measured: 4.500 and 4.127.
_BITS_4 = 4 + 32 / 64
_BITS_4_DOUBLE = 4 + 8 / 64 + 32 / (64 * 256)
_DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
# Adam's two moments in fp32, or in 8 bits each with their block constants.
_OPTIMIZER_BYTES = {"adamw": 8.0, "adamw_8bit": 2.03, "paged_adamw_8bit": 2.03}
# The frozen head's loss works on this many logits at once (studio.train.loss): fp32 logits, their slope in fp32 and in bf16 meet there
# (measured on the function alone: 10 bytes per logit).
_CHUNK_LOGITS = 32 * 1024 * 1024
_CHUNK_BYTES = 10
# Gradients of activations and casts in flight while one layer runs backward, in layers' worth of kept activations (fitted on training
# processes of 1.4 to 4.1 GB: tests/benchmarks/plan_memory.py).
_LAYERS_IN_FLIGHT = 2.5
# Batches of many widths on a CPU: what is kept of the products of each width (studio.train.process.keep_few_primitives), and the holes
# that tensors of one width leave between those of another in the heap, as a share of the activations (fitted on the `varied` runs of the
# same benchmark).
_KEPT_PRODUCTS_BYTES = 100_000_000
_HOLES = 0.2
_PLAIN_ATTENTION_BYTES = 32 * 1024 * 1024
# Batches of random rows: the one with the most trained-on tokens against the mean.
_FULLEST_BATCH = 1.3
# All logits at once: bf16, fp32, log-softmax and its gradient.
_FULL_LOGITS_BYTES = 12
# Resident memory of a training process before the model: Python, torch, transformers, peft and their pages (measured). On a GPU the
# CUDA context and kernels, which the allocator's own peak does not count.
_OVERHEAD_BYTES = {"cpu": 650_000_000, "cuda": 600_000_000, "mps": 650_000_000}


@dataclass(frozen=True)
class MemoryPart:
    """One part of the memory a run needs, and in words what it is made of."""

    name: PartName
    bytes: int
    note: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def plan_memory(spec: RunSpec, shape: ModelShape, hardware: Hardware, size: DataSize) -> tuple[MemoryPart, ...]:
    """Every part, in the order of PartName. Their sum is the planned peak."""
    trained = get_method(spec.method.family).added_parameters(spec.method, shape)
    element = _DTYPE_BYTES[base_dtype(spec, hardware)]
    return (
        _weights(spec, shape, element),
        MemoryPart("adapter", 4 * trained, "the trained parameters, in fp32"),
        MemoryPart("gradients", 4 * trained, "one fp32 number per trained parameter; the frozen base has none"),
        _optimizer(spec, trained),
        _activations(spec, shape, hardware, size),
        _logits(spec, shape, size),
        _overhead(spec, hardware, size),
    )


def _overhead(spec: RunSpec, hardware: Hardware, size: DataSize) -> MemoryPart:
    itself, note = _OVERHEAD_BYTES[hardware.device], "the process itself: Python, torch and its libraries"
    if compute_bytes(spec, hardware) == 2 and _many_widths(spec, hardware, size):
        return MemoryPart("overhead", itself + _KEPT_PRODUCTS_BYTES, f"{note}, and what it keeps of each width of batch")
    return MemoryPart("overhead", itself, note)


def base_dtype(spec: RunSpec, hardware: Hardware) -> str:
    """What the unquantized weights are held in, `auto` resolved for this machine."""
    if spec.model.dtype != "auto":
        return spec.model.dtype
    return "bfloat16" if hardware.bf16 else "float32"


def weight_bytes(shape: ModelShape, quantization: str, element: int, double: bool = True) -> int:
    """Bytes of the base: linear layers as quantized, everything else (embeddings, norms, LM head) in `element` bytes each."""
    linear = shape.linear_weights
    rest = (shape.parameters - linear) * element
    if quantization == "none":
        return linear * element + rest
    if quantization == "int8":
        scales = 4 * shape.layers * sum(layer.out_features for layer in shape.linears)
        return linear + scales + rest
    return round(linear * (_BITS_4_DOUBLE if double else _BITS_4) / 8) + rest


def _weights(spec: RunSpec, shape: ModelShape, element: int) -> MemoryPart:
    quantization = spec.quantization
    total = weight_bytes(shape, quantization, element, spec.model.double_quantization)
    head = "embeddings and LM head are one matrix" if shape.tied_embeddings else "embeddings and LM head apart"
    if quantization == "none":
        return MemoryPart("weights", total, f"{8 * element} bits each; {head}")
    bits = {"int8": 8.0}.get(quantization, _BITS_4_DOUBLE if spec.model.double_quantization else _BITS_4)
    return MemoryPart("weights", total, f"linear layers in {bits:.4g} bits ({quantization}), the rest in {8 * element}; {head}")


def _optimizer(spec: RunSpec, trained: int) -> MemoryPart:
    each = _OPTIMIZER_BYTES[spec.training.optimizer]
    note = "Adam's two moments, fp32" if each == 8 else "Adam's two moments, 8 bits each"
    return MemoryPart("optimizer", round(each * trained), note)


def _activations(spec: RunSpec, shape: ModelShape, hardware: Hardware, size: DataSize) -> MemoryPart:
    positions = batch_positions(spec, size)
    length = positions // spec.training.batch_size
    compute = compute_bytes(spec, hardware)
    each = layer_bytes(spec, shape, compute, length, hardware.device == "cpu") * positions
    layer = each + _per_layer(spec, shape, compute)
    where = f"{spec.training.batch_size} × {length} positions, {shape.layers} layers"
    if spec.training.gradient_checkpointing:
        kept = shape.layers * positions * compute * shape.hidden + layer
        note = f"{where}, each layer's input and one layer in full (checkpointing)"
    else:
        kept, note = shape.layers * layer, f"what the backward pass needs: {where}"
    holes = 1 + _HOLES if _many_widths(spec, hardware, size) else 1
    return MemoryPart("activations", round(holes * (kept + _LAYERS_IN_FLIGHT * each)), note)


def _many_widths(spec: RunSpec, hardware: Hardware, size: DataSize) -> bool:
    """Whether this is a CPU that meets batches of different widths."""
    return hardware.device == "cpu" and spec.training.padding != "fixed" and size.mean_tokens < size.longest_tokens


def compute_bytes(spec: RunSpec, hardware: Hardware) -> int:
    """Bytes of a number in the forward pass."""
    precision = spec.training.precision
    if precision == "auto":
        return _DTYPE_BYTES[base_dtype(spec, hardware)]
    return 4 if precision == "fp32" else 2


def layer_bytes(spec: RunSpec, shape: ModelShape, compute: int, length: int, on_cpu: bool = True) -> float:
    """Bytes one layer keeps per position for the backward pass: the frozen block, and what the method adds to it."""
    norms = 2 * 4 * shape.hidden + 8
    gated = any(linear.short_name in ("gate_proj", "gate_up_proj") for linear in shape.linears)
    mlp = compute * shape.intermediate * (3 if gated else 2)
    # bitsandbytes' int8 product keeps its input, which no hook sees: it hangs on the node itself.
    inputs = compute * _shared_inputs(shape.linears) if spec.quantization == "int8" else 0
    attention = _attention_bytes(spec, shape, compute, length, on_cpu)
    return norms + mlp + inputs + attention + _method_bytes(spec, shape, compute, on_cpu)


def _attention_bytes(spec: RunSpec, shape: ModelShape, compute: int, length: int, on_cpu: bool) -> float:
    query, prefix = shape.heads * shape.head_dim, 0
    if isinstance(spec.method, PrefixSpec):
        prefix = spec.method.virtual_tokens
    if spec.model.attention == "eager":
        # Scores of every pair of positions, before and after the softmax; keys and values repeated for every head.
        return compute * 3 * query + shape.heads * (length + prefix) * (4 + compute)
    if prefix:
        # A prefix needs a mask, and with it keys and values are repeated for every head.
        return compute * (2 * query + 2 * query * (length + prefix) / length + (length + prefix)) + 4 * shape.heads
    scores = spec.training.batch_size * shape.heads * length * length * compute
    if on_cpu and scores <= _PLAIN_ATTENTION_BYTES:
        # Training on a CPU keeps the probabilities of every pair of positions where they are few (studio.train.cpu_attention).
        return compute * (query + 2 * shape.kv_width + shape.heads * length)
    return compute * (2 * query + 2 * shape.kv_width) + 4 * shape.heads


def _method_bytes(spec: RunSpec, shape: ModelShape, compute: int, on_cpu: bool) -> float:
    method = spec.method
    if isinstance(method, LoraSpec):
        fused = on_cpu and spec.quantization == "none" and not method.dropout and not method.dora
        return _lora_bytes(method, shape, compute, fused or compute == 4)
    if isinstance(method, AdapterSpec):
        inner = bottleneck_size(method, shape.hidden) * (1 if method.activation == "relu" else 2)
        each = compute * (shape.hidden + inner) + (4 * inner if method.dropout else 0)
        return each * (2 if method.placement == "houlsby" else 1)
    return 0.0


def _lora_bytes(method: LoraSpec, shape: ModelShape, compute: int, shared: bool) -> float:
    """Each adapted layer keeps its own 16-bit copy of its input; in fp32, and fused on a CPU, layers that read one input share it."""
    targets = list(find_targets(method, shape))
    total = 0.0
    for target in targets:
        linear = target.linear
        total += compute * target.rank
        total += compute * linear.in_features if not shared or method.dropout else 0
        total += 4 * linear.in_features if method.dropout else 0
        total += 2 * compute * linear.out_features if method.dora else 0
    if shared and not method.dropout:
        total += compute * len({target.layer for target in targets}) * _shared_inputs({target.linear for target in targets})
    return total / shape.layers


def _shared_inputs(linears: Iterable[LinearShape]) -> int:
    """Width of the distinct inputs of these layers: q, k and v read one, gate and up read one."""
    first = ("gate_proj", "up_proj", "gate_up_proj", "c_fc", "fc1")
    groups = {}
    for linear in linears:
        output_of_attention = linear.is_attention and linear.short_name in ("o_proj", "out_proj", "c_proj")
        kind = "attention" if linear.is_attention else "mlp" if linear.short_name in first else "down"
        groups["out" if output_of_attention else kind] = linear.in_features
    return sum(groups.values())


def _per_layer(spec: RunSpec, shape: ModelShape, compute: int) -> float:
    """Bytes a layer keeps whatever the batch: adapter weights cast for autocast, and DoRA's identity matrices."""
    trained = get_method(spec.method.family).added_parameters(spec.method, shape) / shape.layers
    cast = compute * trained if compute == 2 and not isinstance(spec.method, PrefixSpec) else 0.0
    if isinstance(spec.method, LoraSpec) and spec.method.dora:
        squares = sum(target.linear.in_features**2 for target in find_targets(spec.method, shape))
        return cast + compute * squares / shape.layers
    return cast


def _logits(spec: RunSpec, shape: ModelShape, size: DataSize) -> MemoryPart:
    positions = batch_positions(spec, size)
    if not spec.training.labelled_head:
        return MemoryPart("logits", positions * shape.vocabulary * _FULL_LOGITS_BYTES, f"{shape.vocabulary:,} numbers at every position")
    labelled = _most_labelled(spec, size, positions)
    rows = max(1, _CHUNK_LOGITS // shape.vocabulary)
    at_once = min(labelled, rows)
    return MemoryPart(
        "logits",
        shape.vocabulary * _CHUNK_BYTES * at_once,
        f"{shape.vocabulary:,} numbers at {at_once} of {labelled} trained-on positions at a time",
    )


def _most_labelled(spec: RunSpec, size: DataSize, positions: int) -> int:
    """Trained-on positions of the fullest batch: the longest rows where batches are grouped by length, else rows as they come."""
    tokens = float(positions)
    if spec.training.padding != "grouped":
        tokens = min(tokens, spec.training.batch_size * size.mean_tokens * _FULLEST_BATCH)
    return round(tokens * size.labelled_share)
