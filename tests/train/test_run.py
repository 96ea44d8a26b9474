"""Whole runs of the tiny model in this process: files, figures, determinism, resume, early stopping, the best adapter."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from studio.core.errors import DataError, OutOfMemory, RunError, SetupError
from studio.core.files import read_json, read_lines
from studio.core.paths import RunPaths, StudioHome
from studio.core.records import RunStatus
from studio.core.spec import RunSpec
from studio.train import callback
from studio.train import run as run_module
from studio.train.callback import Recorder
from studio.train.checkpoint import list_checkpoints
from studio.train.engine import Engine
from studio.train.run import train

MakeSpec = Callable[..., RunSpec]
MakeRun = Callable[[RunSpec, str], RunPaths]


def curve(paths: RunPaths) -> list[tuple[int, float | None, float | None]]:
    return [(line["step"], line.get("loss"), line.get("eval_loss")) for line in read_lines(paths.metrics)[0]]


def test_a_run_leaves_everything(make_spec: MakeSpec, make_run: MakeRun, home: StudioHome, tiny_llama: Path) -> None:
    spec = make_spec(sample_prompts=["Write a Python function."], eval_every=3)
    paths = make_run(spec, "run")
    result = train(spec, paths, home)
    assert result.status is RunStatus.FINISHED
    assert result.steps == 6 and result.samples == 24
    assert result.eval_loss_before is not None and result.eval_loss_after is not None
    assert result.eval_loss_after < result.eval_loss_before
    assert result.trainable_parameters == sum(t.numel() for t in load_file(paths.adapter / "adapter_model.safetensors").values())
    lines = read_lines(paths.metrics)[0]
    assert [line["step"] for line in lines if "eval_loss" in line] == [0, 3, 6]
    training = [line for line in lines if "loss" in line]
    assert [line["step"] for line in training] == [1, 2, 3, 4, 5, 6]
    assert all({"learning_rate", "grad_norm", "tokens", "tokens_per_s", "memory_bytes", "seconds"} <= line.keys() for line in training)
    assert training[-1]["tokens"] == result.tokens
    assert [line["step"] for line in read_lines(paths.samples)[0]] == [0, 3, 6]
    assert (read_json(paths.progress) or {})["phase"] == "saving"
    environment = read_json(paths.environment) or {}
    assert len(environment["data_fingerprint"]) == 64 and environment["versions"]["peft"]
    assert environment["data_rows"] == {**environment["data_rows"], "broken": 0, "cut": 0}
    kept, left_out = ("train", "held_out"), ("empty", "duplicate", "broken", "too_long")
    assert environment["data_rows"]["rows"] == sum(environment["data_rows"][name] for name in (*kept, *left_out))
    assert sorted(path.name for path in paths.snapshots.iterdir()) == ["step-000000", "step-000003", "step-000006"]
    assert not [path for path in paths.folder.rglob("*") if path.suffix in (".pt", ".pth", ".bin")]


@pytest.mark.parametrize("family", ["lora", "adapter", "prefix"])
def test_the_adapter_loads_with_plain_peft(
    family: str, make_spec: MakeSpec, make_run: MakeRun, home: StudioHome, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PeftModel.from_pretrained(base, folder) answers as the model in memory at the end of training, and not as the base."""
    spec = make_spec(method={"family": family}, max_steps=2)
    paths = make_run(spec, family)
    kept: list[Engine] = []
    monkeypatch.setattr(run_module, "run_engine", lambda engine, resume: (kept.append(engine), engine.train())[0])
    train(spec, paths, home)
    ids = torch.arange(5, 40)[None]
    with torch.no_grad():
        trained = kept[0].model.eval()(input_ids=ids).logits
        base = AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32)
        plain = base(input_ids=ids).logits
        loaded = PeftModel.from_pretrained(base, paths.adapter).eval()(input_ids=ids).logits
    assert torch.allclose(loaded, trained, atol=1e-6)
    assert not torch.allclose(loaded, plain, atol=1e-3)


def test_same_seed_same_curve(make_spec: MakeSpec, make_run: MakeRun, home: StudioHome) -> None:
    spec = make_spec(method={"family": "lora", "dropout": 0.2})
    first, second = make_run(spec, "first"), make_run(spec, "second")
    train(spec, first, home)
    torch.rand(3)  # another state of the generators must not matter
    train(spec, second, home)
    assert curve(first) == curve(second)
    other = make_spec(method={"family": "lora", "dropout": 0.2}, seed=7)
    third = make_run(other, "third")
    train(other, third, home)
    assert curve(third) != curve(first)


@pytest.mark.parametrize("optimizer", ["adamw", "adamw_8bit"])
def test_a_resumed_run_repeats_the_uninterrupted_one(optimizer: str, make_spec: MakeSpec, make_run: MakeRun, home: StudioHome) -> None:
    """To the printed digit, with dropout, accumulation and an epoch's end in between."""
    spec = make_spec(
        method={"family": "lora", "dropout": 0.2},
        max_steps=9,
        batch_size=4,
        accumulation=2,
        save_every=5,
        eval_every=3,
        optimizer=optimizer,
    )
    whole, broken = make_run(spec, "whole"), make_run(spec, "broken")
    expected = train(spec, whole, home)
    assert [path.name for path in list_checkpoints(whole.checkpoints)] == ["step-000005", "step-000009"]
    shutil.copytree(whole.folder, broken.folder, dirs_exist_ok=True)
    shutil.rmtree(broken.checkpoints / "step-000009")
    found = train(spec, broken, home, broken.checkpoints / "step-000005")
    assert curve(broken) == curve(whole)
    assert [line["tokens"] for line in read_lines(broken.metrics)[0]] == [line["tokens"] for line in read_lines(whole.metrics)[0]]
    assert (found.eval_loss_before, found.eval_loss_after) == (expected.eval_loss_before, expected.eval_loss_after)
    one, other = load_file(whole.adapter / "adapter_model.safetensors"), load_file(broken.adapter / "adapter_model.safetensors")
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_finished_run_can_be_extended(make_spec: MakeSpec, make_run: MakeRun, home: StudioHome) -> None:
    spec = make_spec(max_steps=4, schedule="constant", warmup=0)
    paths = make_run(spec, "run")
    train(spec, paths, home)
    longer = make_spec(max_steps=7, schedule="constant", warmup=0)
    result = train(longer, paths, home, paths.checkpoints / "step-000004")
    assert result.steps == 7
    assert [step for step, loss, _ in curve(paths) if loss is not None] == [1, 2, 3, 4, 5, 6, 7]


def test_stop_file_ends_with_a_loadable_adapter(
    make_spec: MakeSpec, make_run: MakeRun, home: StudioHome, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = make_spec(max_steps=50)
    paths = make_run(spec, "run")
    log = Recorder.on_log

    def stop_at_three(self: Recorder, args: object, state: object, control: object, **kwargs: object) -> None:
        log(self, args, state, control, **kwargs)
        if state.global_step == 3:
            paths.stop.touch()

    monkeypatch.setattr(Recorder, "on_log", stop_at_three)
    result = train(spec, paths, home)
    assert result.status is RunStatus.STOPPED and result.steps == 4
    PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_llama), paths.adapter)
    assert list_checkpoints(paths.checkpoints)[-1].name == "step-000004"


@pytest.mark.parametrize(("eval_every", "after"), [(10, None), (1, 4.0)])
def test_a_run_stopped_before_an_evaluation_claims_none(
    eval_every: int, after: float | None, make_spec: MakeSpec, make_run: MakeRun, home: StudioHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The held-out loss before the first step is no loss after training, and stopping takes no time to measure one."""
    patch_eval_losses(monkeypatch, [5.0, 4.0])
    spec = make_spec(max_steps=20, eval_every=eval_every)
    paths = make_run(spec, "run")
    log = Recorder.on_log

    def stop_at_one(self: Recorder, args: object, state: Any, control: object, **kwargs: Any) -> None:
        log(self, args, state, control, **kwargs)
        if state.global_step == 1:
            paths.stop.touch()

    monkeypatch.setattr(Recorder, "on_log", stop_at_one)
    result = train(spec, paths, home)
    assert (result.status, result.steps) == (RunStatus.STOPPED, 2)
    assert (result.eval_loss_before, result.eval_loss_after) == (5.0, after)


def test_a_resumed_run_keeps_the_higher_peak(
    make_spec: MakeSpec, make_run: MakeRun, home: StudioHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That of its result before, else of its curve, the part that is trained again included; or the new one."""
    spec = make_spec(max_steps=2, save_every=1)
    paths = make_run(spec, "run")
    monkeypatch.setattr(callback, "peak_memory_bytes", lambda device: 700)
    monkeypatch.setattr(callback, "memory_bytes", lambda device: 900)  # an evaluation after the last step
    assert train(spec, paths, home).peak_memory_bytes == 900
    monkeypatch.setattr(callback, "memory_bytes", lambda device: 300)
    first = paths.checkpoints / "step-000001"
    assert train(spec, paths, home, first).peak_memory_bytes == 900
    paths.resume.write_text('{"result": {"status": "stopped", "peak_memory_bytes": 5000}}')
    assert train(spec, paths, home, first).peak_memory_bytes == 5000
    paths.resume.write_text('{"result": {"status": "stopped", "peak_memory_bytes": "much"}}')
    monkeypatch.setattr(callback, "peak_memory_bytes", lambda device: 8000)
    assert train(spec, paths, home, first).peak_memory_bytes == 8000


def patch_eval_losses(monkeypatch: pytest.MonkeyPatch, losses: list[float]) -> None:
    values = iter(losses)
    monkeypatch.setattr(Engine, "held_out_loss", lambda self: next(values))


def test_patience_stops_early(make_spec: MakeSpec, make_run: MakeRun, home: StudioHome, monkeypatch: pytest.MonkeyPatch) -> None:
    patch_eval_losses(monkeypatch, [5.0, 4.0, 4.5, 4.2, 3.0, 2.0, 1.0])
    spec = make_spec(max_steps=6, eval_every=1, patience=2)
    result = train(spec, make_run(spec, "run"), home)
    assert result.status is RunStatus.FINISHED and result.steps == 3 and result.eval_loss_after == 4.2


def test_keep_best_ends_with_the_best_adapter(
    make_spec: MakeSpec, make_run: MakeRun, home: StudioHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    patch_eval_losses(monkeypatch, [5.0, 4.0, 3.0, 4.5, 4.6, 4.7, 4.8])
    spec = make_spec(max_steps=6, eval_every=1, save_every=6, keep_best=True, keep_checkpoints=1)
    paths = make_run(spec, "run")
    result = train(spec, paths, home)
    assert result.eval_loss_after == 3.0
    assert [path.name for path in list_checkpoints(paths.checkpoints)] == ["step-000002", "step-000006"]
    best = load_file(paths.checkpoints / "step-000002" / "adapter" / "adapter_model.safetensors")
    kept = load_file(paths.adapter / "adapter_model.safetensors")
    assert all(torch.equal(best[name], kept[name]) for name in best)


def test_an_evaluation_says_how_far_it_is(
    make_spec: MakeSpec, make_run: MakeRun, home: StudioHome, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also the one before the first step, which on a large model is the longest wait of all."""
    written: list[dict[str, Any]] = []
    monkeypatch.setattr(callback, "write_json", lambda path, data: written.append(dict(data)))
    monkeypatch.setattr(callback, "PROGRESS_INTERVAL_S", 0.0)
    monkeypatch.setattr(callback, "LOG_INTERVAL_S", 0.0)
    spec = make_spec(batch_size=2, eval_every=6, sample_prompts=["Count."])
    train(spec, make_run(spec, "run"), home)
    counted = [(data["step"], data["batch"], data["batches"]) for data in written if data["phase"] == "evaluating" and data["batches"]]
    assert counted == [(step, batch, 4) for step in (0, 6) for batch in (1, 2, 3, 4)]
    assert all(data["batches"] == 0 for data in written if data["phase"] != "evaluating")
    phases = [data["phase"] for data in written if data["step"] == 0]
    assert phases[-6:] == [*["evaluating"] * 4, "answering the sample prompts", "training"]
    said = capsys.readouterr().out
    assert said.count("evaluating 3 of 4 batches\n") == 2


def test_held_out_loss_weighs_tokens(make_spec: MakeSpec, make_run: MakeRun, home: StudioHome) -> None:
    """The batch size, which cuts the rows into batches of unlike length, does not change the held-out loss."""
    found = []
    for size in (1, 3, 8):
        spec = make_spec(max_steps=1, batch_size=size)
        found.append(train(spec, make_run(spec, f"run-{size}"), home).eval_loss_before)
    assert found[1:] == pytest.approx(found[:1] * 2, rel=1e-6)


def test_accumulated_batches_train_like_one(make_spec: MakeSpec, make_run: MakeRun, home: StudioHome) -> None:
    """Two batches of 4 step as one of 8 where they hold the same rows: the loss is a mean over tokens, not over batches."""
    one = make_spec(max_steps=3, batch_size=8, padding="batch")
    two = make_spec(max_steps=3, batch_size=4, accumulation=2, padding="batch")
    paths = make_run(one, "one"), make_run(two, "two")
    train(one, paths[0], home), train(two, paths[1], home)
    losses = [[loss for _, loss, _ in curve(run) if loss is not None] for run in paths]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_no_row_left_never_starts(make_spec: MakeSpec, make_run: MakeRun, home: StudioHome, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = make_spec(max_length=8)
    monkeypatch.setattr(run_module, "load_base", lambda *_: pytest.fail("The model was loaded for nothing."))
    with pytest.raises(DataError, match=r"No row to train on is left: all \d+ were dropped"):
        train(spec, make_run(spec, "run"), home)


def test_a_diverging_loss_is_named(make_spec: MakeSpec, make_run: MakeRun, home: StudioHome, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = make_spec()
    paths = make_run(spec, "run")
    compute = Engine.compute_loss
    monkeypatch.setattr(
        Engine, "compute_loss", lambda self, *a, **k: compute(self, *a, **k) * (float("nan") if self.state.global_step == 3 else 1)
    )
    with pytest.raises(RunError, match="nan at step 4") as caught:
        train(spec, paths, home)
    assert "learning_rate" in caught.value.hint
    assert list_checkpoints(paths.checkpoints)


def test_no_memory_is_named(make_spec: MakeSpec, make_run: MakeRun, home: StudioHome, monkeypatch: pytest.MonkeyPatch) -> None:
    def allocate(self: Engine, *_: object, **__: object) -> None:
        torch.empty(1 << 60, dtype=torch.uint8)

    monkeypatch.setattr(Engine, "compute_loss", allocate)
    spec = make_spec()
    with pytest.raises(OutOfMemory) as caught:
        train(spec, make_run(spec, "run"), home)
    assert "batch_size" in caught.value.hint


def test_gradient_checkpointing_trains_the_same(make_spec: MakeSpec, make_run: MakeRun, home: StudioHome) -> None:
    plain, saving = make_spec(max_steps=3), make_spec(max_steps=3, gradient_checkpointing=True)
    paths = make_run(plain, "plain"), make_run(saving, "saving")
    train(plain, paths[0], home), train(saving, paths[1], home)
    losses = [[loss for _, loss, _ in curve(run) if loss is not None] for run in paths]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_a_missing_tracker_is_named(make_spec: MakeSpec, make_run: MakeRun, home: StudioHome, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_module.importlib.util, "find_spec", lambda name: None)
    spec = make_spec(report_to="trackio")
    with pytest.raises(SetupError, match="trackio"):
        train(spec, make_run(spec, "run"), home)


def test_resume_refuses_another_method(make_spec: MakeSpec, make_run: MakeRun, home: StudioHome) -> None:
    spec = make_spec(max_steps=1)
    paths = make_run(spec, "run")
    train(spec, paths, home)
    other = make_spec(method={"family": "lora", "rank": 2}, max_steps=2)
    before = (paths.metrics.read_text(), json.dumps(read_json(paths.environment)))
    with pytest.raises(RunError, match="another method"):
        train(other, paths, home, paths.checkpoints / "step-000001")
    assert (paths.metrics.read_text(), json.dumps(read_json(paths.environment))) == before
