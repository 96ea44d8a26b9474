"""The laboratories' worker as the studio starts it: every verb, its cache, and its errors in sentences."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest

from studio.core.errors import AnalysisError
from studio.core.paths import StudioHome
from studio.jobs.worker import Worker

Q = "model.layers.0.self_attn.q_proj"


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return StudioHome.find(tmp_path_factory.mktemp("laboratory"))


@pytest.fixture(scope="module")
def worker(home):
    started = Worker("studio.analysis", home.root / "analysis.log", arguments=["--home", str(home.root)])
    yield started
    started.close()


@pytest.fixture(scope="module")
def adapters(home, write_adapter, random_factors):
    """A run of two snapshots and a final adapter, and another adapter dropped into the home."""
    run = home.runs / "20260101-000000-lab"
    factors = random_factors(64, 64, 4, 1)
    for step, scale in ((0, 0.0), (5, 1.0)):
        write_adapter(run / "snapshots" / f"step-{step:06d}", {Q: (factors[0], factors[1] * scale)})
    write_adapter(run / "adapter", {Q: factors})
    (run / "spec.json").write_text("{}")
    write_adapter(home.adapters / "dropped", {Q: random_factors(64, 64, 8, 2)})
    return run.name, "dropped"


def test_a_model_is_measured_once(worker, tiny_llama):
    events = list(worker.stream("model", model=str(tiny_llama)))
    report = events[-1].data
    assert [event.data for event in events[:-1]] == [[done, 14] for done in range(1, 15)]
    assert len(report["modules"]) == 14
    again = list(worker.stream("model", model=str(tiny_llama)))
    assert [event.name for event in again] == ["done"]
    assert again[0].data == report


def test_a_module_counts_all_its_weights(worker, tiny_llama):
    report = worker.call("module", model=str(tiny_llama), layer=0, module=Q, block_size=128, double_quant=False)
    assert sum(report["code_counts"]) == 64 * 64
    assert report["types"]["nf4"]["block_size"] == 128


def test_a_spectrum_knows_its_steps_and_finds_the_nearest(worker, adapters):
    final = worker.call("spectrum", adapter=adapters[0])
    assert [point["step"] for point in final["growth"]] == [0, 5]
    assert final["growth"][0]["update_norm"] == 0
    assert final["step"] is None
    assert len(final["modules"][0]["singular_values"]) == 4
    assert worker.call("spectrum", adapter=adapters[0], step=1)["step"] == 0
    assert worker.call("spectrum", adapter=adapters[0], step=4)["modules"] == final["modules"]


def test_a_changed_adapter_is_read_again(worker, home, adapters, write_adapter, random_factors):
    before = worker.call("spectrum", adapter="dropped")
    folder = home.adapters / "dropped"
    write_adapter(folder, {Q: random_factors(64, 64, 2, 3)})
    assert len(worker.call("spectrum", adapter="dropped")["modules"][0]["singular_values"]) == 2
    assert len(before["modules"][0]["singular_values"]) == 8
    shutil.rmtree(folder)
    write_adapter(folder, {Q: random_factors(64, 64, 8, 2)})


def test_two_adapters_are_compared_and_one_is_laid_beside_its_base(worker, adapters, tiny_llama):
    similar = worker.call("compare", first=adapters[0], second="dropped", layer=0, module=Q, kind="update")
    assert (len(similar["phi"]), len(similar["phi"][0])) == (4, 8)
    same = worker.call("compare", first=adapters[0], second=adapters[0], layer=0, module=Q)
    assert same["phi"][3][3] == pytest.approx(1)
    inside = worker.call("inside", adapter=adapters[0], base=str(tiny_llama), layer=0, module=Q)
    assert inside["amplification"]["r"] == 4
    assert inside["dora_delta"] is None


@pytest.mark.parametrize(
    ("verb", "args", "told"),
    [
        ("model", {"model": ""}, "No model was chosen"),
        ("model", {"model": "Qwen/Qwen2.5-0.5B"}, "not on this disk"),
        ("spectrum", {"adapter": ""}, "No run was chosen"),
        ("spectrum", {"adapter": "nowhere"}, "no run and no folder"),
        ("compare", {"first": "dropped", "second": "dropped", "layer": 7, "module": "q_proj"}, "does not change q_proj in layer 7"),
    ],
)
def test_what_cannot_be_done_is_said(worker, adapters, verb, args, told):
    with pytest.raises(AnalysisError, match=told) as caught:
        worker.call(verb, **args)
    assert caught.value.hint


def test_starting_it_imports_nothing_heavy():
    code = "import sys, studio.analysis.__main__; print({'torch', 'transformers', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "set()"
