"""The studio's command line: `python -m studio [VERB]`, one verb per action of the page, over the same functions.

Standard output carries the result, standard error everything else. Exit codes: 0 done, 1 an expected failure (message and advice on
standard error, with --json also {"error": ...} on standard output), 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Sequence

try:
    from studio import __version__
    from studio.cli import analysis, api, calibrate, chat, compare, export, importing, methods, plan, runs, serve, train
    from studio.cli.output import print_json, say
    from studio.core.errors import StudioError, from_os_error
    from studio.core.paths import StudioHome
    from studio.core.protocol import describe_exception
except ModuleNotFoundError as missing:
    if str(missing.name).split(".")[0] == "studio":
        raise
    advice = "Run .venv/bin/python -m studio ..., or python3 launch.py, which sets them up."
    sys.exit(f"PEFT Studio's packages are not in this Python (it has no {missing.name}). {advice}")

EXAMPLES = """\
examples:
  python -m studio                                    serve the page on http://127.0.0.1:7860
  python -m studio demo                               train the quickstart and compare, without a browser
  python -m studio plan lecture                       parameters, memory and time before anything is started
  python -m studio train quickstart --set method.rank=4
  python -m studio runs
  python -m studio compare RUN --prompt "Write a Python function that reverses a list."
  python -m studio chat RUN                           base and adapter side by side, in the terminal

`python -m studio VERB --help` says more. Models, data and runs are kept in ~/.peft-studio, or $PEFT_STUDIO_HOME, or --home.
"""


def build_parser() -> argparse.ArgumentParser:
    """Every verb with its options; `verb` of the parsed options is the function to call."""
    parser = argparse.ArgumentParser(
        prog="python -m studio", description="Fine-tune a language model with little memory, and see inside.",
        epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--version", action="version", version=f"PEFT Studio {__version__}")
    parser.add_argument("--home", help="where models, data and runs are kept")
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    for group in (serve, train, plan, runs, compare, chat, methods, calibrate, export, importing, analysis, api):
        group.add_verbs(verbs)
    for verb in verbs.choices.values():
        # Without a default of its own, so that `--home X VERB` is not overwritten.
        verb.add_argument("--home", default=argparse.SUPPRESS, help="where models, data and runs are kept")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = build_parser()
    try:
        options = parser.parse_args(_with_default_verb(arguments))
    except SystemExit as end:  # argparse has said what is wrong, or printed the help
        return int(end.code or 0)
    try:
        return options.verb(options, StudioHome.find(options.home))
    except StudioError as error:
        return _fail(error, options)
    except KeyboardInterrupt:
        say("Interrupted.")
        return 130
    except BrokenPipeError:  # `runs | head`: the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        return _fail(from_os_error(error, "the command"), options)
    except Exception as error:  # noqa: BLE001 - the edge of the process: anything else is a bug, told as one
        traceback.print_exc()
        return _fail(describe_exception(error), options)


def _with_default_verb(arguments: list[str]) -> list[str]:
    """Without a verb, serve: `python -m studio --port 8000`."""
    first = arguments[0] if arguments else ""
    taken = 2 if first == "--home" else 1 if first.startswith("--home=") else 0
    before, rest = arguments[:taken], arguments[taken:]
    if rest and (not rest[0].startswith("-") or rest[0] in ("-h", "--help", "--version")):
        return arguments
    return [*before, "serve", *rest]


def _fail(error: StudioError, options: argparse.Namespace) -> int:
    say("\n".join(text for text in (error.message, error.hint) if text))
    if getattr(options, "json", False):
        print_json(error.to_json())
    return 1


if __name__ == "__main__":
    sys.exit(main())
