"""A push that succeeds, through the worker, to a hub on the loopback: what arrives, byte for byte; and where the token is not."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from studio.__main__ import main
from studio.cli.export import call_worker
from studio.core.errors import RunError
from studio.export.card import model_card
from studio.export.merge import save_merged
from studio.export.source import ExportSource
from tests.export.fake_hub import TOKEN, FakeHub, serve_hub

Trained = Callable[[str], ExportSource]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    with serve_hub() as hub:
        # Xet, the hub's newer way for large files, speaks to a storage service of its own; without it the client takes git LFS.
        for name, value in {"ENDPOINT": hub.url, "HUB_OFFLINE": "0", "HUB_DISABLE_XET": "1", "HOME": str(tmp_path / "hub-home")}.items():
            monkeypatch.setenv(f"HF_{name}", value)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        yield hub


def files_with_token(*folders: Path) -> list[Path]:
    return [path for folder in folders for path in folder.rglob("*") if path.is_file() and TOKEN.encode() in path.read_bytes()]


def test_a_pushed_adapter_arrives_byte_for_byte_and_the_token_stays_nowhere(trained: Trained, hub: FakeHub, tmp_path: Path) -> None:
    """The token is typed, as on the page: it goes to the worker through a pipe."""
    source = trained("lora")
    before = {path for path in source.paths.folder.rglob("*")}
    done = call_worker(source.home, "push", run=source.paths.id, repository="me/my-adapter", kind="adapter", token=f" {TOKEN} ")
    assert done == {"url": f"{hub.url}/me/my-adapter"}
    assert hub.repositories == {"me/my-adapter": True} and hub.commits == ["Upload from PEFT Studio"] and not hub.unknown
    sent = hub.files["me/my-adapter"]
    names = ("adapter_config.json", "adapter_model.safetensors")
    assert sent == {**{name: (source.adapter / name).read_bytes() for name in names}, "README.md": model_card(source, "adapter").encode()}
    assert files_with_token(source.home.root, tmp_path) == []
    assert {path for path in source.paths.folder.rglob("*")} == before and not list(source.home.root.glob("push-*"))


def test_a_pushed_merged_model_is_the_exported_one_and_may_be_public(
    trained: Trained, hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = trained("lora")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert main(["--home", str(source.home.root), "push", source.paths.id, "me/merged", "--merged", "--public", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == {"url": f"{hub.url}/me/merged"}
    folder = save_merged(source, tmp_path / "merged")
    assert hub.files["me/merged"] == {path.name: path.read_bytes() for path in folder.iterdir()}
    assert hub.repositories == {"me/merged": False} and not hub.unknown
    assert files_with_token(source.home.root, tmp_path) == []


def test_a_wrong_token_is_named_and_nothing_is_made(trained: Trained, hub: FakeHub, tmp_path: Path) -> None:
    source = trained("lora")
    with pytest.raises(RunError, match=r"refused the upload to me/x \(status 401\)") as refused:
        call_worker(source.home, "push", run=source.paths.id, repository="me/x", token="hf_wrong")
    assert "hf_wrong" not in str(refused.value) and hub.repositories == {}
