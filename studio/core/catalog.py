"""What the studio offers by name: base models, datasets, presets. Data only; nothing is fetched here.

Sizes and licences are those stated on each model's card. Whatever is not listed still loads by hub id or path.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from studio.core.errors import SpecError
from studio.core.files import read_json
from studio.core.paths import ASSETS
from studio.core.spec import RunSpec


@dataclass(frozen=True)
class BaseModel:
    """A base model on offer. `id` is what RunSpec.model.id takes; `config` names its file in assets/configs."""

    id: str
    title: str
    hub_id: str
    parameters: int
    licence: str
    gated: bool = False
    chat: bool = True
    note: str = ""

    @property
    def config(self) -> Path:
        return ASSETS / "configs" / f"{self.hub_id.rsplit('/', 1)[-1]}.json"


@dataclass(frozen=True)
class Dataset:
    """A dataset on offer. `id` is what RunSpec.data.source takes."""

    id: str
    title: str
    licence: str
    note: str


BASE_MODELS = (
    BaseModel(
        "starter", "SmolLM2 135M Instruct (starter)", "HuggingFaceTB/SmolLM2-135M-Instruct", 134_515_008, "Apache-2.0",
        note="Set up with the studio. The offline copy's weights once passed through 4 bits (Q4_1), "
        "so it answers a little worse than the original.",
    ),
    BaseModel("Qwen/Qwen2.5-0.5B-Instruct", "Qwen2.5 0.5B Instruct", "Qwen/Qwen2.5-0.5B-Instruct", 494_032_768, "Apache-2.0"),
    BaseModel(
        "meta-llama/Llama-3.2-1B", "Llama 3.2 1B", "meta-llama/Llama-3.2-1B", 1_235_814_400, "Llama 3.2 licence", gated=True, chat=False,
    ),
    BaseModel(
        "meta-llama/Llama-3.2-3B", "Llama 3.2 3B", "meta-llama/Llama-3.2-3B", 3_212_749_824, "Llama 3.2 licence", gated=True, chat=False,
    ),
    BaseModel("Qwen/Qwen2.5-7B-Instruct", "Qwen2.5 7B Instruct", "Qwen/Qwen2.5-7B-Instruct", 7_615_616_512, "Apache-2.0"),
    BaseModel("mistralai/Mistral-7B-v0.1", "Mistral 7B", "mistralai/Mistral-7B-v0.1", 7_241_732_096, "Apache-2.0", chat=False),
    BaseModel(
        "meta-llama/Llama-2-7b-hf", "Llama 2 7B", "meta-llama/Llama-2-7b-hf", 6_738_415_616, "Llama 2 licence", gated=True, chat=False,
    ),
    BaseModel(
        "meta-llama/Llama-2-13b-hf", "Llama 2 13B", "meta-llama/Llama-2-13b-hf", 13_015_864_320, "Llama 2 licence", gated=True, chat=False,
    ),
)  # fmt: skip

DATASETS = (
    Dataset(
        "starter", "Python docstrings → functions (starter)", "PSF-2.0, MIT, BSD-3-Clause and Apache-2.0, per row",
        "Built on this machine from the Python standard library, the package `algorithms` and packages the studio needs anyway. "
        "Docstrings, not instructions written by people.",
    ),
    Dataset(
        "flytech/python-codes-25k", "python-codes-25k (the lecture's)", "MIT", "Instruction, input, output and text columns; from the hub.",
    ),
    Dataset("tatsu-lab/alpaca", "Alpaca", "CC-BY-NC-4.0", "52,002 instructions with answers by a larger model; from the hub."),
    Dataset("HuggingFaceH4/no_robots", "No Robots", "CC-BY-NC-4.0", "10,000 conversations written by people; from the hub."),
)  # fmt: skip


def find_model(model_id: str) -> BaseModel | None:
    """The catalog's entry for an id or hub id; None for anything else."""
    return next((model for model in BASE_MODELS if model_id in (model.id, model.hub_id)), None)


def preset_names() -> list[str]:
    return sorted(path.stem for path in (ASSETS / "presets").glob("*.json"))


def load_preset(name: str) -> dict[str, object]:
    """A preset's spec as plain data, for changes before parsing. Raises SpecError for an unknown name."""
    data = read_json(ASSETS / "presets" / f"{name}.json") if name in preset_names() else None
    if data is None:
        raise SpecError([f"There is no preset {name!r}; there are: {', '.join(preset_names())}."])
    return data


def read_spec(source: str) -> dict[str, object]:
    """A spec as plain data from a preset's name or a JSON file's path. Raises SpecError."""
    if source in preset_names():
        return load_preset(source)
    path = Path(source).expanduser()
    data = read_json(path)
    if data is None and path.is_file():
        raise SpecError([f"{path.name} is no JSON object, so no spec of the studio."])
    if data is None:
        raise SpecError([f"{source!r} is neither a preset ({', '.join(preset_names())}) nor a readable JSON file."])
    return data


def parse_preset(name: str) -> RunSpec:
    return RunSpec.parse(load_preset(name))
