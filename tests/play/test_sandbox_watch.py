"""What the sandbox's watcher counts."""

from __future__ import annotations

import pytest

from studio.play import sandbox_watch


def test_a_process_that_ends_while_it_is_measured_holds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen as large, then gone: its former size is not added to the pages that another still has."""
    answers = {
        "/proc/1/status": [[60_000, 0, 60_000]],
        "/proc/2/status": [[60_000, 0, 60_000], [0, 0]],
        "/proc/1/smaps_rollup": [[60_000, 0]],
        "/proc/2/smaps_rollup": [[0, 0]],
    }
    monkeypatch.setattr(sandbox_watch, "_kilobytes", lambda path, *names: answers[path].pop(0))
    total, largest = sandbox_watch.memory_of([1, 2], 100_000 * 1024)
    assert (total, largest) == (60_000 * 1024, 60_000 * 1024)
