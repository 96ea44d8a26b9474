"""What fails half-way leaves no progress bar that moves for ever, and still says why."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from studio.core.errors import AnalysisError
from studio.core.paths import StudioHome
from studio.jobs.worker import Event
from studio.ui import insides, quantization, quantization_effect, rank_tuned


class FailingWorker:
    """Answers with one event of progress and then fails."""

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def stream(self, verb, **_):
        yield Event("progress", [0, 14] if verb in ("model", "deltas") else "Loading the model")
        raise AnalysisError("It broke.", "Mend it.")

    def call(self, verb, **_):
        raise AnalysisError("It broke.", "Mend it.")

    def close(self, grace_s=2.0):
        pass


@pytest.fixture
def studio(studio_home, monkeypatch):
    for module in (insides, quantization_effect):
        monkeypatch.setattr(module, "Worker", FailingWorker)
    return SimpleNamespace(home=StudioHome.find(studio_home), analysis=FailingWorker())


GENERATORS = {
    "insides": lambda studio: insides.looked_into(studio, "run", "Count."),
    "effect": lambda studio: quantization_effect.measure(studio, "starter", 64, True, "0|q_proj"),
    "model": lambda studio: quantization.measured(studio, ("starter", 64, True), "nf4", ""),
    "tuned": lambda studio: rank_tuned.measured(studio, ("starter", "tuned")),
    "delta": lambda studio: rank_tuned.module_values(studio, ("starter", "tuned"), "0|q_proj"),
}


@pytest.mark.parametrize("name", GENERATORS)
def test_no_bar_stays(name, studio):
    shown = []
    with pytest.raises(AnalysisError, match="It broke"):
        for values in GENERATORS[name](studio):
            shown.append(values if isinstance(values, str) else values[0])
    assert "progressbar" in shown[0]
    assert "progressbar" not in shown[-1]


def test_the_tab_says_that_it_measures_and_nothing_of_the_kind_once_it_failed(studio):
    shown = []
    steps = iter(GENERATORS["model"](studio))
    assert "Measuring" in next(steps)[2]
    with pytest.raises(AnalysisError):
        shown.extend(steps)
    assert shown[-1][2] == quantization.NOTHING
