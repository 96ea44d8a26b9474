from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from studio.models import hardware
from studio.models.hardware import count_cores, detect_hardware, memory_bytes, parse_cards


def test_this_machine_is_described_as_it_is() -> None:
    found = detect_hardware()
    assert found.device in ("cpu", "cuda", "mps")
    assert 0 < found.free_bytes <= found.memory_bytes
    assert 1 <= found.cores <= (os.cpu_count() or 1)
    assert found.reason.endswith(".")
    assert found.to_json()["device"] == found.device


def test_torch_stays_out() -> None:
    code = "import sys; from studio.models.hardware import detect_hardware; detect_hardware(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_bf16_is_what_the_cpu_says(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    info = tmp_path / "proc/cpuinfo"
    info.write_text("model name\t: A CPU\nflags\t\t: fpu avx512f avx512_bf16 sse\n")
    assert hardware._cpu_bf16(tmp_path)
    info.write_text("model name\t: A CPU\nflags\t\t: fpu avx512f sse\n")
    assert not hardware._cpu_bf16(tmp_path)
    assert hardware._cpu_name(tmp_path) == "A CPU"


def _group(root: Path, where: str, **files: str) -> None:
    folder = root / "sys/fs/cgroup" / where
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("_", ".", 1)).write_text(text)


def test_a_container_bounds_memory_and_cores(tmp_path: Path) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("0::/outer/inner\n")
    _group(tmp_path, "", memory_max="max", memory_current="5")
    _group(tmp_path, "outer", memory_max=str(1 << 30), memory_current=str(1 << 28), cpu_max="100000 100000")
    _group(tmp_path, "outer/inner", memory_max="max", cpu_max="max 100000")
    total, free = memory_bytes(tmp_path)
    assert total == 1 << 30
    assert free == min((1 << 30) - (1 << 28), free)
    assert count_cores(tmp_path) == 1


def test_version_1_limits_count_and_its_word_for_none_does_not(tmp_path: Path) -> None:
    folder = tmp_path / "sys/fs/cgroup/memory"
    folder.mkdir(parents=True)
    (folder / "memory.usage_in_bytes").write_text("1000")
    (folder / "memory.limit_in_bytes").write_text("9223372036854771712")
    assert memory_bytes(tmp_path)[0] == psutil.virtual_memory().total
    (folder / "memory.limit_in_bytes").write_text("5000000")
    assert memory_bytes(tmp_path) == (5_000_000, 4_999_000)


def test_nvidia_smi_lines_become_cards() -> None:
    cards = parse_cards("NVIDIA H100 80GB HBM3, 81559, 81008, 9.0\nTesla T4, with a comma, 15360, 100, 7.5\n[N/A], [N/A], x, y\n")
    assert [card.name for card in cards] == ["NVIDIA H100 80GB HBM3", "Tesla T4, with a comma"]
    assert cards[0].memory_bytes == 81559 << 20
    assert cards[1].compute_capability == 7.5


def _pretend(monkeypatch: pytest.MonkeyPatch, folder: Path, line: str, torch_version: str) -> None:
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\necho '{line}'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(hardware.metadata, "version", lambda name: torch_version)


def test_a_card_is_used_with_its_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _pretend(monkeypatch, tmp_path, "Tesla T4, 15360, 15000, 7.5", "2.13.0+cu128")
    found = detect_hardware()
    assert (found.device, found.memory_bytes, found.bf16) == ("cuda", 15360 << 20, False)
    assert "fp32" in found.reason


def test_a_card_that_torch_cannot_use_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _pretend(monkeypatch, tmp_path, "NVIDIA A10, 23028, 22000, 8.6", "2.13.0+cpu")
    found = detect_hardware()
    assert found.device == "cpu"
    assert "NVIDIA A10" in found.reason
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert "CUDA_VISIBLE_DEVICES" in detect_hardware().reason
