"""How long a run takes: arithmetic of the frozen-base step over a rate measured on this kind of device. An estimate, and called one.

Per position (arXiv 2001.08361 counts 2 operations per weight): forward 2, gradient of the input 2; the frozen base has no gradient of its
weights. What is trained adds 6 per parameter, gradient checkpointing runs the forward pass twice, attention costs 6 x length x width.
The rates are what this project's own training reached, not what the hardware could; other programs share the machine, so times
may double.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from studio.core.shape import ModelShape
from studio.core.spec import PrefixSpec, RunSpec
from studio.methods import get_method
from studio.models.hardware import Hardware
from studio.models.sizes import DataSize, count_steps, row_positions

EVALUATIONS = 6
"""Evaluations of a run that leaves eval_every to the studio: before the first step and five during it."""
_START_S = 15.0
"""Imports, loading and saving."""

# Operations per second that training reaches, per core on CPUs: bf16 fitted on quickstarts of 480 and 880 rows (199 s and 301 s with
# AVX512-BF16), fp32 scaled from its share of the matrix product; neither measured elsewhere.
_CPU_RATE = {2: 175e9, 4: 45e9}
# Dense 16-bit peak of GPUs by name, and the share of it that fine-tuning with adapters reaches.
_GPU_PEAK = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40": 181e12, "L4": 121e12, "A10": 125e12, "4090": 165e12, "3090": 71e12,
             "V100": 125e12, "T4": 65e12}  # fmt: skip
_GPU_SHARE = 0.3
_GPU_UNKNOWN = 60e12
_MPS_RATE = 2e12
# What the quantized bases cost on top: the weights are unpacked in every pass.
_QUANTIZED = {"none": 1.0, "int8": 1.5, "nf4": 1.25, "fp4": 1.25}


@dataclass(frozen=True)
class Duration:
    """steps and seconds of the whole run, 0 where the number of rows is not known yet; step_s is the time of one optimizer step."""

    steps: int
    step_s: float
    seconds: float
    tokens_per_s: float
    note: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def plan_duration(spec: RunSpec, shape: ModelShape, hardware: Hardware, size: DataSize, compute: int) -> Duration:
    """Time of the run on this hardware. `compute`: bytes of a number in the forward pass, 2 or 4."""
    rate = device_rate(hardware, compute) / _QUANTIZED[spec.quantization]
    positions = row_positions(spec, size)
    labelled = size.mean_tokens * size.labelled_share if spec.training.labelled_head else positions
    row_s = row_operations(spec, shape, positions, labelled) / rate
    step_s = row_s * spec.training.batch_size * spec.training.accumulation
    steps = count_steps(spec, size)
    seconds = 0.0
    if steps:
        evaluations = EVALUATIONS if not spec.training.eval_every else 1 + steps // spec.training.eval_every
        # Without gradients about half of the work.
        seconds = _START_S + steps * step_s + evaluations * size.held_out_rows * row_s / 2
    note = f"an estimate from {rate / 1e9:,.0f} billion operations per second, the rate fitted for this kind of device; {size.source}"
    return Duration(steps, step_s, seconds, size.mean_tokens / row_s, note)


def row_operations(spec: RunSpec, shape: ModelShape, positions: float, labelled: float) -> float:
    """Floating-point operations of one example, forward and backward."""
    passes = 6 if spec.training.gradient_checkpointing else 4
    trained = 0 if isinstance(spec.method, PrefixSpec) else get_method(spec.method.family).added_parameters(spec.method, shape)
    attention = 6 * positions * shape.heads * shape.head_dim * shape.layers
    head = 4 * shape.vocabulary * shape.hidden * labelled
    return positions * (passes * shape.linear_weights + 6 * trained + attention) + head


def device_rate(hardware: Hardware, compute: int) -> float:
    """Operations per second that training reaches there."""
    if hardware.device == "mps":
        return _MPS_RATE
    if hardware.device == "cuda":
        peak = next((peak for name, peak in _GPU_PEAK.items() if name in hardware.name), _GPU_UNKNOWN)
        return peak * _GPU_SHARE * (1 if compute == 2 else 0.25)
    fast = compute == 2 and hardware.bf16
    return hardware.cores * _CPU_RATE[2 if fast else 4]
