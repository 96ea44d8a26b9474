from __future__ import annotations

import errno
import json
import os
import random
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from studio.core import files
from studio.core.errors import DiskFull, SetupError, StudioError
from studio.core.files import append_line, folder_bytes, read_json, read_lines, read_tail, write_atomic, write_json

ROOT = Path(__file__).resolve().parents[2]
FOREVER = """
import sys
from pathlib import Path
from studio.core.files import append_line, write_json
folder, number = Path(sys.argv[1]), 0
while True:
    number += 1
    write_json(folder / "state.json", {"number": number, "again": [number] * 2000})
    append_line(folder / "lines.jsonl", {"number": number, "text": "x" * 500})
"""


@pytest.mark.parametrize("seed", range(5))
def test_a_writer_killed_at_any_moment_leaves_whole_files(tmp_path: Path, seed: int) -> None:
    writer = subprocess.Popen([sys.executable, "-c", FOREVER, str(tmp_path)], cwd=ROOT)
    while not (tmp_path / "lines.jsonl").exists():
        assert writer.poll() is None
        time.sleep(0.01)
    time.sleep(random.Random(seed).uniform(0, 0.2))
    writer.kill()
    writer.wait()
    state = read_json(tmp_path / "state.json")
    assert state and state["again"] == [state["number"]] * 2000
    lines, _ = read_lines(tmp_path / "lines.jsonl")
    assert [line["number"] for line in lines] == list(range(1, len(lines) + 1))
    assert state["number"] - len(lines) in (0, 1)


def test_a_reader_never_sees_a_half_of_what_is_being_replaced(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    write_json(path, [0] * 5000)
    ended = threading.Event()

    def write() -> None:
        for number in range(200):
            write_json(path, {"all": [number] * 5000})
        ended.set()

    thread = threading.Thread(target=write)
    thread.start()
    while not ended.is_set():
        data = json.loads(path.read_text())
        values = data["all"] if isinstance(data, dict) else data
        assert len(values) == 5000 and len(set(values)) == 1
    thread.join()


@pytest.mark.parametrize(
    ("number", "kind"), [(errno.ENOSPC, DiskFull), (errno.EDQUOT, DiskFull), (errno.EACCES, SetupError), (errno.EIO, StudioError)]
)
def test_a_write_that_fails_keeps_the_old_and_leaves_no_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, kind: type[StudioError]
) -> None:
    path = tmp_path / "state.json"
    write_json(path, {"old": 1})

    def fail(_handle: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(files.os, "fsync", fail)
    with pytest.raises(kind, match=r"state\.json") as caught:
        write_json(path, {"new": 2})
    assert type(caught.value) is kind
    assert [file.name for file in tmp_path.iterdir()] == ["state.json"]
    assert read_json(path) == {"old": 1}


def test_what_is_no_json_is_not_written_at_all(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    write_json(path, {"old": 1})
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(path, {"x": float("nan")})
    assert read_json(path) == {"old": 1}


@pytest.mark.parametrize("text", ["", "{", "[1]", "3", '"x"', "\x00", '{"a": 1}}'])
def test_what_is_no_object_reads_as_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "f").write_text(text)
    assert read_json(tmp_path / "f") is None
    assert read_json(tmp_path / "missing") is None
    assert read_json(tmp_path) is None


def test_numbers_no_json_reader_knows_become_null(tmp_path: Path) -> None:
    append_line(tmp_path / "f", {"a": float("nan"), "b": float("-inf"), "c": 1.5})
    assert (tmp_path / "f").read_text() == '{"a": null, "b": null, "c": 1.5}\n'


objects = st.dictionaries(st.text(), st.one_of(st.text(), st.integers(), st.none()))


@given(st.lists(objects, min_size=1), st.data())
def test_lines_read_in_two_looks_are_all_lines_once(
    tmp_path_factory: pytest.TempPathFactory, lines: list[dict[str, object]], data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("lines") / "f"
    for line in lines:
        append_line(path, line)
    whole = path.read_bytes()
    cut = data.draw(st.integers(0, len(whole)))
    path.write_bytes(whole[:cut])
    first, offset = read_lines(path)
    path.write_bytes(whole)
    second, end = read_lines(path, offset)
    assert first + second == lines
    assert end == len(whole)


def test_the_tail_starts_at_a_line(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("".join(f"line {i} ✓\n" for i in range(100)))
    tail = read_tail(path, 50)
    assert tail.startswith("line ") and tail.endswith("line 99 ✓\n") and len(tail.encode()) <= 50
    assert read_tail(tmp_path / "none") == ""
    assert read_tail(path, 10**6) == path.read_text()


def test_folders_are_made_and_measured(tmp_path: Path) -> None:
    write_atomic(tmp_path / "a" / "b" / "c.txt", "12345")
    (tmp_path / "a" / "link").symlink_to(tmp_path / "a" / "b" / "c.txt")
    assert folder_bytes(tmp_path / "a") == 5
    assert folder_bytes(tmp_path / "none") == 0


def test_nesting_without_end_is_no_object(tmp_path: Path) -> None:
    (tmp_path / "deep.json").write_text("[" * 200_000, encoding="utf-8")
    (tmp_path / "deep.jsonl").write_text('{"a": 1}\n' + "[" * 200_000 + "\n", encoding="utf-8")
    assert read_json(tmp_path / "deep.json") is None
    assert read_lines(tmp_path / "deep.jsonl")[0] == [{"a": 1}]
