"""How fast and in how much memory a whole model is analysed, against bitsandbytes' quantization alone.

    python tests/benchmarks/nf4.py MODEL_FOLDER [--json] [--skip-large]

1. All linear layers of MODEL_FOLDER, four types, against the time bitsandbytes needs to quantize the same tensors to NF4; the two
   take turns and the medians are compared. Loading the tensors is outside bitsandbytes' time and inside ours.
2. The second look, from the cache.
3. A generated file of a 7B model's shapes, at least 4 GB, in a process of its own: seconds and peak resident memory.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from studio.analysis.model_report import report_model
from studio.analysis.tensors import open_model

SHAPES = {
    "self_attn.q_proj": (4096, 4096),
    "self_attn.k_proj": (4096, 4096),
    "self_attn.v_proj": (4096, 4096),
    "self_attn.o_proj": (4096, 4096),
    "mlp.gate_proj": (11008, 4096),
    "mlp.up_proj": (11008, 4096),
    "mlp.down_proj": (4096, 11008),
}
LARGE_LAYERS = 11
ROUNDS = 5


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def compare_with_bitsandbytes(folder: Path) -> dict[str, float]:
    """Median seconds of both, in turns, and their ratio; seconds of a second look."""
    import bitsandbytes.functional as functional
    import torch
    from safetensors import safe_open

    torch.set_num_threads(2)
    refs = [linear.tensor for linear in open_model(folder).linear_layers]
    tensors = []
    for ref in refs:
        with safe_open(ref.file, "pt") as file:
            tensors.append(file.get_tensor(ref.name))

    def quantize() -> None:
        for tensor in tensors:
            functional.quantize_4bit(tensor, blocksize=64, quant_type="nf4")

    quantize()
    pairs = [(_seconds(quantize), _seconds(lambda: report_model(folder))) for _ in range(ROUNDS)]
    theirs, ours = median(pair[0] for pair in pairs), median(pair[1] for pair in pairs)
    with tempfile.TemporaryDirectory() as cache:
        report_model(folder, cache=Path(cache))
        again = _seconds(lambda: report_model(folder, cache=Path(cache)))
    return {
        "bitsandbytes_nf4_s": theirs,
        "four_types_s": ours,
        "ratio": median(pair[1] / pair[0] for pair in pairs),
        "second_look_ms": 1000 * again,
    }


def write_large(file: Path) -> int:
    """A safetensors file of bfloat16 normal weights in a 7B model's shapes, LARGE_LAYERS layers; returns its bytes."""
    header, offset = {}, 0
    for layer in range(LARGE_LAYERS):
        for module, shape in SHAPES.items():
            size = 2 * shape[0] * shape[1]
            name = f"model.layers.{layer}.{module}.weight"
            header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, offset + size]}
            offset += size
    raw = json.dumps(header).encode()
    raw += b" " * (-len(raw) % 8)
    weights = np.random.default_rng(0).standard_normal(1 << 24, dtype=np.float32) * np.float32(0.02)
    pool = (weights.view(np.uint32) >> np.uint32(16)).astype("<u2").tobytes()
    with file.open("wb") as stream:
        stream.write(len(raw).to_bytes(8, "little") + raw)
        for start in range(0, offset, len(pool)):
            stream.write(pool[: offset - start])
    return file.stat().st_size


def measure_large() -> dict[str, float]:
    """Analyse the generated file in a child and return what it printed."""
    with tempfile.TemporaryDirectory() as folder:
        size_bytes = write_large(Path(folder) / "model.safetensors")
        command = [sys.executable, __file__, folder, "--child"]
        result = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return {"large_file_gb": size_bytes / 1e9, **result}


def _report_alone(folder: Path) -> dict[str, float]:
    seconds = _seconds(lambda: report_model(folder))
    return {"large_s": seconds, "large_peak_rss_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model_folder", type=Path)
    parser.add_argument("--json", action="store_true", help="one line of JSON instead of sentences")
    parser.add_argument("--skip-large", action="store_true", help="leave the 4 GB file out")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(_report_alone(arguments.model_folder)))
        return
    result = compare_with_bitsandbytes(arguments.model_folder)
    if not arguments.skip_large:
        result |= measure_large()
    if arguments.json:
        print(json.dumps({name: round(value, 4) for name, value in result.items()}))
        return
    print(f"bitsandbytes, NF4 only: {result['bitsandbytes_nf4_s']:.2f} s; four types, measured: {result['four_types_s']:.2f} s")
    print(f"ratio: {result['ratio']:.2f} (goal: at most 3); second look: {result['second_look_ms']:.1f} ms (goal: under 300)")
    if "large_s" in result:
        print(
            f"{result['large_file_gb']:.1f} GB file: {result['large_s']:.1f} s, peak {result['large_peak_rss_gb']:.2f} GB (goal: under 2)"
        )


if __name__ == "__main__":
    main()
