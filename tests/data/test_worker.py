"""The dataset worker as the studio starts it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from studio.core.errors import SpecError
from studio.jobs.worker import Worker


@pytest.fixture
def worker(home):
    started = Worker("studio.data", home.root / "data.log", arguments=["--home", str(home.root)])
    yield started
    started.close()


def preview(worker, **args):
    *events, last = worker.stream("preview", **args)
    assert last.name == "done"
    return [event.data for event in events], last.data


def test_it_previews_with_the_models_own_tokenizer(worker, write_rows, tiny_llama):
    rows = [{"prompt": f"Return {index}.", "completion": f"def total(): return {index}"} for index in range(20)]
    data = {"source": str(write_rows(rows))}
    progress, shown = preview(worker, data=data, model={"id": str(tiny_llama)}, training={"max_length": 64})
    assert progress == ["Reading the dataset", "Loading the tokenizer"]
    assert shown["problem"] is None
    assert shown["counts"]["train"] == 18
    assert shown["prompt"].endswith("<|im_start|>assistant\n")
    with pytest.raises(SpecError, match=r"training\.max_length"):
        preview(worker, data=data, training={"max_length": 0})


def test_starting_it_imports_nothing_heavy():
    heavy = "{'torch', 'transformers', 'datasets', 'pyarrow', 'pandas', 'numpy'}"
    code = f"import sys, studio.data.__main__, studio.data.upload, studio.data.load, studio.data.format; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "set()"
