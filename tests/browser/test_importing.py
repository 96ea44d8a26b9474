"""Another tool's YAML loaded on the page: a filled form, what could not be carried over listed, and a broken file named."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser.test_main_path import field

LLAMA_FACTORY = """
model_name_or_path: HuggingFaceTB/SmolLM2-135M-Instruct
stage: sft
finetuning_type: lora
lora_rank: 12
lora_target: all
dataset: identity
cutoff_len: 300
per_device_train_batch_size: 3
learning_rate: 1.0e-4
deepspeed: ds_z3_config.json
"""
AXOLOTL = """
base_model: HuggingFaceTB/SmolLM2-135M-Instruct
adapter: qlora
load_in_4bit: true
lora_r: 24
lora_alpha: 48
datasets:
  - path: teknium/GPT4-LLM-Cleaned
    type: alpaca
sequence_len: 700
micro_batch_size: 2
sample_packing: true
"""


def load(page: Page, file: Path) -> None:
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Load a spec.json or YAML").click()
    chooser.value.set_files(file)


@pytest.mark.parametrize(
    ("text", "tool", "values", "left_out"),
    [
        (
            LLAMA_FACTORY, "LLaMA-Factory", {"lora.rank": "12", "training.max_length": "300", "training.batch_size": "3"},
            ["deepspeed: ds_z3_config.json has no counterpart", "dataset: identity is a name of"],
        ),
        (
            AXOLOTL, "Axolotl", {"lora.rank": "24", "lora.alpha": "48", "training.max_length": "700", "training.batch_size": "2"},
            ["sample_packing: True has no counterpart"],
        ),
    ],
)  # fmt: skip
def test_a_yaml_fills_the_form_and_tells_what_is_missing(
    page: Page, tmp_path: Path, text: str, tool: str, values: dict[str, str], left_out: list[str]
) -> None:
    file = tmp_path / "config.yml"
    file.write_text(text)
    page.get_by_role("button", name="As JSON, and from the command line").click()
    load(page, file)
    told = page.locator("#imported")
    expect(told).to_contain_text(f"Filled from config.yml, a configuration of {tool}.")
    expect(told).to_be_visible()
    for sentence in left_out:
        expect(told).to_contain_text(sentence)
    for name, value in values.items():
        expect(field(page, name)).to_have_value(value)
    method = "QLoRA" if tool == "Axolotl" else "LoRA"
    expect(page.locator(".method-cards label.selected")).to_contain_text(method)

    broken = tmp_path / "broken.yaml"
    broken.write_text("base_model: [1")
    load(page, broken)
    expect(page.locator(".toast-body")).to_contain_text("broken.yaml cannot be read as YAML")
    for name, value in values.items():
        expect(field(page, name)).to_have_value(value)
