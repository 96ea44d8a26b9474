"""What a question on the command line is asked of and how, as options: shared by `compare` and `chat`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from studio.core.catalog import find_model
from studio.core.errors import PlayError, RunNotFound
from studio.core.files import read_json
from studio.core.paths import StudioHome
from studio.core.sampling import Sampling, check_strength
from studio.core.spec import ModelSpec
from studio.jobs.store import read_run
from studio.ui.play_sources import CONFIG, FOLDER, HELD_AS, RUN, Sources, read_sources

SAMPLING = ("temperature", "top_p", "top_k", "max_new_tokens", "seed")


def add_source_arguments(parser: argparse.ArgumentParser) -> None:
    """RUN_OR_MODEL ..., --model, --adapter, --quantization, --system."""
    parser.add_argument(
        "named", nargs="*", metavar="RUN_OR_MODEL",
        help="runs and adapter folders to put beside their base, or a base model to ask alone; the starter model where nothing is named",
    )  # fmt: skip
    parser.add_argument("--model", metavar="NAME", help="the base: hub id, folder or GGUF file; else the first run's")
    parser.add_argument("--adapter", action="append", default=[], metavar="RUN_OR_FOLDER", help="one more adapter; may be repeated")
    parser.add_argument(
        "--quantization", action="append", default=[], choices=list(HELD_AS),
        help="how the base is held, else as in the first run; repeated, each further one is a bare copy of the base beside it",
    )  # fmt: skip
    parser.add_argument("--system", metavar="TEXT", help="system prompt; else the first run's own")


def add_sampling_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--max-new-tokens", type=int, default=256)
    parser.add_argument("--temperature", type=float, default=0.0, help="0 is greedy, and the default")
    parser.add_argument("--top-p", type=float, default=1.0, help="only the likeliest tokens that add up to this share")
    parser.add_argument("--top-k", type=int, default=0, help="only this many likeliest tokens; 0 is all")
    parser.add_argument("--seed", type=int, default=0, help="the same for every answer")
    parser.add_argument("--strength", type=float, default=1.0, help="scales what adapters add, 0 to 2; 1 is as trained")


def read_sampling(options: argparse.Namespace) -> dict[str, Any]:
    """The worker's sampling settings, checked before a model is loaded for them. Raises PlayError."""
    settings = {name: getattr(options, name) for name in SAMPLING}
    Sampling.parse(settings)
    check_strength(options.strength)
    return settings


def read_named_sources(options: argparse.Namespace, home: StudioHome) -> Sources:
    """What the options name. Raises PlayError, RunNotFound, and what read_sources raises."""
    named = [_kind_of(home, name) for name in options.named]
    adapters = [value for value, is_adapter in named if is_adapter] + [_adapter(home, name) for name in options.adapter]
    models = [value for value, is_adapter in named if not is_adapter] + ([options.model] if options.model else [])
    if len(models) > 1:
        raise PlayError(f"Several base models are named: {', '.join(models)}.", "All answers come from one base; name one.")
    runs = [read_run(home, adapter.removeprefix(RUN)) for adapter in adapters if adapter.startswith(RUN)]
    model = models[0] if models else runs[0].spec.model.id if runs else _base_of_folder(adapters) or ModelSpec().id
    quantization, *beside = options.quantization or [runs[0].spec.quantization if runs else "none"]
    sources = read_sources(home, model, quantization, adapters, beside)
    return sources if options.system is None else Sources(sources.load, sources.panes, options.system)


def _kind_of(home: StudioHome, name: str) -> tuple[str, bool]:
    """(what read_sources takes, whether it is an adapter). Raises RunNotFound for a plain word that is nothing known."""
    if (home.runs / name / "spec.json").is_file() or (Path(name).expanduser() / CONFIG).is_file():
        return _adapter(home, name), True
    if find_model(name) or "/" in name or Path(name).expanduser().exists():
        return name, False
    raise RunNotFound(
        f"There is no run {name!r} in {home.root}, and no model of that name here.",
        "`python -m studio runs` lists the runs. A model is named by its hub id (Qwen/Qwen2.5-0.5B-Instruct), its folder, or with --model.",
    )


def _adapter(home: StudioHome, name: str) -> str:
    folder = Path(name).expanduser()
    return FOLDER + str(folder.resolve()) if (folder / CONFIG).is_file() else RUN + home.run(name).id


def _base_of_folder(adapters: list[str]) -> str:
    """The base that the first dropped-in adapter says it was made on; "" where there is none."""
    config = read_json(Path(adapters[0].removeprefix(FOLDER)) / CONFIG) if adapters else None
    base = str((config or {}).get("base_model_name_or_path") or "")
    entry = find_model(base)
    return entry.id if entry else base
