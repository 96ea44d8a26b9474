"""`plan`, `nf4` and `spectrum` print a screenful by default, with the report's own numbers; --full prints them all."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from studio.cli.output import table_lines
from studio.cli.summaries import changes_summary, module_summary

Run = Callable[..., tuple[int, str, str]]
SCREEN = (40, 140)
"""Lines and columns."""


def summary_and_report(run: Run, *arguments: str) -> tuple[str, dict[str, Any]]:
    """What the verb prints by default, checked to be a screenful, and its JSON."""
    codes, texts = zip(*((code, out) for code, out, _ in (run(*arguments, *more) for more in ((), ("--full",), ("--json",)))), strict=True)
    short, full, report = texts
    assert codes == (0, 0, 0)
    assert len(short.splitlines()) <= SCREEN[0] and max(map(len, short.splitlines())) <= SCREEN[1]
    assert len(full.splitlines()) > len(short.splitlines()) and "--full" in short and "--full" not in full
    return short, json.loads(report.splitlines()[-1])


def test_a_plan_in_a_screenful(run: Run) -> None:
    text, plan = summary_and_report(run, "plan", "lecture")
    assert text.startswith("lora on meta-llama/Llama-3.2-1B: 851,968 of 1.237 B parameters trained (0.0689 %)")
    assert plan["verdict"]["sentence"] in text
    for part in plan["memory"]:
        assert part["note"] in text
    assert [line.split()[1] for line in text.splitlines() if line.startswith("* ")] == ["LoRA"]


def test_a_module_in_four_bits_in_a_screenful(run: Run, tiny_llama: Path) -> None:
    text, report = summary_and_report(run, "nf4", str(tiny_llama), "--module", "q_proj")
    every = sum(report["code_counts"])
    rows = [line.split() for line in text.splitlines() if line.strip().endswith("█")]
    assert [float(row[2]) for row in rows] == pytest.approx([100 * count / every for count in report["code_counts"]], abs=0.051)
    assert f"{100 * report['types']['int8']['relative_rmse']:.2f} %" in text


def test_a_model_in_four_bits_in_a_screenful(run: Run, tiny_llama: Path) -> None:
    text, report = summary_and_report(run, "nf4", str(tiny_llama))
    errors = [100 * m["errors"]["nf4"]["relative_rmse"] for m in report["modules"] if m["module"] == "self_attn.q_proj"]
    line = next(line for line in text.splitlines() if line.startswith("self_attn.q_proj")).split()
    assert (line[1], float(line[4])) == (str(len(errors)), pytest.approx(max(errors), abs=0.0051))


def test_weights_without_error_or_spread_are_told_too(run: Run, tiny_llama: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_llama, tmp_path / "exact")
    tensors = load_file(folder / "model.safetensors")
    exact = {name: torch.randint(-1, 2, tensor.shape).to(tensor.dtype) for name, tensor in tensors.items() if "_proj" in name}
    exact["model.layers.0.self_attn.k_proj.weight"].zero_()
    save_file({**tensors, **exact}, folder / "model.safetensors", metadata={"format": "pt"})
    text, report = summary_and_report(run, "nf4", str(folder))
    assert report["totals"]["nf4"]["sqnr_db"] is None and "no error" in text
    for module in ("k_proj", "q_proj"):
        text, report = summary_and_report(run, "nf4", str(folder), "--layer", "0", "--module", module)
        assert "no error" in text
        assert ("kurtosis" in text) == (report["weights"]["excess_kurtosis"] is not None) == (module == "q_proj")


def test_a_spectrum_in_a_screenful(run: Run, lively_llama: Path, make_adapter: Callable[..., Path]) -> None:
    folder = str(make_adapter("lora", 1))
    text, report = summary_and_report(run, "spectrum", folder)
    kinds = {module["module"] for module in report["modules"]}
    assert all(any(line.startswith(kind) for line in text.splitlines()) for kind in kinds)
    assert all(advice["hypothesis"].split()[0] in text for advice in report["advice"])
    module = report["modules"][0]
    text, report = summary_and_report(
        run, "spectrum", folder, "--layer", "0", "--module", module["module"], "--base", str(lively_llama), "--other", folder
    )
    assert f"{report['modules'][0]['name']}: " in text
    assert f"factor {report['amplification']['factor']:.4g}" in text and "similarity" in text


def test_a_whole_models_change() -> None:
    ranks = {"frobenius": 1.0, "largest": 1.0, "effective_rank": 2.0, "stable_rank": 1.5, "energy_rank": 2}
    change = {"name": "m", "rows": 4, "columns": 40, "singular_values": [1 / n for n in range(1, 41)], "ranks": ranks}
    change |= {"relative_norm": 0.02, "noise_floor": 0.1, "rank_above_noise": 3}
    lines = list(module_summary(change))
    assert "2 of 40 directions hold 90 %" in lines[1] and lines[2] == "the change is 2 % of the base's norm"
    assert lines[3] == "singular values 1 0.5 0.333 0.25 0.2 0.167 0.143 0.125 … (40 in all)"
    modules = [{"module": "q", "layer": layer, "relative_norm": norm} for layer, norm in ((0, 0.01), (1, 0.03), (2, None), (3, 0.02))]
    shown = list(changes_summary({"base": "b", "tuned": "t", "modules": modules}))
    assert shown[-1].split() == ["q", "3", "2", "%", "3", "%", "1"]


def test_numbers_end_flush() -> None:
    assert table_lines(("A", "B"), [("x", "1"), ("yy", "100")], right=(1,)) == ["A     B", "x     1", "yy  100"]
