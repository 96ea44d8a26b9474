"""The Train tab: left the choice, right its consequence, then one button.

Builds the form and wires it; what a plan or a preview looks like is in plan_panel.py and data_panel.py. Starting a run hands the spec
to studio.jobs and returns at once: nothing on this page lives as long as a run.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import gradio as gr

from studio.core.catalog import load_preset, preset_names
from studio.core.errors import SpecError, StudioError
from studio.core.spec import RunSpec
from studio.data.measured import measured_problem, measured_size
from studio.importing import YAML_SUFFIXES
from studio.jobs import runner, store
from studio.methods import get_method
from studio.models.comparison import compare_families
from studio.models.plan import check, make_plan
from studio.models.shape import find_shape
from studio.ui import calibration, data_panel, markup, plan_panel, spec_view, start_from, toasts
from studio.ui.family_cards import KEEP_OPEN
from studio.ui.form import FAMILY_GROUP, Form
from studio.ui.guard import guarded
from studio.ui.hidden import hidden_box
from studio.ui.start_from import PRESET, StartFrom, mark_changed
from studio.ui.studio import Studio

FAMILIES = ("lora", "qlora", "adapter", "prefix")


class TrainTab(NamedTuple):
    """What other tabs need of this one: the form to fill, and the state that names the run just started."""

    start_from: StartFrom
    start: Any
    """The event of a run started from here, whose id is in `started`."""
    started: gr.Textbox

    @property
    def form(self) -> Form:
        return self.start_from.form


def build(studio: Studio) -> TrainTab:
    form = Form()
    with gr.Row(elem_classes="preset-row"):
        preset = gr.Dropdown(
            ["", *preset_names()], value="quickstart", label="Start from", scale=2, elem_id="start-from",
            info="Fills the form; change what you like. 'lecture' is the run of the lecture on fine-tuning that the studio follows.",
            allow_custom_value=True,  # "quickstart (changed)" is none of the list
        )  # fmt: skip
        form.field("name", placeholder="named after the dataset and the method", scale=3)
    imported = gr.HTML("", padding=False, elem_id="imported")
    with gr.Row(elem_classes="two-columns", equal_height=False):
        with gr.Column(scale=7, min_width=360):
            _model_section(studio, form)
            data = _data_section(studio, form)
            prompts_for = hidden_box("sample prompts wanted for")
            groups, calibrate = _method_section(form)
            _training_section(form)
        with gr.Column(scale=5, min_width=340, elem_classes="consequence"):
            gr.HTML(markup.heading("5", "The plan", "What these choices cost, before anything is downloaded or started."))
            shown, verdict = show_plan(studio, load_preset("quickstart"))
            plan = gr.HTML(shown, elem_id="plan", padding=False, js_on_load=KEEP_OPEN)
            with gr.Accordion("As JSON, and from the command line", open=False):
                spec = spec_view.build(load_preset("quickstart"))
                load = gr.UploadButton("Load a spec.json or YAML", file_types=[".json", *YAML_SUFFIXES], size="sm")
    with gr.Row(elem_id="go"):  # stays at the foot of the window: theme.css
        line = gr.HTML(verdict, elem_id="verdict", padding=False)
        train = gr.Button("Train", variant="primary", size="lg", elem_id="train-button")
    toasts.build()
    started = hidden_box("run just started")
    kept = gr.BrowserState({}, storage_key="peft-studio-form", secret="peft-studio")
    origin = StartFrom(form, groups, preset, imported, data.followed, prompts_for)
    start_from.wire(origin, load, kept)
    _wire_plan(studio, origin, kept, (plan, line, spec, data.view))
    data_panel.wire(studio, origin, data)
    calibration.wire(studio, form, calibrate)

    def begin(values: dict[Any, Any]) -> str:
        studio.refuse_while_calibrating()
        spec, planned = check_all(studio, form.spec_data(values))
        studio.play.close()
        return runner.start_run(studio.home, spec.named(), plan=planned)

    start = train.click(guarded(begin), form.widgets, started, concurrency_limit=4)
    return TrainTab(origin, start, started)


def _model_section(studio: Studio, form: Form) -> None:
    gr.HTML(markup.heading("1", "Base model", "Stays frozen. Only what the method adds is trained."))
    model = gr.Dropdown(studio.model_choices(), value="starter", label="Base model", allow_custom_value=True,
                        info="A name from the list, any hub id, or a path to a folder or GGUF file.", elem_id="base-model")  # fmt: skip
    form.add("model.id", model)
    with gr.Accordion("How it is held in memory", open=False), gr.Row():
        form.field("model.quantization")
        form.field("model.dtype")
        form.field("model.double_quantization")
        form.field("model.attention")
        form.field("model.revision", placeholder="main")
        form.field("model.trust_remote_code")


def _data_section(studio: Studio, form: Form) -> data_panel.DataPanel:
    gr.HTML(markup.heading("2", "Dataset", "Rows of prompts and answers. The answers are what the model learns."))
    source = gr.Dropdown(
        studio.dataset_choices(), value="starter", label="Dataset", allow_custom_value=True, elem_id="dataset",
        info="A name from the list, any hub id, or a path to a JSON lines, JSON, CSV or Parquet file.",
    )  # fmt: skip
    form.add("data.source", source)
    with gr.Accordion("Format, columns and what is held out", open=False), gr.Row():
        form.field("data.format")
        form.field("data.columns", placeholder="prompt=question, completion=answer")
        form.field("data.max_rows")
        form.field("data.held_out")
        form.field("data.max_held_out_rows")
        form.field("data.broken_rows")
        form.field("data.split")
        form.field("data.config")
        form.field("data.system_prompt")
    return data_panel.build(source)


def _method_section(form: Form) -> tuple[dict[str, gr.Group], calibration.CalibrationLine]:
    gr.HTML(markup.heading("3", "Method", "Orange is trained, blue is frozen."))
    choices = [(f"{get_method(family).title} — {get_method(family).sentence}", family) for family in FAMILIES]
    family = gr.Radio(choices, value="lora", show_label=False, container=False, label="Method", elem_classes="method-cards")
    form.add("method.family", family)
    calibrate = calibration.build(family)
    with gr.Group(elem_classes="fields") as lora:
        with gr.Row():
            form.field("lora.rank")
            form.field("lora.alpha")
            form.field("lora.targets")
        with gr.Accordion("More about LoRA", open=False), gr.Row():
            for name in ("dropout", "init", "layers", "rank_pattern", "lora_plus_ratio", "rslora", "dora"):
                form.field(f"lora.{name}")
    with gr.Group(elem_classes="fields", visible=False) as adapter, gr.Row():
        for name in ("bottleneck", "placement", "activation", "reduction_factor", "dropout"):
            form.field(f"adapter.{name}")
    with gr.Group(elem_classes="fields", visible=False) as prefix, gr.Row():
        for name in ("virtual_tokens", "init", "init_text", "projection", "projection_hidden"):
            form.field(f"prefix.{name}")
    groups = {"lora": lora, "adapter": adapter, "prefix": prefix}
    family.change(lambda value: [gr.update(visible=FAMILY_GROUP[value] == name) for name in groups], family, list(groups.values()),
                  show_progress="hidden", queue=False)  # fmt: skip
    return groups, calibrate


def _training_section(form: Form) -> None:
    gr.HTML(markup.heading("4", "Training", "The few that matter; the rest is folded away."))
    with gr.Row():
        for name in ("epochs", "learning_rate", "batch_size", "max_length"):
            form.field(f"training.{name}")
    form.field("training.sample_prompts", placeholder="A prompt of as many lines as you like; a line of --- before the next one")
    with gr.Accordion("Everything else", open=False), gr.Row():
        for name in (
            "max_steps", "accumulation", "schedule", "warmup", "optimizer", "weight_decay", "max_grad_norm", "loss_on",
            "too_long", "padding", "precision", "eval_every", "log_every", "save_every", "keep_checkpoints", "patience", "seed",
            "report_to", "keep_best", "labelled_head", "gradient_checkpointing",
        ):  # fmt: skip
            form.field(f"training.{name}")


def _wire_plan(studio: Studio, origin: StartFrom, kept: gr.BrowserState, shown: tuple[Any, ...]) -> None:
    """The plan follows every change and look at the data; the browser keeps what is typed. Of changes faster than plans the last counts."""
    *views, spec, preview = shown
    form, preset = origin.form, origin.preset

    def update(values: dict[Any, Any]) -> dict[Any, Any]:
        data = form.spec_data(values)
        name = mark_changed(values[preset] or "", data)
        updates = dict(zip(views, show_plan(studio, data), strict=True))
        updates |= {spec: spec_view.spec_html(data), kept: {**form.typed(values), PRESET: name}}
        return updates if name == values[preset] else {**updates, preset: name}

    changes = [preview.change, *(field.widget.change for field in form.fields.values())]
    gr.on(changes, guarded(update), {*form.widgets, preset}, [*views, spec, kept, preset], show_progress="hidden",
          trigger_mode="always_last", concurrency_limit=4)  # fmt: skip


def connect_again(studio: Studio, tabs: Any, button: Any, selected: Any, tab: TrainTab) -> None:
    """'Train again with changes' on a run: its settings fill the form."""

    def again(run_id: str) -> dict[Any, Any]:
        spec = store.read_run(studio.home, run_id).spec
        return {**tab.start_from.fill(spec.to_json()), tabs: gr.Tabs(selected="train")}

    button.click(guarded(again), selected, [*tab.start_from.filled, tabs], show_progress="hidden")


def initial_values(studio: Studio, form: Form) -> None:
    """Fill the widgets with the quickstart preset before the page is served, so that no event is needed for it."""
    for widget, value in form.updates(RunSpec.parse(load_preset("quickstart"))).items():
        widget.value = value


def show_plan(studio: Studio, data: dict[str, Any]) -> tuple[str, str]:
    """The plan for the form's content and its verdict in one line, or the problems in their place."""
    try:
        spec = RunSpec.parse(data)
        shape = find_shape(spec.model.id, studio.home)
        problems = check(spec, shape)
        if problems:
            raise SpecError(problems)
        plan = make_plan(spec, shape, studio.hardware, measured_size(studio.home, spec))
        unusable = measured_problem(studio.home, spec)
        return plan_panel.plan_html(plan, compare_families(spec, shape, studio.hardware), unusable), plan_panel.verdict_html(plan, unusable)
    except StudioError as error:
        problems = error.problems if isinstance(error, SpecError) else [str(error)]
        return plan_panel.problems_html(problems), plan_panel.problems_line(problems)


def check_all(studio: Studio, data: dict[str, Any]) -> tuple[RunSpec, dict[str, Any] | None]:
    """The valid spec and its plan. Raises SpecError with every problem, of the settings and of the model's shape."""
    spec = RunSpec.parse(data)
    shape = find_shape(spec.model.id, studio.home)
    problems = check(spec, shape)
    if problems:
        raise SpecError(problems)
    return spec, make_plan(spec, shape, studio.hardware, measured_size(studio.home, spec)).to_json()
