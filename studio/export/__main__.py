"""The export worker: `python -m studio.export [--home HOME]` speaks studio.core.protocol and answers `export` and `push`.

export, args {"run", "kind": one of KINDS, "out": path or "", "precision", "weights"}: done with {"path", "bytes"}.
push, args {"run", "repository", "kind": adapter or merged, "token", "private"}: done with {"url"}. The token comes over the pipe and is
neither logged nor kept.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from studio.core.errors import RunError
from studio.core.files import folder_bytes, write_atomic
from studio.core.paths import StudioHome
from studio.core.protocol import Call, serve
from studio.export.source import ExportSource, free_target, new_file, read_source

KINDS = {"adapter": "adapter.zip", "merged": "merged", "gguf": "model.gguf", "card": "README.md", "script": "script"}
"""Kind -> the name its file or folder gets where none is given."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m studio.export", description="The studio's export worker.")
    parser.add_argument("--home", default=None, help="the studio's home")
    home = StudioHome.find(parser.parse_args().home)
    serve({"export": lambda call: export(home, call), "push": lambda call: push(home, call)})


def export(home: StudioHome, call: Call) -> dict[str, Any]:
    kind = str(call.args.get("kind", ""))
    if kind not in KINDS:
        raise RunError(f"There is no export {kind!r}.", f"There are {', '.join(KINDS)}.")
    source = read_source(home, str(call.args.get("run", "")))
    out = str(call.args.get("out") or "")
    target = Path(out).expanduser().absolute() if out else free_target(home.root / "exports" / source.paths.id, KINDS[kind])
    call.emit("progress", f"exporting to {target}")
    path = _writer(kind, call.args)(source, target)
    return {"path": str(path), "bytes": folder_bytes(path) if path.is_dir() else path.stat().st_size}


def _writer(kind: str, args: dict[str, Any]) -> Callable[[ExportSource, Path], Path]:
    """The function that writes one kind; heavy imports happen here, for that kind alone."""
    if kind == "adapter":
        from studio.export.adapter import zip_adapter

        return zip_adapter
    if kind == "card":
        return write_card
    from studio.models.quiet import quiet_libraries

    quiet_libraries()
    if kind == "merged":
        from studio.export.merge import save_merged

        weights = _one_of(args, "weights", ("as_trained", "original"))
        return lambda source, target: save_merged(source, target, weights)  # type: ignore[arg-type]
    if kind == "gguf":
        from studio.export.gguf import write_gguf

        precision = _one_of(args, "precision", ("f16", "bf16", "f32"))
        return lambda source, target: write_gguf(source, target, precision)  # type: ignore[arg-type]
    from studio.export.script import write_script

    return write_script


def write_card(source: ExportSource, target: Path) -> Path:
    from studio.export.card import model_card

    with new_file(target) as part:
        write_atomic(part, model_card(source))
    return target


def _one_of(args: dict[str, Any], name: str, choices: tuple[str, ...]) -> str:
    """The argument's value, the first choice where it is left out. Raises RunError for another."""
    value = str(args.get(name) or choices[0])
    if value not in choices:
        raise RunError(f"{name} is one of {', '.join(choices)}, not {value!r}.")
    return value


def push(home: StudioHome, call: Call) -> dict[str, Any]:
    from studio.export.hub import push_run

    args = call.args
    source = read_source(home, str(args.get("run", "")))
    kind = _one_of(args, "kind", ("adapter", "merged"))
    private = bool(args.get("private", True))
    return {"url": push_run(source, str(args.get("repository", "")), kind, str(args.get("token") or ""), private)}  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
