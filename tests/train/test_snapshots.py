"""Snapshots of the adapter: few, evenly spread, first and last among them."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

from studio.core.paths import RunPaths
from studio.train.snapshots import MAX_SNAPSHOTS, thin_out


def test_at_most_so_many_evenly_spread(tmp_path: Path) -> None:
    paths = RunPaths(tmp_path)
    for step in range(0, 1010, 10):
        (paths.snapshots / f"step-{step:06d}").mkdir(parents=True)
        thin_out(paths)
        steps = sorted(int(path.name[5:]) for path in paths.snapshots.iterdir())
        assert len(steps) <= MAX_SNAPSHOTS
        assert steps[0] == 0 and steps[-1] == step
    gaps = [later - earlier for earlier, later in pairwise(steps)]
    assert max(gaps) <= 200
