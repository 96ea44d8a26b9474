"""The small child beside the playground's: `python -m studio.play.runner` finds code in answers, formats, compares and runs it.

It loads no model, so running code never waits behind an answer that is being written. It speaks studio.core.protocol.

find      {texts}            -> for each text its blocks [{code, language, python, first_line, end_line, formatted, unformatted}]
diff      {first, second}    -> lines [{kind, text, first_number, second_number}]
run       {text, tests}      -> how the program in an answer ended (SandboxResult, summary, program)
status    {}                 -> whether programs can be run here, and why not
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from studio.core.errors import PlayError
from studio.core.protocol import Call, Handler, serve
from studio.play.code import CodeBlock, choose_code, find_code, line_diff
from studio.play.code_format import Formatted, format_python
from studio.play.sandbox import run_code, sandbox_status


def find(call: Call) -> list[list[dict[str, Any]]]:
    return [
        [
            {
                "code": block.code, "language": block.language, "python": block.is_python,
                "first_line": block.first_line, "end_line": block.end_line, **_layout(block),
            }
            for block in find_code(str(text))
        ]
        for text in call.args["texts"]
    ]  # fmt: skip


def _layout(block: CodeBlock) -> dict[str, str]:
    """The block formatted, or why it is not; both empty where there is nothing to do."""
    formatted = format_python(block.code) if block.is_python else Formatted()
    return {"formatted": formatted.text, "unformatted": formatted.why}


def diff(call: Call) -> list[dict[str, Any]]:
    return [asdict(line) for line in line_diff(str(call.args["first"]), str(call.args["second"]))]


def run(call: Call) -> dict[str, Any]:
    """Raises PlayError where the answer holds no Python, SandboxError where nothing can be run safely."""
    program = choose_code(str(call.args["text"]))
    if not program:
        raise PlayError("There is no Python in this answer.", "Ask for code, or look at the answer: the block may be in another language.")
    result = run_code(program, tests=str(call.args.get("tests") or ""))
    return {**asdict(result), "ok": result.ok, "summary": result.summary, "program": program}


def status(call: Call) -> dict[str, Any]:
    return asdict(sandbox_status())


HANDLERS: dict[str, Handler] = {"find": find, "diff": diff, "run": run, "status": status}

if __name__ == "__main__":
    serve(HANDLERS)
