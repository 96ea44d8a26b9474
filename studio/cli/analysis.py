"""`nf4`: what a model's weights look like in 4 bits. `spectrum`: which directions an adapter uses."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from studio.cli.output import print_json
from studio.cli.plan import describe_lines
from studio.core.errors import AnalysisError
from studio.core.paths import RUN_ID, StudioHome


def add_verbs(verbs: Any) -> None:
    nf4 = verbs.add_parser(
        "nf4", help="a model's weights under NF4, FP4, INT4 and INT8: codes, errors, bits per weight",
        epilog="example: python -m studio nf4 starter --layer 10 --module q_proj --json",
    )  # fmt: skip
    nf4.add_argument("model", metavar="MODEL", help="starter, a hub id that is on disk, a folder or a GGUF file")
    nf4.add_argument("--layer", type=int, default=0, help="counted from 0")
    nf4.add_argument("--module", help="for example q_proj; the whole model when left out")
    nf4.add_argument("--block-size", type=int, default=64, help="weights that share one absmax")
    nf4.add_argument("--no-double-quantization", action="store_true", help="keep each block's absmax in 32 bits")
    nf4.add_argument("--json", action="store_true", help="one JSON object as the last line")
    nf4.set_defaults(verb=run_nf4)
    spectrum = verbs.add_parser(
        "spectrum", help="singular values, ranks and growth of what a run or an adapter learned",
        epilog="example: python -m studio spectrum RUN --layer 3 --module v_proj --base starter",
    )  # fmt: skip
    spectrum.add_argument("run", metavar="RUN_OR_DIR", help="a run's id, or a folder with an adapter")
    spectrum.add_argument("--layer", type=int)
    spectrum.add_argument("--module", help="only this module")
    spectrum.add_argument("--base", metavar="MODEL", help="with --module: what of the base's directions it amplifies")
    spectrum.add_argument("--other", metavar="RUN_OR_DIR", help="with --module: how alike its subspace is to another's")
    spectrum.add_argument("--json", action="store_true", help="one JSON object as the last line")
    spectrum.set_defaults(verb=run_spectrum)


def run_nf4(options: argparse.Namespace, home: StudioHome) -> int:
    from studio.analysis.cli import nf4_model_report, nf4_report
    from studio.analysis.quantization_info import QuantizationOptions

    choice = QuantizationOptions(block_size=options.block_size, double_quant=not options.no_double_quantization)
    folder = _model_folder(options.model, home)
    if options.module:
        return _print(nf4_report(folder, options.layer, options.module, choice), options.json)
    return _print(nf4_model_report(folder, choice, home.cache), options.json)


def run_spectrum(options: argparse.Namespace, home: StudioHome) -> int:
    from studio.analysis.cli import spectrum_report

    base = _model_folder(options.base, home) if options.base else None
    other = _adapter_folder(options.other, home) if options.other else None
    return _print(spectrum_report(_adapter_folder(options.run, home), base, other, options.layer, options.module), options.json)


def _print(report: dict[str, Any], as_json: bool) -> int:
    if as_json:
        print_json(report)
    else:
        print("\n".join(describe_lines(report)))
    return 0


def _model_folder(model_id: str, home: StudioHome) -> Path:
    """The folder of a model that is on disk. Raises ModelNotFound, or AnalysisError for one that is only on the hub."""
    from studio.models.load import resolve_model

    folder = Path(resolve_model(model_id, home))
    if not folder.is_dir():
        raise AnalysisError(f"The weights of {model_id} are not on this disk.", "Train with it once, or name a folder.")
    return folder


def _adapter_folder(name: str, home: StudioHome) -> Path:
    """A run of the home by its id, else a folder. Raises RunNotFound for what is neither."""
    if RUN_ID.fullmatch(name) and (home.runs / name).is_dir():
        return home.run(name).folder
    folder = Path(name).expanduser()
    return folder if folder.is_dir() else home.run(name).folder
