"""What this machine computes on, told without importing torch: device, memory, bf16, cores, and why.

Sources: nvidia-smi for CUDA, the platform for Apple's GPU, psutil and the process's control group for memory and cores,
/proc/cpuinfo for bf16 instructions. What is not known here: whether torch really reaches the GPU; `choose_device`, for child
processes, asks torch. AMD cards are reported as CPU, since the torch this project installs does not drive them.
"""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import subprocess
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

Device = Literal["cpu", "cuda", "mps"]
_ROOT = Path("/")
_NO_LIMIT = 1 << 60


@dataclass(frozen=True)
class Hardware:
    """The device a run uses. memory_bytes is what the device has, free_bytes what is free now; `reason` one sentence for a person."""

    device: Device
    name: str
    memory_bytes: int
    free_bytes: int
    bf16: bool
    cores: int
    reason: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class _Card:
    name: str
    memory_bytes: int
    free_bytes: int
    compute_capability: float


def detect_hardware() -> Hardware:
    """The device torch will most likely use here, and what it has. Never raises: at worst it is the CPU."""
    card, why_not = _find_card()
    if card:
        bf16 = card.compute_capability >= 8
        how = "computes in bf16" if bf16 else "has no bf16 units, so plain bases are held in fp32"
        reason = f"{card.name} with {_gib(card.memory_bytes)} of its own memory; it {how}."
        return Hardware("cuda", card.name, card.memory_bytes, card.free_bytes, bf16, count_cores(), reason)
    memory, free = memory_bytes()
    if platform.system() == "Darwin" and platform.machine() == "arm64":
        reason = f"Apple's GPU, sharing {_gib(memory)} of memory with the system; the quantized bases need an NVIDIA GPU or an x86 CPU."
        return Hardware("mps", "Apple GPU", memory, free, True, count_cores(), reason)
    return _cpu(memory, free, why_not)


def choose_device() -> Device:
    """The device for this child process: what torch itself can reach, CUDA first."""
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _cpu(memory: int, free: int, why_not: str) -> Hardware:
    bf16, cores = _cpu_bf16(), count_cores()
    how = "which computes in bf16" if bf16 else "without bf16 instructions, so plain bases are held in fp32"
    reason = f"{why_not}: the CPU is used, {cores} core{'s' if cores != 1 else ''} with {_gib(memory)} of memory, {how}."
    return Hardware("cpu", _cpu_name(), memory, free, bf16, cores, reason)


def _find_card() -> tuple[_Card | None, str]:
    """The CUDA card with the most free memory, or why there is none to use."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and visible.strip() in ("", "-1"):
        return None, "CUDA_VISIBLE_DEVICES hides every GPU"
    cards = _ask_nvidia_smi(visible)
    if not cards:
        return None, "No GPU was found"
    if _torch_without_cuda():
        return None, f"{cards[0].name} is there, but the installed torch is the CPU build"
    return cards[0], ""


def _ask_nvidia_smi(visible: str | None) -> list[_Card]:
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    query = "--query-gpu=name,memory.total,memory.free,compute_cap"
    # torch's first device is the first that CUDA_VISIBLE_DEVICES names; without it, the first of all.
    chosen = ["--id=" + visible.split(",")[0].strip()] if visible else []
    try:
        done = subprocess.run(
            [program, query, "--format=csv,noheader,nounits", *chosen], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    return parse_cards(done.stdout) if done.returncode == 0 else []


def parse_cards(text: str) -> list[_Card]:
    """Cards from nvidia-smi's CSV lines 'name, total MiB, free MiB, compute capability'; what cannot be read is left out."""
    cards = []
    for line in text.splitlines():
        with contextlib.suppress(ValueError):
            name, total, free, capability = (field.strip() for field in line.rsplit(",", 3))
            cards.append(_Card(name, int(total) << 20, int(free) << 20, float(capability)))
    return cards


def _torch_without_cuda() -> bool:
    """From the installed version's suffix ('2.13.0+cpu'), since importing torch here would cost seconds and 200 MB."""
    with contextlib.suppress(metadata.PackageNotFoundError):
        return metadata.version("torch").endswith("+cpu")
    return False


def memory_bytes(root: Path = _ROOT) -> tuple[int, int]:
    """Total and free memory of this process: the machine's, or its control group's limit where that is lower."""
    import psutil

    machine = psutil.virtual_memory()
    total, free = int(machine.total), int(machine.available)
    for limit, used in _group_limits(root):
        total, free = min(total, limit), min(free, max(0, limit - used))
    return total, free


def _group_limits(root: Path) -> list[tuple[int, int]]:
    """(limit, used) in bytes of every control group above this process that has one; versions 1 and 2."""
    pairs = [(folder / "memory.max", folder / "memory.current") for folder in _group_folders(root)]
    version_1 = root / "sys/fs/cgroup/memory"
    pairs.append((version_1 / "memory.limit_in_bytes", version_1 / "memory.usage_in_bytes"))
    found = [(_read_number(limit), _read_number(used)) for limit, used in pairs]
    return [(limit, used or 0) for limit, used in found if limit is not None and limit < _NO_LIMIT]


def _group_folders(root: Path) -> list[Path]:
    """This process's group of version 2 and those above it, up to the top."""
    top = root / "sys/fs/cgroup"
    with contextlib.suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            if line.startswith("0::"):
                own = top / line[3:].strip().lstrip("/")
                return [own, *(parent for parent in own.parents if parent == top or top in parent.parents)]
    return [top]


def _read_number(path: Path) -> int | None:
    with contextlib.suppress(OSError, ValueError):
        return int(path.read_text().split()[0])
    return None


def count_cores(root: Path = _ROOT) -> int:
    """Cores this process may use: its affinity, bounded by its control groups' quota; at least 1."""
    cores = float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    for folder in _group_folders(root):
        with contextlib.suppress(OSError, ValueError, IndexError, ZeroDivisionError):
            quota, period = (folder / "cpu.max").read_text().split()[:2]
            cores = min(cores, int(quota) / int(period))  # "max" is no number: no quota
    return max(1, int(cores))


def _cpu_flags(root: Path = _ROOT) -> set[str]:
    with contextlib.suppress(OSError):
        for line in (root / "proc/cpuinfo").read_text().splitlines():
            if line.lower().startswith(("flags", "features")):
                return set(line.split(":", 1)[1].split())
    return set()


def _cpu_bf16(root: Path = _ROOT) -> bool:
    return bool(_cpu_flags(root) & {"avx512_bf16", "amx_bf16", "bf16"})


def _cpu_name(root: Path = _ROOT) -> str:
    with contextlib.suppress(OSError, IndexError):
        for line in (root / "proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine() or "CPU"


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
