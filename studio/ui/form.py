"""The single crossing between widgets and RunSpec.

A field is made from its place in the spec ("training.batch_size", or "lora.rank" for a family's own): the type decides the widget,
assets/help.md gives label and help, the default is the spec's. So adding a setting is one line in studio/core/spec.py, one section in
assets/help.md and one `form.field(...)` where it belongs on the page.

`spec_data` reads all widgets into the spec's JSON; `updates` is its inverse. What a person typed is passed on as typed: the spec, not
the widget, says what is wrong with it.
"""

from __future__ import annotations

import json
import types
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin

import gradio as gr
from pydantic.fields import FieldInfo

from studio.core.spec import AdapterSpec, DataSpec, LoraSpec, ModelSpec, Part, PrefixSpec, RunSpec, TrainingSpec
from studio.ui.help import all_help

PARTS: dict[str, type[Part]] = {
    "model": ModelSpec, "data": DataSpec, "training": TrainingSpec, "lora": LoraSpec, "adapter": AdapterSpec, "prefix": PrefixSpec,
}  # fmt: skip
SEPARATOR = "---"
FAMILY_GROUP = {"lora": "lora", "qlora": "lora", "adapter": "adapter", "prefix": "prefix"}

CHOICE_LABELS = {
    "auto": "Auto", "none": "As it is", "int8": "8 bits (LLM.int8)", "nf4": "4 bits, NF4", "fp4": "4 bits, FP4",
    "all-linear": "All linear layers", "attention": "Attention only", "mlp": "MLP only",
    "houlsby": "Houlsby", "pfeiffer": "Pfeiffer", "parallel": "Parallel", "relu": "ReLU", "gelu": "GELU", "silu": "SiLU", "tanh": "tanh",
    "adamw": "AdamW", "adamw_8bit": "AdamW, 8-bit state", "paged_adamw_8bit": "AdamW, 8-bit, paged",
    "grouped": "Grouped by length", "batch": "To the longest of the batch", "fixed": "To the maximum length",
    "answer": "The answer", "all": "Every token", "drop": "Drop", "cut": "Cut",
    "bf16": "bf16", "fp16": "fp16", "fp32": "fp32", "default": "Default (B = 0)", "gaussian": "Gaussian", "pissa": "PiSSA",
    "olora": "OLoRA",
    "eva": "EVA", "linear": "Linear", "cosine": "Cosine", "constant": "Constant", "text": "From text", "random": "Random",
    "prompt_completion": "Prompt and completion", "alpaca": "Alpaca", "messages": "Messages", "tensorboard": "TensorBoard",
}  # fmt: skip
CHOICE_LABELS_BY_FIELD = {
    "data.format": {"auto": "Detect", "text": "Plain text"},
    "data.broken_rows": {"refuse": "Refuse the dataset", "leave_out": "Leave them out"},
    "training.report_to": {"none": "Nothing else", "trackio": "trackio"},
}


class FormField(NamedTuple):
    """A widget with the way from its value to the spec's JSON and back. `read` returns None for 'the default'."""

    widget: gr.components.Component
    read: Callable[[Any], Any]
    show: Callable[[Any], Any]


class Form:
    """Every field of one page, by its place in the spec."""

    def __init__(self) -> None:
        self.fields: dict[str, FormField] = {}

    def field(self, path: str, **overrides: Any) -> Any:
        """Build, register and return the widget of `path`. `overrides` go to the widget's constructor."""
        info = _field_info(path)
        name = path.rpartition(".")[2]
        help_text = all_help().get(path) or all_help()[f"method.{name}"]
        options = {"label": help_text.label, "info": help_text.text, "elem_id": f"field-{path.replace('.', '-')}", **overrides}
        made = make_field(path, info, options)
        self.fields[path] = made
        return made.widget

    def add(self, path: str, widget: gr.components.Component) -> Any:
        """Register a widget built elsewhere, whose value is the spec's as it is."""
        self.fields[path] = FormField(widget, lambda value: value, lambda value: value)
        return widget

    @property
    def widgets(self) -> set[gr.components.Component]:
        return {field.widget for field in self.fields.values()}

    def spec_data(self, values: dict[gr.components.Component, Any]) -> dict[str, Any]:
        """The spec's JSON from the widgets' values; fields of the families not chosen are left out."""
        family = values[self.fields["method.family"].widget] or "lora"
        data: dict[str, Any] = {"model": {}, "data": {}, "training": {}, "method": {"family": family}}
        for path, field in self.fields.items():
            part, _, name = path.partition(".")
            if path == "method.family" or (part in FAMILY_GROUP and part != FAMILY_GROUP[family]):
                continue
            value = field.read(values[field.widget])
            if value is None or value == "":
                continue
            if not name:
                data[part] = value
            else:
                data["method" if part in FAMILY_GROUP else part][name] = value
        return data

    def typed(self, values: dict[gr.components.Component, Any]) -> dict[str, Any]:
        """What stands in every field, as it was typed, by its place in the spec."""
        return {path: values[field.widget] for path, field in self.fields.items()}

    def retyped(self, typed: dict[str, Any]) -> dict[gr.components.Component, Any]:
        """The inverse of `typed`; fields that an older page did not have stay as they are."""
        return {field.widget: typed[path] for path, field in self.fields.items() if path in typed}

    def updates(self, spec: RunSpec) -> dict[gr.components.Component, Any]:
        """The widgets' values for a spec; fields of the other families stay as they are."""
        data = spec.to_json()
        result = {}
        for path, field in self.fields.items():
            part, _, name = path.partition(".")
            if not name:
                result[field.widget] = data[part]
            elif part in FAMILY_GROUP:
                if part == FAMILY_GROUP[spec.method.family]:
                    result[field.widget] = field.show(data["method"][name])
            else:
                result[field.widget] = field.show(data[part][name])
        return result


def _field_info(path: str) -> FieldInfo:
    part, _, name = path.partition(".")
    return RunSpec.model_fields[part] if not name else PARTS[part].model_fields[name]


def make_field(path: str, info: FieldInfo, options: dict[str, Any]) -> FormField:
    """The widget for a field's type."""
    kind, choices = _kind(info.annotation), _choices(info.annotation)
    default = info.get_default(call_default_factory=True)
    if kind == "choice":
        labels = {**CHOICE_LABELS, **CHOICE_LABELS_BY_FIELD.get(path, {})}
        maker = options.pop("maker", gr.Dropdown)
        return FormField(maker(choices=[(labels.get(c, c), c) for c in choices], value=default, **options), _same, _same)
    if kind == "choice-or-list":
        pairs = [(CHOICE_LABELS.get(c, c), c) for c in choices]
        widget = gr.Dropdown(choices=pairs, value=default, allow_custom_value=True, **options)
        return FormField(
            widget, lambda text: text if text in choices else read_list(text), lambda v: v if isinstance(v, str) else ", ".join(v)
        )
    if kind == "bool":
        # theme.css gives the class its width: gradio's page leaves out a checkbox's min_width (seen with gradio 6.31).
        return FormField(gr.Checkbox(value=default, elem_classes="checkbox-field", **options), _same, _same)
    if kind == "int":
        return FormField(gr.Number(value=default, **options), read_number, _same)
    if kind == "float":
        shown = "" if default is None else f"{default:g}"
        widget = gr.Textbox(value=shown, max_lines=1, **options)
        return FormField(widget, read_number, lambda value: "" if value is None else f"{value:g}")
    if kind == "mapping":
        return FormField(gr.Textbox(value="", max_lines=1, **options), read_mapping, lambda v: ", ".join(f"{k}={x}" for k, x in v.items()))
    if kind == "texts":
        return FormField(gr.Textbox(value="", lines=3, max_lines=12, **options), read_texts, show_texts)
    if kind == "list":
        return FormField(gr.Textbox(value="", max_lines=1, **options), read_list, lambda value: ", ".join(map(str, value)))
    return FormField(gr.Textbox(value=default or "", max_lines=1, **options), _same, _same)


def _kind(annotation: Any) -> str:
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return "choice"
    if origin in (Union, types.UnionType):
        kinds = [_kind(item) for item in inner if item is not type(None)]
        return "choice-or-list" if "choice" in kinds and len(kinds) > 1 else kinds[0]
    if origin is dict:
        return "mapping"
    if origin is list:
        return "list" if inner[0] is int else "texts"
    return {bool: "bool", int: "int", float: "float"}.get(annotation, "text")


def _choices(annotation: Any) -> list[str]:
    if get_origin(annotation) is Literal:
        return list(get_args(annotation))
    return [choice for item in get_args(annotation) if get_origin(item) is Literal for choice in get_args(item)]


def _same(value: Any) -> Any:
    return value


def read_number(value: Any) -> Any:
    """'1e-3' -> 0.001, '' -> None; what is no number is passed on, for the spec to name."""
    if value is None or isinstance(value, bool):
        return None
    if isinstance(value, (int, float)):
        return int(value) if float(value).is_integer() else value
    text = str(value).strip().replace(",", ".")
    if not text:
        return None
    try:
        return float(text)
    except ValueError:
        return text


def read_texts(text: Any) -> list[str]:
    """Texts of several lines with a line of --- between two; a line of a text that is itself --- has a backslash before it."""
    texts: list[list[str]] = [[]]
    for line in str(text or "").replace("\r\n", "\n").split("\n"):
        if line.strip() == SEPARATOR:
            texts.append([])
        else:
            texts[-1].append(line[1:] if _looks_like_separator(line) else line)
    joined = ("\n".join(lines).strip("\n") for lines in texts)
    return [text for text in joined if text.strip()]


def show_texts(texts: list[str]) -> str:
    """The inverse of `read_texts`; empty lines around a text are lost."""
    escaped = ("\n".join("\\" + line if _looks_like_separator(line) else line for line in text.split("\n")) for text in texts)
    return f"\n{SEPARATOR}\n".join(escaped)


def _looks_like_separator(line: str) -> bool:
    return line.lstrip("\\").strip() == SEPARATOR


def read_list(text: Any) -> list[Any] | None:
    """'q_proj, v_proj' -> ['q_proj', 'v_proj']; '3, 4' -> [3, 4]; '' -> None."""
    items = [item.strip() for item in str(text or "").split(",") if item.strip()]
    return [int(item) if item.lstrip("-").isdigit() else item for item in items] or None


def read_mapping(text: Any) -> dict[str, Any] | None:
    """'prompt=question, completion=answer' or JSON -> a dict; '' -> None. Broken text is passed on, for the spec to name."""
    stripped = str(text or "").strip()
    if not stripped:
        return None
    if stripped.startswith("{"):
        try:
            return dict(json.loads(stripped))
        except ValueError:
            return {stripped: ""}
    pairs = (item.partition("=") for item in stripped.split(",") if item.strip())
    return {key.strip(): int(value) if value.strip().isdigit() else value.strip() for key, _, value in pairs}
