from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from studio.core.catalog import load_preset, parse_preset, preset_names, read_spec
from studio.core.errors import SpecError
from studio.core.spec import (
    COLUMN_ROLES,
    AdapterSpec,
    DataSpec,
    LoraSpec,
    ModelSpec,
    PrefixSpec,
    QLoraSpec,
    RunSpec,
    TrainingSpec,
    with_overrides,
)

loras = st.builds(
    dict,
    family=st.sampled_from(["lora", "qlora"]),
    rank=st.integers(1, 512),
    alpha=st.floats(0.1, 512),
    dropout=st.floats(0, 0.99),
    targets=st.one_of(st.sampled_from(["all-linear", "attention", "mlp"]), st.lists(st.sampled_from(["q_proj", "v_proj"]), min_size=1)),
    layers=st.lists(st.integers(0, 40)),
    rslora=st.booleans(),
    init=st.sampled_from(["default", "gaussian", "eva"]),
    lora_plus_ratio=st.floats(1, 64),
)
adapters = st.builds(
    dict,
    family=st.just("adapter"),
    bottleneck=st.integers(1, 1000),
    placement=st.sampled_from(["houlsby", "pfeiffer", "parallel"]),
    activation=st.sampled_from(["relu", "gelu", "silu", "tanh"]),
)
prefixes = st.builds(dict, family=st.just("prefix"), virtual_tokens=st.integers(1, 512), projection=st.booleans())
columns = st.dictionaries(st.sampled_from(COLUMN_ROLES), st.text(max_size=9), max_size=3)
specs = st.builds(
    dict,
    name=st.text(max_size=100),
    model=st.builds(dict, id=st.text(min_size=1, max_size=50), double_quantization=st.booleans()),
    data=st.builds(dict, held_out=st.floats(0.01, 0.8), columns=columns),
    method=st.one_of(loras, adapters, prefixes),
    training=st.builds(
        dict,
        epochs=st.floats(0.01, 100),
        learning_rate=st.one_of(st.none(), st.floats(1e-7, 1)),
        batch_size=st.integers(1, 64),
        seed=st.integers(0, 2**32 - 1),
    ),
)


@given(specs)
def test_a_spec_comes_back_from_json_as_it_was(data: dict[str, object]) -> None:
    spec = RunSpec.parse(data)
    assert RunSpec.parse(json.loads(json.dumps(spec.to_json()))) == spec


scalars = st.none() | st.booleans() | st.floats() | st.text()
values = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner))


@given(values)
def test_anything_else_is_a_spec_error_and_nothing_worse(value: object) -> None:
    for part in ("name", "model", "data", "method", "training"):
        data = {part: value}
        try:
            RunSpec.parse(data)
        except SpecError as error:
            assert error.problems and all(isinstance(problem, str) and problem for problem in error.problems)


def test_every_problem_is_told_at_once_by_the_name_of_its_field() -> None:
    with pytest.raises(SpecError) as caught:
        RunSpec.parse({
            "name": "x" * 101, "model": {"quantisation": "nf4"}, "method": {"family": "lora", "rank": 0},
            "training": {"learning_rate": "fast", "batch_size": -1},
        })  # fmt: skip
    told = "\n".join(caught.value.problems)
    assert len(caught.value.problems) == 5
    for field in ("name", "model.quantisation", "method.rank", "training.learning_rate", "training.batch_size"):
        assert field in told


@pytest.mark.parametrize("rate", [0, -1e-4, 2, "text", float("nan"), float("inf")])
def test_a_learning_rate_that_cannot_be_is_refused(rate: object) -> None:
    with pytest.raises(SpecError, match="learning_rate"):
        RunSpec.parse({"training": {"learning_rate": rate}})


@pytest.mark.parametrize("length", [{"max_steps": 1e22}, {"max_steps": 10_000_001}, {"epochs": 1e12}])
def test_a_run_nobody_lives_to_see_the_end_of_is_refused(length: dict[str, float]) -> None:
    with pytest.raises(SpecError, match=r"training\.(max_steps|epochs)"):
        RunSpec.parse({"training": length})


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"method": {"family": "qlora"}, "model": {"quantization": "none"}}, "QLoRA needs a 4-bit base"),
        ({"method": {"family": "prefix"}, "training": {"gradient_checkpointing": True}}, "gradient checkpointing"),
        ({"method": {"family": "lora", "targets": ["", " "]}}, "names no module"),
        ({"method": {"family": "lora", "layers": [-1]}}, "counts from 0"),
        ({"method": {"family": "qlora", "init": "pissa"}}, "rewrites the base's weights"),
        ({"method": {"family": "lora", "dora": True}, "model": {"quantization": "int8"}}, "DoRA"),
        ({"training": {"precision": "fp16"}, "model": {"dtype": "float16"}}, "overflows"),
        ({"method": {"family": "ia3"}}, "lora, qlora, adapter, prefix"),
        ({"data": {"columns": {"answers": "title"}}}, "no such role: answers"),
        ({"prefix": {"init": "noise"}}, "^prefix is not a setting of the studio: a method's settings begin with method"),
        ({"method": {"family": "lora", "rnak": 4}}, r"^method\.rnak is not a setting of the studio; the nearest is method\.rank\."),
        ({"method": {"family": "lora", "bottleneck": 4}}, r"^method\.bottleneck is not a setting of the studio for this method"),
        ({"training": {"epoch": 4}}, r"the nearest is training\.epochs"),
        ({"": 1}, "is not a setting"),
    ],
)
def test_a_contradiction_is_named(data: dict[str, object], words: str) -> None:
    with pytest.raises(SpecError, match=words):
        RunSpec.parse(data)


@pytest.mark.parametrize(
    ("family", "quantization", "held"),
    [("lora", "auto", "none"), ("qlora", "auto", "nf4"), ("qlora", "fp4", "fp4"), ("lora", "int8", "int8")],
)
def test_auto_is_resolved_by_family(family: str, quantization: str, held: str) -> None:
    spec = RunSpec.parse({"model": {"quantization": quantization}, "method": {"family": family}})
    assert spec.quantization == held


@pytest.mark.parametrize(("family", "rate"), [("lora", 1e-3), ("qlora", 1e-3), ("adapter", 1e-3), ("prefix", 5e-3)])
def test_each_family_has_its_learning_rate(family: str, rate: float) -> None:
    assert RunSpec.parse({"method": {"family": family}}).learning_rate == rate
    assert RunSpec.parse({"method": {"family": family}, "training": {"learning_rate": 2e-4}}).learning_rate == 2e-4


def test_overrides_reach_any_field_and_leave_the_rest() -> None:
    data = load_preset("quickstart")
    pairs = ["method.rank=4", "training.max_steps = 20", "data.columns.prompt=question", "name=a=b", 'method.targets=["q_proj"]']
    spec = RunSpec.parse(with_overrides(data, pairs))
    assert (spec.method.rank, spec.method.targets) == (4, ["q_proj"])  # type: ignore[union-attr]
    assert (spec.training.max_steps, spec.data.columns, spec.name) == (20, {"prompt": "question"}, "a=b")
    assert spec.training.batch_size == 8 and data == load_preset("quickstart")


@pytest.mark.parametrize("pair", ["rank", "=4", ""])
def test_an_override_that_is_none_is_refused(pair: str) -> None:
    with pytest.raises(SpecError, match="key=value"):
        with_overrides({}, [pair])


@pytest.mark.parametrize("pair", ["method.rank.x=4", "a.b.c=1", "model=3", "training.nonsense=1"])
def test_an_override_of_nothing_there_is_refused(pair: str) -> None:
    with pytest.raises(SpecError):
        RunSpec.parse(with_overrides(load_preset("quickstart"), [pair]))


def test_a_change_of_family_starts_from_its_defaults_but_lora_and_qlora_share() -> None:
    data = {"method": {"family": "lora", "rank": 3}}
    assert RunSpec.parse(with_overrides(data, ["method.family=prefix"])).method == PrefixSpec()
    assert RunSpec.parse(with_overrides(data, ["method.family=adapter"])).method == AdapterSpec()
    assert RunSpec.parse(with_overrides(data, ["method.family=qlora"])).method == QLoraSpec(rank=3)


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_is_a_valid_spec(name: str) -> None:
    assert parse_preset(name).name == name


def test_the_lecture_preset_is_the_lectures_run() -> None:
    spec = parse_preset("lecture")
    assert spec.method == LoraSpec(rank=8, alpha=32, dropout=0.05, targets=["q_proj", "v_proj"])
    assert (spec.model.id, spec.quantization, spec.data.source) == ("meta-llama/Llama-3.2-1B", "int8", "flytech/python-codes-25k")
    assert (spec.training.batch_size, spec.training.learning_rate, spec.training.padding) == (4, 2e-4, "fixed")


@pytest.mark.parametrize("source", ["no-such-preset", "../presets/quickstart", "/etc/passwd", ""])
def test_a_source_that_is_no_spec_is_named(source: str) -> None:
    with pytest.raises(SpecError, match=r"neither a preset|no JSON object"):
        read_spec(source)


@pytest.mark.parametrize("part", [ModelSpec, DataSpec, LoraSpec, AdapterSpec, PrefixSpec, TrainingSpec])
def test_every_part_has_defaults_and_never_changes(part: type[BaseModel]) -> None:
    made = part()
    field = next(iter(part.model_fields))
    with pytest.raises(ValueError, match="frozen"):
        setattr(made, field, getattr(made, field))


def test_a_file_that_holds_no_object_is_told_from_one_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "scalar.json").write_text("42", encoding="utf-8")
    with pytest.raises(SpecError, match=r"scalar\.json is no JSON object"):
        read_spec(str(tmp_path / "scalar.json"))


@pytest.mark.parametrize(
    ("name", "source", "named"),
    [
        ("mine", "starter", "mine"), ("", "tatsu-lab/alpaca", "alpaca lora"), (" ", "/data/rows.v2.jsonl", "rows lora"),
        ("", "x/" + "y" * 200, 80 * "y" + " lora"),
    ],
)  # fmt: skip
def test_a_run_that_nobody_named_is_named_after_its_dataset_and_method(name: str, source: str, named: str) -> None:
    assert RunSpec.parse({"name": name, "data": {"source": source}}).named().name == named
