"""`import-config`: another tool's YAML as a spec file, with what could not be carried over."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from studio.cli.output import print_json, say
from studio.core.errors import RunError
from studio.core.files import write_json
from studio.core.paths import StudioHome
from studio.importing import import_config


def add_verbs(verbs: Any) -> None:
    parser = verbs.add_parser(
        "import-config", help="a LLaMA-Factory or Axolotl YAML as a spec, and what could not be carried over",
        epilog="example: python -m studio import-config llama3_lora_sft.yaml --out spec.json",
    )  # fmt: skip
    parser.add_argument("file", type=Path, metavar="FILE")
    parser.add_argument("--out", type=Path, help="write the spec there; printed when left out. Nothing is overwritten")
    parser.add_argument("--json", action="store_true", help="spec and list as one JSON object")
    parser.set_defaults(verb=run_import)


def run_import(options: argparse.Namespace, home: StudioHome) -> int:
    imported = import_config(options.file.expanduser())
    if options.out is not None:
        if options.out.exists():
            raise RunError(f"{options.out} exists already, and nothing is overwritten.", "Name another place with --out.")
        write_json(options.out, imported.data)
    say(f"A configuration of {imported.tool}.")
    say(
        "\n".join(["Not carried over:", *[f"- {text}" for text in imported.left_out]])
        if imported.left_out
        else "All of it was carried over."
    )
    if options.json:
        print_json({"tool": imported.tool, "spec": imported.data, "left_out": imported.left_out})
    elif options.out is None:
        print_json(imported.data)
    return 0
