"""The exported script, run by a plain Python that cannot import the studio, has the run's losses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from studio.core.errors import RunError
from studio.core.files import read_lines, write_json
from studio.export.script import write_script
from studio.export.source import ExportSource, read_source
from studio.export.standalone import order_batches
from studio.train.batches import order_batches as order_in_training

TOLERANCE = 2e-5
"""Nats. In fp32 only the order of additions differs: the studio computes LoRA and attention its own way."""


def run_script(folder: Path) -> dict:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": ""}
    program = (
        "import sys, runpy; sys.modules['studio'] = None; sys.path[0] = ''; sys.argv = ['train.py', '--json']; "
        "runpy.run_path('train.py', run_name='__main__')"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", ["lora", "dropout", "pissa", "qlora", "adapter", "prefix"])
def test_the_script_has_the_run_s_losses(trained: Callable[[str], ExportSource], tmp_path: Path, name: str) -> None:
    source = trained(name)
    result = run_script(write_script(source, tmp_path / "script"))
    lines, _ = read_lines(source.paths.metrics)
    losses = [line["loss"] for line in lines if "loss" in line]
    evals = {str(line["step"]): line["eval_loss"] for line in lines if "eval_loss" in line}
    assert len(losses) == source.result.steps
    # LoRA+ multiplies the learning rate: a rounding error grows about threefold a step.
    tolerance = {"qlora": 2e-4, "pissa": 2e-4, "dropout": 1e-3}.get(name, TOLERANCE)
    assert result["losses"] == pytest.approx(losses, abs=max(tolerance, 1e-4))
    assert {step: result["eval_losses"][step] for step in evals} == pytest.approx(evals, abs=tolerance)
    assert result["eval_loss_after"] < result["eval_loss_before"]
    assert (tmp_path / "script" / "adapter" / "adapter_model.safetensors").is_file()


@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=300),
    st.integers(1, 9),
    st.sampled_from(["grouped", "batch", "fixed"]),
    st.integers(0, 99),
)
def test_batches_are_those_of_training(lengths: list[int], size: int, padding: str, seed: int) -> None:
    assert order_batches(lengths, size, padding, seed) == order_in_training(lengths, size, padding, seed)


def test_changed_data_are_noticed(trained: Callable[[str], ExportSource], tmp_path: Path) -> None:
    source = trained("int8")
    kept = source.paths.environment.read_bytes()
    write_json(source.paths.environment, {**source.environment, "data_fingerprint": "another"})
    try:
        with pytest.raises(RunError, match="data have changed"):
            write_script(read_source(source.home, source.paths.id), tmp_path / "script")
    finally:
        source.paths.environment.write_bytes(kept)
    assert not list(tmp_path.iterdir())
