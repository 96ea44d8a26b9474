"""The hub: what is cached works offline, and what cannot be had is named. The hub here is a server on this machine."""

from __future__ import annotations

import http.server
import json
import os
import subprocess
import sys
import threading

import pytest

from studio.core.errors import DataError
from studio.core.spec import DataSpec
from studio.data.load import load_data

ANSWERS = {"gated": (403, "GatedRepo"), "missing": (404, "RepoNotFound"), "private": (401, "RepoNotFound"), "broken": (400, "")}

ASK = """
import json, sys
from studio.core.errors import StudioError
from studio.core.spec import DataSpec
from studio.data.hub import fetch_splits
for name in sys.argv[1:]:
    try:
        fetch_splits(DataSpec(source=f"owner/{name}"))
    except StudioError as error:
        print(json.dumps({"name": name, **error.to_json()}))
"""


class FakeHub(http.server.BaseHTTPRequestHandler):
    """Answers as the hub does for datasets that are gated, missing, private, or while it is out of order."""

    def do_GET(self):
        name = next(name for name in ANSWERS if name in self.path)
        code, reason = ANSWERS[name]
        self.send_response(code)
        self.send_header("X-Error-Code", reason)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_POST = do_GET

    def log_message(self, *args):
        pass


@pytest.fixture
def hub_address():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), FakeHub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_what_the_hub_refuses_is_named(hub_address, tmp_path):
    environment = {**os.environ, "HF_ENDPOINT": hub_address, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", ASK, *ANSWERS], env=environment, capture_output=True, text=True, timeout=300, check=True)
    errors = {line["name"]: line for line in map(json.loads, done.stdout.splitlines())}
    assert set(errors) == set(ANSWERS)
    assert {error["error"] for error in errors.values()} == {"DataError"}
    assert "owner/gated is gated" in errors["gated"]["message"]
    assert "HF_TOKEN" in errors["gated"]["hint"]
    for name in ("missing", "private"):
        assert f"no dataset owner/{name} on the hub" in errors[name]["message"]
        assert "HF_TOKEN" in errors[name]["hint"]
    assert "cannot be reached" in errors["broken"]["message"]


@pytest.fixture
def cached_dataset(tmp_path, monkeypatch, write_rows):
    """owner/name in the cache of `datasets`, as an earlier download leaves it."""
    import datasets

    cache = tmp_path / "cache"
    rows = [{"question": f"question {index}", "answer": f"answer {index}"} for index in range(30)]
    files = {"train": str(write_rows(rows[:25], "a.jsonl")), "test": str(write_rows(rows[25:], "b.jsonl"))}
    datasets.load_dataset("json", data_files=files, cache_dir=str(cache))
    [built] = [path.parent for path in cache.glob("json/*/*/*/dataset_info.json")]
    kept = cache / "owner___name" / "default" / "0.0.0" / "abcdef"
    kept.parent.mkdir(parents=True)
    built.rename(kept)
    for file in kept.glob("json-*.arrow"):
        file.rename(file.with_name(file.name.replace("json-", "name-")))
    info = json.loads((kept / "dataset_info.json").read_text())
    for split in info["splits"].values():
        split["dataset_name"] = "name"
    (kept / "dataset_info.json").write_text(json.dumps({**info, "config_name": "default", "dataset_name": "name"}))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(cache))


def test_a_cached_dataset_works_offline(cached_dataset, home):
    data = load_data(DataSpec(source="owner/name"), home)
    assert (data.report.train, data.report.held_out, data.report.held_out_by) == (25, 5, "split")
    assert data.columns == {"prompt": "question", "completion": "answer"}
    assert data.train[3].messages[1]["content"] == "answer 3"
    assert data.train[3].place == "row 4"


def test_a_split_or_configuration_that_is_not_there_is_named(cached_dataset, home):
    with pytest.raises(DataError, match="no split 'other'") as error:
        load_data(DataSpec(source="owner/name", split="other"), home)
    assert "train, test" in error.value.hint
    with pytest.raises(DataError, match="owner/name cannot be read") as error:
        load_data(DataSpec(source="owner/name", config="german"), home)
    assert "data.config" in error.value.hint


def test_what_is_neither_cached_nor_reachable_is_named(home, tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path))
    with pytest.raises(DataError, match="not on this machine and the hub cannot be reached"):
        load_data(DataSpec(source="owner/name"), home)


def test_a_folder_is_no_hub_id(home, write_rows, tmp_path, monkeypatch):
    write_rows([{"text": f"text {index}"} for index in range(10)], "owner/name/rows.jsonl")
    monkeypatch.chdir(tmp_path)
    assert load_data(DataSpec(source="owner/name"), home).format == "text"
