"""A calibrated folder against the model it was made from, on a tiny random Llama and a few rows."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from bitsandbytes import functional
from safetensors.torch import load_file
from transformers import AutoTokenizer

from studio.calibration import calibrate as room
from studio.calibration import layers, rounding
from studio.core.errors import DataError, ModelError, SpecError, StudioError, WorkerError
from studio.core.paths import StudioHome
from studio.core.spec import DataSpec, ModelSpec, RunSpec
from studio.jobs.worker import Worker
from studio.methods.frozen_base import layer_linears
from studio.models.load import load_base


@pytest.fixture
def spec(tiny_llama: Path, tmp_path: Path) -> RunSpec:
    rows = [{"prompt": f"What is {i} and {i + 1}?", "completion": f"def f{i}(x):\n    return x + {i * i}\n"} for i in range(30)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return room.calibration_spec(ModelSpec(id=str(tiny_llama), dtype="bfloat16"), DataSpec(source=str(tmp_path / "rows.jsonl")))


def calibrate(spec: RunSpec, home: Path, target: Path) -> dict[str, Any]:
    return room.calibrate(spec, StudioHome(home), target, lambda share, phrase: None)


def test_the_folder_is_a_base_whose_nf4_weights_are_those_written(spec: RunSpec, studio_home: Path, tmp_path: Path) -> None:
    target = tmp_path / "calibrated"
    stamp = calibrate(spec, studio_home, target)
    calibrated = RunSpec.parse({**spec.to_json(), "model": {**spec.model.model_dump(mode="json"), "id": str(target)}})
    plain, held = (load_base(one, StudioHome(studio_home)).model for one in (room.held_as(calibrated, "none"), calibrated))
    linears = layer_linears(held)
    assert len(linears) == 14
    for name, module in linears.items():
        read = functional.dequantize_4bit(module.weight.data, module.weight.quant_state).float()
        written = plain.get_submodule(name).weight.float()
        state = module.weight.quant_state
        codes = rounding.levels(read.device)[torch.stack([module.weight.data >> 4, module.weight.data & 15], -1).flatten().long()]
        # The file holds the same codes; only the blocks' magnitudes go through 8 bits.
        absmax = functional.dequantize_blockwise(state.absmax, state.state2) + state.offset
        assert torch.equal((codes.reshape(-1, 64) * absmax[:, None]).reshape(read.shape).bfloat16().float(), read)
        assert torch.equal(written.sign(), read.sign())
        assert (written - read).abs().max() < 0.02 * written.abs().max()
    assert set(stamp["held_out"]["loss"]) == {"unquantized", "nf4", "calibrated"}
    assert room.read_stamp(target) == stamp and stamp["data"]["rows"] == 27 and stamp["held_out"]["rows"] == 3


def test_what_is_not_rounded_stays_as_it_was(spec: RunSpec, tiny_llama: Path, studio_home: Path, tmp_path: Path) -> None:
    calibrate(spec, studio_home, tmp_path / "calibrated")
    before, after = (load_file(folder / "model.safetensors") for folder in (tiny_llama, tmp_path / "calibrated"))
    assert before.keys() == after.keys()
    kept = [name for name in before if "proj" not in name]
    assert len(kept) == len(before) - 14
    assert all(torch.equal(before[name].bfloat16(), after[name]) for name in kept)


def test_a_template_for_tools_and_all_else_can_be_read_by_everybody(
    spec: RunSpec, tiny_llama: Path, studio_home: Path, tmp_path: Path
) -> None:
    """transformers writes such a template into a folder of its own."""
    folder = shutil.copytree(tiny_llama, tmp_path / "tools")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = {"default": tokenizer.chat_template, "tool_use": tokenizer.chat_template}
    tokenizer.save_pretrained(folder)
    calibrate(RunSpec.parse({**spec.to_json(), "model": {"id": str(folder), "dtype": "bfloat16"}}), studio_home, tmp_path / "calibrated")
    assert (tmp_path / "calibrated" / "additional_chat_templates" / "tool_use.jinja").is_file()
    for path in (tmp_path / "calibrated", *(tmp_path / "calibrated").rglob("*")):
        assert path.stat().st_mode & 0o777 == (0o755 if path.is_dir() else 0o644)


def test_the_model_s_output_is_closer_than_with_nearest_rounding(spec: RunSpec, studio_home: Path) -> None:
    model = load_base(room.held_as(spec, "none", "float32"), StudioHome(studio_home)).model
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(3, 300, (24, 64), generator=draw)
    whole = torch.ones_like(ids, dtype=torch.bool)
    wanted = model(input_ids=ids).logits
    original = {name: module.weight.data.clone() for name, module in layer_linears(model).items()}
    for name, module in layer_linears(model).items():
        codes, state = functional.quantize_4bit(original[name], quant_type="nf4", compress_statistics=True)
        module.weight.data = functional.dequantize_4bit(codes, state)
    nearest = (model(input_ids=ids).logits - wanted).square().sum()
    for name, module in layer_linears(model).items():
        module.weight.data = original[name]
    layers.round_layers(model, [(ids, whole)], True, lambda done, every: None)
    assert (model(input_ids=ids).logits - wanted).square().sum() < 0.7 * nearest


def test_the_original_hidden_states_run_beside(spec: RunSpec, studio_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_base(room.held_as(spec, "none", "float32"), StudioHome(studio_home)).model
    ids = torch.arange(40)[None]
    wanted = model(input_ids=ids, output_hidden_states=True).hidden_states[1]  # out of the first layer
    seen = []
    monkeypatch.setattr(layers, "watch_inputs", lambda *args, known=layers.watch_inputs: seen.append(args[2].original) or known(*args))
    layers.round_layers(model, [(ids, torch.ones_like(ids, dtype=torch.bool))], True, lambda done, every: None)
    assert torch.allclose(seen[1], wanted, atol=1e-5)


def test_matrices_with_the_same_input_are_rounded_together_in_order_of_use(spec: RunSpec, studio_home: Path) -> None:
    model = load_base(room.held_as(spec, "none"), StudioHome(studio_home)).model.float()
    layer = layers.find_layers(model)[1]
    ids = torch.arange(20)[None]
    batch = layers.enter_layers(model, layers.find_layers(model), ids, torch.ones_like(ids, dtype=torch.bool))
    names = {module: name.rsplit(".", 1)[-1] for name, module in layer.named_modules()}
    groups = [[names[module] for module in group] for group in layers.group_by_input(layer, batch, 1)]
    assert groups == [["q_proj", "k_proj", "v_proj"], ["o_proj"], ["gate_proj", "up_proj"], ["down_proj"]]


def test_padding_does_not_count(spec: RunSpec, studio_home: Path) -> None:
    model = load_base(room.held_as(spec, "none"), StudioHome(studio_home)).model.float()
    found = layers.find_layers(model)
    ids, text = torch.arange(20)[None], torch.ones(1, 20, dtype=torch.bool)
    text[:, 12:] = False
    first = found[0].self_attn.q_proj
    with torch.no_grad():
        moments = [
            layers.collect_moments(found[0], first, [layers.enter_layers(model, found, *pair)], [None], 0)[0]
            for pair in ((ids, text), (ids[:, :12], text[:, :12]))
        ]
    assert torch.allclose(*moments, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("ended_by", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_an_interrupted_write_leaves_nothing(
    spec: RunSpec, studio_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ended_by: BaseException
) -> None:
    def fail(*_: Any) -> None:
        raise ended_by

    left = tmp_path / "models" / ".calibrated.killed.part"
    left.mkdir(parents=True)
    monkeypatch.setattr(room, "measure", fail)
    with pytest.raises((StudioError, KeyboardInterrupt)):
        calibrate(spec, studio_home, tmp_path / "models" / "calibrated")
    assert [path.name for path in (tmp_path / "models").iterdir()] == [".calibrated.lock"]


def test_expected_failures_say_what_to_do(spec: RunSpec, studio_home: Path, tmp_path: Path, tiny_llama: Path) -> None:
    home = StudioHome(studio_home)
    assert room.target_folder(spec, home) == home.models / "tiny-llama-calibrated"
    with pytest.raises(ModelError, match="exists already"):
        room.target_folder(spec, home, str(tmp_path))
    (tmp_path / "done").mkdir()
    for name in ("config.json", "model.safetensors", "calibration.json"):
        (tmp_path / "done" / name).write_text("{}")
    with pytest.raises(ModelError, match="calibrated already"):
        room.target_folder(room.calibration_spec(ModelSpec(id=str(tmp_path / "done")), spec.data), home)
    short = RunSpec.parse({**spec.to_json(), "training": {"max_length": 8}})
    with pytest.raises(DataError, match="No row"):
        calibrate(short, studio_home, tmp_path / "new")
    config = json.loads((tiny_llama / "config.json").read_text())
    (tmp_path / "done" / "config.json").write_text(json.dumps({**config, "hidden_size": 48}))
    with pytest.raises(SpecError, match="multiple of 64"):
        calibrate(room.calibration_spec(ModelSpec(id=str(tmp_path / "done")), spec.data), studio_home, tmp_path / "new")


def test_the_worker_answers_and_tells_how_far_it_is(spec: RunSpec, studio_home: Path, tmp_path: Path) -> None:
    worker = Worker("studio.calibration", tmp_path / "log.txt", arguments=["--home", str(studio_home)])
    asked = {"model": spec.model.model_dump(mode="json"), "data": spec.data.model_dump(mode="json")}
    try:
        events = list(worker.stream("calibrate", **asked))
        with pytest.raises(StudioError, match="exists already"):
            worker.call("calibrate", **asked)
    except WorkerError:
        pytest.fail((tmp_path / "log.txt").read_text())
    finally:
        worker.close()
    shares = [event.data[0] for event in events[:-1]]
    assert shares == sorted(shares) and "layer 2 of 2" in [event.data[1] for event in events[:-1]]
    assert Path(events[-1].data["path"]) == studio_home / "models" / "tiny-llama-calibrated"
    assert room.read_stamp(Path(events[-1].data["path"])) is not None
