"""How fast spectra are found, against dense SVD of the same updates.

    python tests/benchmarks/spectrum.py [--json]

1. A 7B-shape adapter (32 layers x 7 modules, r 64, fp32) written to a temporary folder: seconds for all its spectra.
2. One module of 2048 x 2048 at r 64: factored against forming dW and dense SVD (numpy, float64), singular values only.
3. The largest difference between the two, relative to the largest singular value.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from studio.analysis.spectrum import adapter_spectrum, factored_values

SHAPES = {
    "self_attn.q_proj": (4096, 4096),
    "self_attn.k_proj": (4096, 4096),
    "self_attn.v_proj": (4096, 4096),
    "self_attn.o_proj": (4096, 4096),
    "mlp.gate_proj": (11008, 4096),
    "mlp.up_proj": (11008, 4096),
    "mlp.down_proj": (4096, 11008),
}
LAYERS, R, SIDE = 32, 64, 2048
FACTORED_ROUNDS, DENSE_ROUNDS = 15, 3


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def write_adapter(folder: Path) -> None:
    """An adapter of normal A and small B in a 7B model's shapes."""
    from safetensors.numpy import save_file

    generator = np.random.default_rng(0)
    tensors = {}
    for layer in range(LAYERS):
        for module, (rows, columns) in SHAPES.items():
            name = f"base_model.model.model.layers.{layer}.{module}"
            tensors[f"{name}.lora_A.weight"] = generator.standard_normal((R, columns), dtype=np.float32)
            tensors[f"{name}.lora_B.weight"] = generator.standard_normal((rows, R), dtype=np.float32) * np.float32(0.01)
    save_file(tensors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": R, "lora_alpha": 2 * R}))


def measure() -> dict[str, float]:
    """Seconds and ratios of the docstring's three points."""
    with tempfile.TemporaryDirectory() as folder:
        write_adapter(Path(folder))
        whole = _seconds(lambda: adapter_spectrum(Path(folder)))
    generator = np.random.default_rng(1)
    a, b = generator.standard_normal((R, SIDE)), generator.standard_normal((SIDE, R))
    factored, dense = factored_values(a, b, 2.0), np.linalg.svd(2.0 * b @ a, compute_uv=False)
    fast = median(_seconds(lambda: factored_values(a, b, 2.0)) for _ in range(FACTORED_ROUNDS))
    slow = median(_seconds(lambda: np.linalg.svd(2.0 * b @ a, compute_uv=False)) for _ in range(DENSE_ROUNDS))
    return {
        "adapter_7b_s": whole,
        "factored_ms": 1000 * fast,
        "dense_ms": 1000 * slow,
        "times_faster": slow / fast,
        "largest_difference": float(np.abs(factored - dense[:R]).max() / dense[0]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one line of JSON instead of sentences")
    arguments = parser.parse_args()
    result = measure()
    if arguments.json:
        print(json.dumps({name: float(f"{value:.4g}") for name, value in result.items()}))
        return
    print(f"7B-shape adapter, {LAYERS} layers x {len(SHAPES)} modules, r {R}: {result['adapter_7b_s']:.2f} s (goal: under 5)")
    print(f"{SIDE} x {SIDE}, r {R}: {result['factored_ms']:.1f} ms against {result['dense_ms']:.0f} ms dense")
    print(
        f"{result['times_faster']:.0f} times faster (goal: at least 100), difference {result['largest_difference']:.1e} (goal: under 1e-6)"
    )


if __name__ == "__main__":
    main()
