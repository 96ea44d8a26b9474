"""The terminal's side of a chat: lines in, answers out as they come. It knows nothing of models.

Answers go to standard output, everything else to standard error, so that `echo hi | studio chat` can be piped on. On a terminal what
cannot be seen is shown as its code point: a model's words must not move the cursor or turn text around.
"""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

from studio.cli.output import say
from studio.ui.code_view import UNSEEN
from studio.ui.conversation import Pane

QUOTES = '"""'


def is_interactive() -> bool:
    return sys.stdin.isatty() and sys.stdout.isatty()


def read_message() -> str | None:
    """One line, or what stands between two lines of \"\"\"; None at the end of the input. Raises KeyboardInterrupt."""
    line = _read_line("› ")
    if line is None or not line.lstrip().startswith(QUOTES):
        return line
    lines = [line.lstrip()[len(QUOTES) :]]
    while not lines[-1].rstrip().endswith(QUOTES):
        line = _read_line("… ")
        if line is None:
            return "\n".join(lines).strip("\n")
        lines.append(line)
    lines[-1] = lines[-1].rstrip()[: -len(QUOTES)]
    return "\n".join(lines).strip("\n")


def _read_line(prompt: str) -> str | None:
    if not is_interactive():
        line = sys.stdin.readline()
        return line.rstrip("\r\n") if line else None
    with contextlib.suppress(ImportError):  # Windows has none: its console edits lines itself
        import readline  # noqa: F401 - arrow keys and history in input()
    try:
        return input(prompt)
    except EOFError:
        return None


def change_line(text: str) -> str:
    """The line `text` for the person to change. On what is no terminal, and without readline, it stays as it is."""
    if not is_interactive():
        return text
    try:
        import readline
    except ImportError:
        return text
    readline.set_startup_hook(lambda: readline.insert_text(text))
    try:
        return input("› ")
    finally:
        readline.set_startup_hook()


@contextlib.contextmanager
def interrupts_stop(stop: Callable[[], object]) -> Iterator[None]:
    """Within it the first Ctrl-C calls `stop`, the second is a KeyboardInterrupt."""
    pressed: list[int] = []

    def on_interrupt(number: int, frame: object) -> None:
        pressed.append(number)
        if len(pressed) > 1:
            raise KeyboardInterrupt
        stop()

    before = signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


class Answers:
    """Prints one turn's answers below each other: one streams, those after it wait until it has ended."""

    def __init__(self, panes: Sequence[Pane]) -> None:
        self.waiting = list(panes)
        self.with_titles = len(panes) > 1
        self.seen: set[str] = set()
        self.printed = -1
        """Characters printed of the first of `waiting`; -1 before its title."""

    def show(self, texts: Mapping[str, str], now: Collection[str], ended: bool = False) -> None:
        """Print what is new. A pane has ended once it is in `now` no more, and all have once the turn has `ended`."""
        self.seen |= set(now)
        while self.waiting:
            pane = self.waiting[0]
            is_over = ended or (pane.id in self.seen and pane.id not in now)
            if not is_over and pane.id not in now:
                return
            self._print(pane, texts[pane.id])
            if not is_over:
                return
            print(flush=True)
            self.waiting.pop(0)
            self.printed = -1

    def _print(self, pane: Pane, text: str) -> None:
        if self.printed < 0:
            self.printed = 0
            if self.with_titles:
                print(f"── {show_safely(pane.title)}")
        print(show_safely(text[self.printed :]), end="", flush=True)
        self.printed = len(text)


def show_run(title: str, ran: Mapping[str, Any]) -> None:
    """How the code of an answer ended: what it printed as an answer, the rest as notes. `title` where there are several."""
    if title:
        print(f"── {show_safely(title)}")
    printed = show_safely(str(ran.get("stdout", "")))
    print(printed, end="" if printed.endswith("\n") or not printed else "\n", flush=True)
    tests = [f"{'✓' if test['passed'] else '✗'} {test['name']} {test.get('message', '')}".rstrip() for test in ran.get("tests") or []]
    errors = str(ran.get("exception") or ran.get("stderr") or "").rstrip()
    tell(*(show_safely(text) for text in (errors, *tests, str(ran.get("refused") or ran.get("summary", ""))) if text))


def show_safely(text: str) -> str:
    """For a terminal, with every unseen character as <U+202E>; for a pipe as it is."""
    return UNSEEN.sub(lambda found: f"<U+{ord(found.group()):04X}>", text) if sys.stdout.isatty() else text


def tell(*lines: str) -> None:
    """Notes for the person, after what was answered."""
    sys.stdout.flush()
    for line in lines:
        say(line)
