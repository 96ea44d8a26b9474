"""Checkpoints: what goes in comes out, whole or absent, and never a pickle."""

from __future__ import annotations

import errno
import pickle
import random
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import SafetensorError

from studio.core.errors import DiskFull, RunError, SetupError
from studio.core.files import write_json
from studio.train.checkpoint import (
    Origin,
    check_checkpoint,
    checkpoint_step,
    from_saving_error,
    keep_newest,
    list_checkpoints,
    load_random_state,
    pack,
    random_state,
    save_checkpoint,
    unpack,
)

ORIGIN = Origin("starter", "{}", "abc")


def make_checkpoint(folder: Path, step: int = 3) -> Path:
    place = folder / f"step-{step:06d}"
    place.mkdir(parents=True)
    (place / "trainable.safetensors").touch()
    write_json(place / "trainer_state.json", {})
    write_json(place / "state.json", {"origin": vars(ORIGIN), "random": random_state()})
    return place


scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5)
nested = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3) | st.tuples(inner, inner) | st.dictionaries(st.integers(0, 9) | st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=12,
)


@given(nested)
def test_pack_keeps_keys_and_tuples(value: object) -> None:
    assert unpack(pack(value, {}), {}) == value


def test_pack_keeps_an_optimizers_state() -> None:
    weights = [torch.nn.Parameter(torch.randn(3, 2)), torch.nn.Parameter(torch.randn(4))]
    optimizer = torch.optim.AdamW([{"params": weights[:1], "lr": 0.1}, {"params": weights[1:]}], fused=True)
    sum(w.square().sum() for w in weights).backward()
    optimizer.step()
    tensors: dict[str, torch.Tensor] = {}
    found = unpack(pack(optimizer.state_dict(), tensors), tensors)
    expected = optimizer.state_dict()
    assert found["param_groups"] == expected["param_groups"]
    assert found["state"].keys() == expected["state"].keys()
    assert all(torch.equal(found["state"][i][key], expected["state"][i][key]) for i in (0, 1) for key in expected["state"][i])


def test_random_states_come_back(tmp_path: Path) -> None:
    place = make_checkpoint(tmp_path)
    expected = (random.random(), float(np.random.rand()), float(torch.rand(())))
    load_random_state(place)
    assert (random.random(), float(np.random.rand()), float(torch.rand(()))) == expected


def test_the_newest_and_the_best_stay(tmp_path: Path) -> None:
    for step in (1, 2, 3, 4, 5):
        make_checkpoint(tmp_path, step)
    (tmp_path / ".step-000006.part").mkdir()
    (tmp_path / "step-000007").mkdir()
    keep_newest(tmp_path, 2, protected={2})
    assert [checkpoint_step(path) for path in list_checkpoints(tmp_path)] == [2, 4, 5]


@pytest.mark.faults
def test_killed_while_a_checkpoint_is_replaced_one_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A resumed run comes to a step it has saved before; the kill strikes while the former folder is being deleted."""

    class Killed(BaseException):
        pass

    def delete_half(folder: Path, **_: object) -> None:
        if (folder / "state.json").is_file() and not folder.name.endswith(".part"):
            (folder / "state.json").unlink()
            raise Killed

    def write(_engine: object, part: Path, _extra: object) -> None:
        shutil.copytree(make_checkpoint(tmp_path / "elsewhere", 5), part, dirs_exist_ok=True)
        shutil.rmtree(tmp_path / "elsewhere")

    monkeypatch.setattr("studio.train.checkpoint._write", write)
    engine = SimpleNamespace(state=SimpleNamespace(global_step=5))
    save_checkpoint(engine, tmp_path, {})
    with monkeypatch.context() as patch:
        patch.setattr("studio.train.checkpoint.shutil", SimpleNamespace(rmtree=delete_half))
        with pytest.raises(Killed):
            save_checkpoint(engine, tmp_path, {})
    (place,) = list_checkpoints(tmp_path)
    assert check_checkpoint(place, ORIGIN)
    save_checkpoint(engine, tmp_path, {})
    assert [path.name for path in tmp_path.iterdir()] == ["step-000005"]


def test_a_pickle_is_refused_unopened(tmp_path: Path) -> None:
    place = make_checkpoint(tmp_path)

    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (tmp_path / "exploded",))

    (place / "optimizer.pt").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(RunError, match=r"optimizer\.pt"):
        check_checkpoint(place, ORIGIN)
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("missing", ["state.json", "trainable.safetensors", "trainer_state.json"])
def test_a_torn_folder_is_refused(tmp_path: Path, missing: str) -> None:
    place = make_checkpoint(tmp_path)
    (place / missing).unlink()
    with pytest.raises(RunError, match="not a whole checkpoint"):
        check_checkpoint(place, ORIGIN)


@pytest.mark.parametrize("part", ["model", "method", "data"])
def test_another_origin_is_refused(tmp_path: Path, part: str) -> None:
    place = make_checkpoint(tmp_path)
    assert check_checkpoint(place, ORIGIN)
    with pytest.raises(RunError, match=f"another {part}"):
        check_checkpoint(place, Origin(**{**vars(ORIGIN), part: "x"}))


def test_saving_errors_are_named() -> None:
    assert isinstance(from_saving_error(SafetensorError("I/O error: No space left on device (os error 28)"), "saving"), DiskFull)
    assert isinstance(from_saving_error(OSError(errno.ENOSPC, "No space left"), "saving"), DiskFull)
    assert isinstance(from_saving_error(PermissionError(errno.EACCES, "denied"), "saving"), SetupError)
    assert isinstance(from_saving_error(SafetensorError("bad header"), "saving"), RunError)
