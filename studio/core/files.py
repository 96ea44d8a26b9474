"""Files that survive a crash: whole or absent, append-only logs, readers that forgive a torn last line.

A JSON file is written beside its target, flushed to the disk and renamed over it, so a reader sees the old or the new content and
never a half. A log (JSON lines) is only appended to; the last line may be torn by a kill and is then ignored.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from studio.core.errors import from_os_error

PICKLES = {".pt", ".pth", ".bin", ".pkl", ".pickle", ".ckpt", ".joblib"}


def write_atomic(path: Path, text: str) -> None:
    """Replace `path` by `text` so that no reader, and no crash, ever sees a part. Raises DiskFull or SetupError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise from_os_error(error, f"writing {path.name}") from error


def write_json(path: Path, data: Any) -> None:
    """Write `data` as indented JSON, atomically."""
    write_atomic(path, json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in `path`, or None when it is missing or not (yet) a JSON object."""
    try:
        data = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return data if isinstance(data, dict) else None


def parse_json(text: str | bytes) -> Any:
    """json.loads; half a character, which JSON's escapes can spell and no file or page can take, becomes '?'. Raises as json.loads does."""
    data = json.loads(text)
    escapes = b"\\u" if isinstance(text, bytes) else "\\u"
    return json.loads(json.dumps(data, ensure_ascii=False).encode("utf-8", "replace")) if escapes in text else data  # type: ignore[operator]


def open_to_all(folder: Path) -> None:
    """Let others read the folder and what is in it: temporary folders, and safetensors, are for their owner only; a model is no secret."""
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)


def append_line(path: Path, data: dict[str, Any]) -> None:
    """Append one flushed JSON line. NaN and infinity become null, which every JSON reader understands."""
    line = json.dumps({key: _finite(value) for key, value in data.items()}, ensure_ascii=False, allow_nan=False)
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
    except OSError as error:
        raise from_os_error(error, f"writing {path.name}") from error


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))) else value


def read_lines(path: Path, offset: int = 0) -> tuple[list[dict[str, Any]], int]:
    """Complete JSON lines from byte `offset` on, and the offset behind the last complete one: the next call's start.

    A torn last line is left for the next call; a line that is no JSON object is passed over.
    """
    try:
        with path.open("rb") as file:
            file.seek(offset)
            block = file.read()
    except OSError:
        return [], offset
    end = block.rfind(b"\n") + 1
    return list(_objects(block[:end])), offset + end


def _objects(block: bytes) -> Iterator[dict[str, Any]]:
    for line in block.splitlines():
        try:
            data = parse_json(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(data, dict):
            yield data


def is_unicode(text: str) -> bool:
    """Whether `text` can be written as UTF-8: JSON's escapes can leave half of a character, such as U+D800, in a string."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def read_tail(path: Path, size_bytes: int = 16_384) -> str:
    """The last `size_bytes` of a text file, from a line's beginning on; empty when there is none."""
    try:
        with path.open("rb") as file:
            length = file.seek(0, os.SEEK_END)
            start = max(0, length - size_bytes)
            file.seek(start)
            text = file.read().decode("utf-8", errors="replace")
    except OSError:
        return ""
    return text if start == 0 else text[text.find("\n") + 1 :]


def folder_bytes(folder: Path) -> int:
    """Bytes of all plain files below `folder`; 0 when it is missing."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def find_pickles(folder: Path) -> list[str]:
    """Names of files below `folder` that are opened by unpickling, which runs whatever code a stranger put into them."""
    return sorted(path.name for path in folder.rglob("*") if path.suffix.lower() in PICKLES)
