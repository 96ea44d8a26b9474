"""The worker and the command line over it: every kind, bad input, and a token that is found nowhere afterwards."""

from __future__ import annotations

import dataclasses
import json
import threading
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from studio.__main__ import main
from studio.core.errors import RunError, RunNotFound
from studio.core.protocol import Call
from studio.export import hub
from studio.export.__main__ import export
from studio.export.adapter import zip_adapter
from studio.export.card import model_card
from studio.export.source import ExportSource, read_source

Trained = Callable[[str], ExportSource]


def call(**args: Any) -> Call:
    return Call(1, args, lambda event, data: None)


def test_the_zip_is_an_adapter_that_loads(trained: Trained, tmp_path: Path) -> None:
    from studio.methods.adapters import describe_adapter

    source = trained("lora")
    with zipfile.ZipFile(zip_adapter(source, tmp_path / "adapter.zip")) as archive:
        assert sorted(archive.namelist()) == ["README.md", "adapter_config.json", "adapter_model.safetensors", "spec.json"]
        archive.extractall(tmp_path / "there")
    assert describe_adapter(tmp_path / "there").family == "lora"
    assert json.loads((tmp_path / "there" / "spec.json").read_text())["method"]["rank"] == 4


def test_the_card_has_the_run_s_figures_and_no_private_path(trained: Trained) -> None:
    import yaml

    source = trained("lora")
    card = model_card(source)
    assert f"{source.result.eval_loss_before:.4f} before, {source.result.eval_loss_after:.4f} after" in card
    assert f"{source.result.trainable_parameters:,} of" in card
    assert source.environment["data_fingerprint"] in card
    assert str(source.home.root) not in card
    head = yaml.safe_load(card.split("---\n")[1])
    assert head["library_name"] == "peft" and "lora" in head["tags"]


def test_the_card_of_a_run_that_was_not_evaluated_again_says_so(trained: Trained) -> None:
    source = trained("lora")
    stopped = dataclasses.replace(source, result=dataclasses.replace(source.result, eval_loss_after=None))
    assert f"| {source.result.eval_loss_before:.4f} before, not measured since training began |" in model_card(stopped)


def test_exports_that_name_no_place_do_not_meet(trained: Trained, session_home: Any) -> None:
    source = trained("lora")
    first, second = (export(session_home, call(run=source.paths.id, kind="card")) for _ in range(2))
    assert Path(first["path"]).name == "README.md"
    assert Path(second["path"]).name == "README-2.md"


def test_bad_input_is_named(trained: Trained, session_home: Any) -> None:
    with pytest.raises(RunNotFound):
        export(session_home, call(run="../x", kind="card"))
    with pytest.raises(RunError, match="no export 'exe'"):
        export(session_home, call(run=trained("lora").paths.id, kind="exe"))
    empty = session_home.runs / "20260101-000001-empty"
    empty.mkdir()
    (empty / "spec.json").write_text("{}")
    with pytest.raises(RunError, match="saved no adapter"):
        read_source(session_home, empty.name)


def test_the_command_line_exports_through_the_worker(trained: Trained, tmp_path: Path, capsys: Any) -> None:
    source = trained("lora")
    arguments = ["--home", str(source.home.root), "export", source.paths.id, "gguf", "--out", str(tmp_path / "m.gguf"), "--json"]
    assert main(arguments) == 0
    done = json.loads(capsys.readouterr().out)
    assert done["bytes"] == (tmp_path / "m.gguf").stat().st_size
    assert main(arguments) == 1
    assert "exists already" in capsys.readouterr().err


class _Hub(BaseHTTPRequestHandler):
    """Refuses every request, and remembers with which token it came."""

    seen: ClassVar[list[str]] = []

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.seen.append(str(self.headers.get("Authorization")))
        self.send_response(403)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def refusing_hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr("huggingface_hub.hf_api.constants.ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(hub, "is_hub_reachable", lambda: True)
    _Hub.seen.clear()
    yield _Hub.seen
    server.shutdown()


def test_a_token_is_used_and_kept_nowhere(trained: Trained, refusing_hub: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    source = trained("lora")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with pytest.raises(RunError, match="needs a token"):
        hub.push_run(source, "me/thing")
    assert refusing_hub == []
    with pytest.raises(RunError, match=r"refused.*403") as refused:
        hub.push_run(source, "me/thing", token="hf_secret")
    assert refusing_hub == ["Bearer hf_secret"]
    assert "hf_secret" not in str(refused.value)
    kept = [path for path in source.home.root.rglob("*") if path.is_file() and b"hf_secret" in path.read_bytes()]
    assert kept == []


@pytest.mark.parametrize("name", ["thing", "me/../x", "me/a b", "/me/x", ""])
def test_a_repository_needs_a_name(trained: Trained, name: str) -> None:
    with pytest.raises(RunError, match="no repository's name"):
        hub.push_run(trained("lora"), name, token="hf_secret")
