"""Every failure the studio expects, with what to do about it.

StudioError(message, hint)
├── SpecError            the settings cannot be run; carries every problem at once
├── ModelError           a base model cannot be found, read or loaded
│   ├── ModelNotFound
│   └── GatedModel       exists, but needs a token or an accepted licence
├── DataError            a dataset cannot be found, read, mapped or used
│   └── BrokenRows       some of its rows cannot, and may be left out; carries how many
├── MethodError          a PEFT method does not fit the model, or an adapter cannot be read
├── RunError             a run cannot be started, found, stopped, resumed or exported
│   └── RunNotFound
├── AnalysisError        a matrix, tensor or adapter cannot be analysed
├── PlayError            the playground cannot answer
├── SandboxError         generated code cannot be run safely, so it is not run
├── WorkerError          a child process did not start, died, or broke the protocol
├── SetupError           this machine lacks something: a package, a permission, a port
├── OutOfMemory          the device has no room for this
└── DiskFull             the disk has no room for this

`message` says what happened, `hint` says what to do; both are plain sentences for a person. They are raised anywhere and
translated at the edges only: studio/ui/guard.py and the `__main__` modules. Anything that is not a StudioError is a bug.
Over process boundaries an error travels as `to_json()` and comes back as the same class through `from_json()`.
"""

from __future__ import annotations

import errno
from typing import Any


class StudioError(Exception):
    """An expected failure. `message` says what happened, `hint` what to do about it."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()

    def to_json(self) -> dict[str, Any]:
        return {"error": type(self).__name__, "message": self.message, "hint": self.hint}


class SpecError(StudioError):
    """The settings cannot be run. `problems` lists every reason, each a sentence with its advice."""

    def __init__(self, problems: list[str], hint: str = "") -> None:
        lines = problems if len(problems) == 1 else [f"• {problem}" for problem in problems]
        super().__init__("\n".join(lines), hint)
        self.problems = problems

    def to_json(self) -> dict[str, Any]:
        return {**super().to_json(), "problems": self.problems}


class ModelError(StudioError):
    """A base model cannot be found, read or loaded."""


class ModelNotFound(ModelError):
    """No such model here, or none that can be reached."""


class GatedModel(ModelError):
    """The model exists but needs a token or an accepted licence."""


class DataError(StudioError):
    """A dataset cannot be found, read, mapped or used."""


class BrokenRows(DataError):
    """Rows of a dataset cannot be read or understood. `count` of them are lost if they are left out."""

    def __init__(self, message: str, hint: str = "", count: int = 1) -> None:
        super().__init__(message, hint)
        self.count = count

    def to_json(self) -> dict[str, Any]:
        return {**super().to_json(), "count": self.count}


class MethodError(StudioError):
    """A PEFT method does not fit the model, or an adapter cannot be read."""


class RunError(StudioError):
    """A run cannot be started, stopped, resumed or exported."""


class RunNotFound(RunError):
    """No run of that name in this home."""


class AnalysisError(StudioError):
    """A matrix, tensor or adapter cannot be analysed."""


class PlayError(StudioError):
    """The playground cannot answer."""


class SandboxError(StudioError):
    """Generated code cannot be run safely, so it is not run."""


class WorkerError(StudioError):
    """A child process did not start, died, or broke the protocol."""


class SetupError(StudioError):
    """This machine lacks something: a package, a permission, a free port."""


class OutOfMemory(StudioError):
    """The device has no room for this."""


class DiskFull(StudioError):
    """The disk has no room for this."""


def _classes(root: type[StudioError]) -> dict[str, type[StudioError]]:
    found = {root.__name__: root}
    for child in root.__subclasses__():
        found |= _classes(child)
    return found


def from_json(data: dict[str, Any]) -> StudioError:
    """The error that `to_json` wrote, as the same class; an unknown class comes back as a plain StudioError."""
    kind = _classes(StudioError).get(str(data.get("error")), StudioError)
    if kind is SpecError:
        problems = data.get("problems")
        told = [str(problem) for problem in problems] if isinstance(problems, list) else []
        return SpecError(told or [str(data.get("message", ""))], str(data.get("hint", "")))
    if kind is BrokenRows:
        return BrokenRows(str(data.get("message", "")), str(data.get("hint", "")), int(data.get("count") or 1))
    return kind(str(data.get("message", "")), str(data.get("hint", "")))


def from_os_error(error: OSError, doing: str) -> StudioError:
    """A full disk, a missing permission or any other OSError met while `doing` ("saving the adapter"), as a StudioError."""
    where = f" ({error.filename})" if error.filename else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFull(f"The disk is full: {doing} failed{where}.", "Free some space, or move the studio's home with --home.")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return SetupError(f"No permission: {doing} failed{where}.", "Choose a folder you may write to, for example with --home.")
    return StudioError(f"{doing[:1].upper()}{doing[1:]} failed{where}: {error.strerror or error}.")
