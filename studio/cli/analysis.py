"""`nf4`: a model's weights in 4 bits. `spectrum`: which directions an adapter uses. `insides`: what a prompt does in one."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from typing import Any

from studio.cli.output import print_json, say
from studio.cli.plan import add_full_argument, describe_lines
from studio.cli.summaries import changes_summary, module_summary, nf4_model_summary, nf4_summary, spectrum_summary
from studio.core.errors import AnalysisError, WorkerError
from studio.core.paths import StudioHome
from studio.jobs.worker import Worker


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
    add_full_argument(nf4, "each module, or each bin of the histograms")
    nf4.add_argument("--json", action="store_true", help="one JSON object as the last line")
    nf4.set_defaults(verb=run_nf4)
    spectrum = verbs.add_parser(
        "spectrum", help="singular values, ranks and growth of what a run, an adapter or a tuned model learned",
        epilog="examples: python -m studio spectrum RUN --layer 3 --module v_proj --base starter; "
        "python -m studio spectrum MERGED_FOLDER --base starter",
    )  # fmt: skip
    spectrum.add_argument("run", metavar="RUN_OR_DIR", help="a run's id, a folder with an adapter, or a merged or fully tuned model")
    spectrum.add_argument("--layer", type=int)
    spectrum.add_argument("--module", help="only this module")
    told = "the base: of a tuned model always; of an adapter with --module, what of the base's directions it amplifies"
    spectrum.add_argument("--base", metavar="MODEL", help=told)
    spectrum.add_argument("--other", metavar="RUN_OR_DIR", help="with --module: how alike its subspace is to another's")
    add_full_argument(spectrum, "each module and each singular value")
    spectrum.add_argument("--json", action="store_true", help="one JSON object as the last line")
    spectrum.set_defaults(verb=run_spectrum)
    insides = verbs.add_parser(
        "insides", help="what one prompt does inside a bottleneck adapter or a prefix",
        epilog='example: python -m studio insides RUN --prompt "Write a Python function that reverses a list."',
    )  # fmt: skip
    insides.add_argument("run", metavar="RUN_OR_DIR", help="a run of Adapters or Prefix-Tuning, or a folder with such an adapter")
    insides.add_argument("--prompt", required=True, help="what the model reads")
    insides.add_argument("--base", metavar="MODEL", default="", help="the base to read it on, where another than its own is meant")
    insides.add_argument("--json", action="store_true", help="one JSON object as the last line")
    insides.set_defaults(verb=run_insides)


def run_nf4(options: argparse.Namespace, home: StudioHome) -> int:
    from studio.analysis.cli import nf4_model_report, nf4_report
    from studio.analysis.locate import model_folder
    from studio.analysis.quantization_info import QuantizationOptions

    choice = QuantizationOptions(block_size=options.block_size, double_quant=not options.no_double_quantization)
    folder = model_folder(options.model, home)
    if options.module:
        return _print(nf4_report(folder, options.layer, options.module, choice), options, nf4_summary)
    return _print(nf4_model_report(folder, choice, home.cache), options, nf4_model_summary)


def run_spectrum(options: argparse.Namespace, home: StudioHome) -> int:
    from studio.analysis.cli import spectrum_report
    from studio.analysis.locate import is_model, model_folder, run_or_folder

    if is_model(options.run, home):
        return _print(_tuned_report(options, home), options, module_summary if options.module else changes_summary)
    base = model_folder(options.base, home) if options.base else None
    other = run_or_folder(options.other, home) if options.other else None
    report = spectrum_report(run_or_folder(options.run, home), base, other, options.layer, options.module)
    return _print(report, options, spectrum_summary)


def _tuned_report(options: argparse.Namespace, home: StudioHome) -> dict[str, Any]:
    """How far a whole model lies from its base: all modules, or one module's spectrum. Errors: AnalysisError for too little said."""
    from studio.analysis.cli import delta_report, deltas_report
    from studio.analysis.locate import model_folder

    if not options.base or options.other:
        raise AnalysisError(f"{options.run} is a whole model: its change is the difference to its base.", "Name that with --base.")
    base, tuned = model_folder(options.base, home), model_folder(options.run, home)
    if options.module is None:
        return deltas_report(base, tuned)
    if options.layer is None:
        raise AnalysisError("A spectrum is of one module.", "Name its layer too, with --layer.")
    return delta_report(base, tuned, options.layer, options.module)


def run_insides(options: argparse.Namespace, home: StudioHome) -> int:
    worker = Worker("studio.analysis", home.root / "logs" / "insides.log", arguments=["--home", str(home.root)])
    try:
        for event in worker.stream("insides", adapter=options.run, prompt=options.prompt, base=options.base):
            if event.name == "done":
                return _print(event.data, options, None)
            say(f"{event.data} …")
    finally:
        worker.close()
    raise WorkerError("The worker ended without an answer.")


def _print(report: dict[str, Any], options: argparse.Namespace, summarize: Callable[[dict[str, Any]], Iterator[str]] | None) -> int:
    """The report as it was asked for; `summarize` makes a screenful of it, None of one that is no longer by itself."""
    if options.json:
        print_json(report)
    elif summarize is None or options.full:
        print("\n".join(describe_lines(report)))
    else:
        print("\n".join([*summarize(report), "", "--full prints every number"]))
    return 0
