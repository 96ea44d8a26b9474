"""What a run reports to TensorBoard and trackio, read back with their own readers: every loss of the curve at its step."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from studio.core.files import read_lines
from studio.core.paths import RunPaths
from studio.core.spec import RunSpec

Curves = dict[str, dict[int, float]]
READ_TRACKIO = """
import json, sys
from trackio.sqlite_storage import SQLiteStorage
print(json.dumps(SQLiteStorage.get_logs("peft-studio", sys.argv[1])))
"""


def read_tensorboard(paths: RunPaths) -> Curves:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(paths.folder / "tensorboard"))
    events.Reload()
    return {name: {point.step: point.value for point in events.Scalars(tag)} for name, tag in TAGS.items()}


def read_trackio(paths: RunPaths) -> Curves:
    """In a process of its own: where the database lies is read once, at import. Its own steps count logs; the Trainer's are a metric."""
    done = subprocess.run([sys.executable, "-c", READ_TRACKIO, paths.id], capture_output=True, text=True, check=True)
    logs = json.loads(done.stdout.splitlines()[-1])
    return {name: {log["train/global_step"]: log[tag] for log in logs if tag in log} for name, tag in TAGS.items()}


TAGS = {"loss": "train/loss", "eval_loss": "eval/loss", "learning_rate": "train/learning_rate"}


@pytest.mark.parametrize(("tracker", "read"), [("tensorboard", read_tensorboard), ("trackio", read_trackio)])
def test_every_loss_arrives_at_its_step(
    make_spec: Callable[..., RunSpec], make_run: Callable[..., RunPaths], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    tracker: str, read: Callable[[RunPaths], Curves],
) -> None:  # fmt: skip
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    monkeypatch.delenv("TENSORBOARD_LOGGING_DIR", raising=False)
    paths = make_run(make_spec(max_steps=6, eval_every=3, report_to=tracker), "20260101-000000-tracked")
    with paths.log.open("ab") as log:
        done = subprocess.run([sys.executable, "-m", "studio.train", str(paths.folder)], stdout=log, stderr=log, check=False, timeout=300)
    assert done.returncode == 0, paths.log.read_text()
    lines = read_lines(paths.metrics)[0]
    found = read(paths)
    for name in TAGS:
        curve = {line["step"]: line[name] for line in lines if name in line}
        assert found[name] == pytest.approx(curve, rel=1e-6) and len(curve) >= 2, name
    assert len(found["loss"]) == 6
    assert os.environ.get("TENSORBOARD_LOGGING_DIR") is None
