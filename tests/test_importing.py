"""Other tools' files: the settings the studio shares, what is listed as left out, and files that are none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from studio.__main__ import main
from studio.core.errors import SpecError
from studio.core.spec import RunSpec
from studio.importing import import_config, read_settings

LLAMA_FACTORY = """
model_name_or_path: meta-llama/Meta-Llama-3-8B-Instruct
quantization_bit: 4
stage: sft
do_train: true
finetuning_type: lora
lora_rank: 16
lora_target: all
dataset: identity,alpaca_en_demo
template: llama3
cutoff_len: 2048
max_samples: 1000
output_dir: saves/llama3-8b/lora/sft
logging_steps: 10
save_steps: 500
per_device_train_batch_size: 1
gradient_accumulation_steps: 8
learning_rate: 1.0e-4
num_train_epochs: 3.0
lr_scheduler_type: cosine
warmup_ratio: 0.1
bf16: true
deepspeed: examples/deepspeed/ds_z3_config.json
neftune_noise_alpha: 5
"""
AXOLOTL = """
base_model: NousResearch/Llama-3.2-1B
load_in_8bit: true
adapter: lora
datasets:
  - path: teknium/GPT4-LLM-Cleaned
    type: alpaca
  - path: other/data
    type: chat_template
val_set_size: 0.1
sequence_len: 2048
sample_packing: true
lora_r: 16
lora_alpha: 32
lora_dropout: 0.05
lora_target_modules: [q_proj, v_proj]
gradient_accumulation_steps: 2
micro_batch_size: 2
num_epochs: 1
optimizer: lion
lr_scheduler: cosine
learning_rate: 0.0002
eval_steps: 0.05
gradient_checkpointing: true
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "config.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_llama_factory_file(tmp_path: Path) -> None:
    imported = import_config(write(tmp_path, LLAMA_FACTORY))
    spec = RunSpec.parse(imported.data)
    assert (imported.tool, spec.model.id, spec.quantization) == ("LLaMA-Factory", "meta-llama/Meta-Llama-3-8B-Instruct", "nf4")
    assert (spec.method.family, spec.method.rank, spec.method.targets) == ("qlora", 16, "all-linear")
    training = spec.training
    assert (training.max_length, training.batch_size, training.accumulation, training.epochs) == (2048, 1, 8, 3)
    assert (training.learning_rate, training.schedule, training.warmup, training.precision) == (1e-4, "cosine", 0.1, "bf16")
    assert (training.log_every, training.save_every, spec.data.max_rows, spec.data.source) == (10, 500, 1000, "identity")
    assert [text.split(":")[0] for text in imported.left_out] == ["dataset", "dataset", "deepspeed", "neftune_noise_alpha"]


def test_an_axolotl_file(tmp_path: Path) -> None:
    imported = import_config(write(tmp_path, AXOLOTL))
    spec = RunSpec.parse(imported.data)
    assert (imported.tool, spec.quantization, spec.method.family) == ("Axolotl", "int8", "lora")
    assert (spec.method.rank, spec.method.alpha, spec.method.dropout, spec.method.targets) == (16, 32, 0.05, ["q_proj", "v_proj"])
    assert (spec.data.source, spec.data.format, spec.data.held_out) == ("teknium/GPT4-LLM-Cleaned", "alpaca", 0.1)
    assert (spec.training.batch_size, spec.training.accumulation, spec.training.optimizer) == (2, 2, "adamw")
    assert spec.training.gradient_checkpointing is True
    assert [text.split(":")[0] for text in imported.left_out] == ["eval_steps", "optimizer", "datasets", "sample_packing"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("just words", "holds no settings"),
        ("a: [1", "cannot be read as YAML"),
        ("learning_rate: 1", "neither LLaMA-Factory's"),
        ("base_model: x\nadapter: lora\nlora_r: 0", "rank"),
        ("base_model: !!python/object/apply:os.system ['true']", "cannot be read as YAML"),
    ],
)
def test_what_is_no_such_file_is_named(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(SpecError, match=said):
        import_config(write(tmp_path, text))


def test_a_file_is_read_by_its_kind(tmp_path: Path) -> None:
    """What the page's button takes: the studio's own spec, or another tool's YAML."""
    spec = tmp_path / "spec.json"
    spec.write_text('{"method": {"family": "lora", "rank": 3}}', encoding="utf-8")
    own, other = read_settings(spec), read_settings(write(tmp_path, AXOLOTL))
    assert (own.tool, own.left_out, RunSpec.parse(own.data).method.rank) == ("PEFT Studio", [], 3)
    assert other == import_config(tmp_path / "config.yaml")
    spec.write_text("[1", encoding="utf-8")
    with pytest.raises(SpecError, match=r"spec\.json is no JSON object"):
        read_settings(spec)


def test_the_command_line_writes_a_spec_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["import-config", str(write(tmp_path, AXOLOTL)), "--out", str(tmp_path / "spec.json")]
    assert main(arguments) == 0
    assert "sample_packing: True has no counterpart" in capsys.readouterr().err
    assert RunSpec.parse(json.loads((tmp_path / "spec.json").read_text())).method.family == "lora"
    assert main(arguments) == 1


def test_what_is_no_file_and_what_is_no_text_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "binary.yaml").write_bytes(bytes(range(256)))
    (tmp_path / "nul.yaml").write_bytes(b"a: \0")
    (tmp_path / "deep.yaml").write_text("[" * 100_000, encoding="utf-8")
    for name, told in (("none", "There is no file"), ("binary", "not UTF-8"), ("nul", "not UTF-8"), ("deep", "cannot be read as YAML")):
        with pytest.raises(SpecError, match=told):
            import_config(tmp_path / f"{name}.yaml")
