"""`plan`, `preview`, `presets`: what a run would be, before anything is started."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from studio.cli.output import print_json, print_table
from studio.cli.serve import ensure_starter
from studio.cli.summaries import plan_summary
from studio.cli.train import add_spec_arguments, plan_run, read_checked_spec
from studio.core.catalog import parse_preset, preset_names
from studio.core.paths import StudioHome
from studio.core.spec import RunSpec, with_overrides
from studio.core.units import show_bytes, show_count, show_duration
from studio.jobs.worker import Worker

if TYPE_CHECKING:
    from studio.models.comparison import FamilyComparison


def add_verbs(verbs: Any) -> None:
    plan = verbs.add_parser(
        "plan", help="parameters, memory and time of a run, before anything is downloaded or started",
        epilog="example: python -m studio plan lecture --set method.rank=16",
    )  # fmt: skip
    add_spec_arguments(plan)
    add_full_argument(plan, "also what each method adds, counted, and what the lecture says")
    plan.set_defaults(verb=run_plan)
    preview = verbs.add_parser(
        "preview", help="a dataset as the studio reads it: format, columns, first rows, what is dropped",
        epilog="example: python -m studio preview rows.jsonl --set data.format=alpaca",
    )  # fmt: skip
    preview.add_argument("data", metavar="DATA", help="starter, a hub id, or a path to a file or folder")
    preview.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="for example data.columns.prompt=question")
    preview.add_argument("--json", action="store_true", help="one JSON object as the last line")
    preview.set_defaults(verb=run_preview)
    presets = verbs.add_parser("presets", help="the presets there are")
    presets.set_defaults(verb=run_presets)


def add_full_argument(parser: argparse.ArgumentParser, more: str) -> None:
    parser.add_argument("--full", action="store_true", help=f"every number of the report; {more}")


def run_plan(options: argparse.Namespace, home: StudioHome) -> int:
    spec = read_checked_spec(options.spec, options.set)
    plan = plan_run(spec, home)
    families = compare_on_this_machine(spec, home)
    if options.json:
        print_json({**plan, "families": [family.to_json() for family in families]})
    elif options.full:
        heading = "what each method adds, counted, and what the lecture on fine-tuning that the studio follows says"
        print("\n".join([*describe_lines(plan), heading, *family_lines(families)]))
    else:
        print("\n".join([*plan_summary(plan), "--full says more: every figure, and what each method adds"]))
    return 0


def compare_on_this_machine(spec: RunSpec, home: StudioHome) -> tuple[FamilyComparison, ...]:
    """The comparison the page shows under its plan."""
    from studio.models.comparison import compare_families
    from studio.models.hardware import detect_hardware
    from studio.models.shape import find_shape

    return compare_families(spec, find_shape(spec.model.id, home), detect_hardware())


def family_lines(families: Sequence[FamilyComparison]) -> Iterator[str]:
    """Each family as a few lines: what is counted first, then the lecture's words and figures."""
    for family in families:
        card, said = family.card, family.lecture
        sizes = f"{100 * card.share:.3g} %, {show_bytes(card.adapter_bytes)} on disk, base {show_bytes(family.base_bytes)}"
        yield f"  {card.title}: {show_count(card.parameters)} parameters, {sizes} ({family.quantization})"
        yield f"    {card.formula}"
        places = "; ".join(f"{part.place} {part.shapes}: {part.parameters:,}" for part in card.parts)
        yield f"    counted in {card.layers} layers: {places}" if card.layers > 1 else f"    counted: {places}"
        yield f"    lecture: adds {said.added} ({said.core}); good for {said.good_for}"
        yield f"    lecture: training size {said.training_size}; change of architecture: {said.architecture_change}"
        for check in family.checks:
            yield f"    lecture: {check.claim}. {check.how}, it {'holds' if check.agrees else 'does not hold'}: {check.found}"


def run_preview(options: argparse.Namespace, home: StudioHome) -> int:
    spec = RunSpec.parse(with_overrides({"data": {"source": options.data}}, options.set))
    ensure_starter(home, spec)
    parts = spec.to_json()
    worker = Worker("studio.data", home.root / "logs" / "data.log", arguments=["--home", str(home.root)])
    try:
        preview = worker.call("preview", data=parts["data"], model=parts["model"], training=parts["training"])
    finally:
        worker.close()
    if options.json:
        print_json(preview)
    else:
        print("\n".join(describe_lines(preview)))
    return 0


def run_presets(options: argparse.Namespace, home: StudioHome) -> int:
    specs = [(name, parse_preset(name)) for name in preset_names()]
    print_table(("PRESET", "MODEL", "DATA", "METHOD"), ((name, s.model.id, s.data.source, s.method.family) for name, s in specs))
    return 0


def describe_lines(data: dict[str, Any], indent: str = "") -> Iterator[str]:
    """A nested result as lines for a person; the unit in a name decides how its number is shown."""
    for key, value in data.items():
        title = key.replace("_", " ")
        if isinstance(value, dict):
            yield f"{indent}{title}"
            yield from describe_lines(value, indent + "  ")
        elif isinstance(value, (list, tuple)) and value and isinstance(value[0], dict):
            yield f"{indent}{title}"
            for item in value:
                yield from describe_lines(item, indent + "  ")
                yield ""
        else:
            yield f"{indent}{title}: {describe_value(key, value)}".replace("\n", f"\n{indent}  ")


def describe_value(name: str, value: Any) -> str:
    """1000000, named peak_bytes, as '1 MB'."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return ", ".join(str(item) for item in value) if isinstance(value, (list, tuple)) else str(value)
    for ending, show in (("bytes", show_bytes), ("parameters", show_count), ("seconds", show_duration), ("_s", show_duration)):
        if name.endswith(ending) and not name.endswith("per_s"):
            return show(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
