"""Gradio's scripts from memory: the same bytes as its own, kept by the browser, and nothing else."""

from __future__ import annotations

import plotly.offline
import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from studio.ui.assets import FOLDER, PLOTLY_SCRIPT, KeptAssets

SCRIPT = next(path for path in sorted(FOLDER.glob("*.js")) if path.stat().st_size > 10_000)
STYLE = next(path for path in sorted(FOLDER.glob("*.css")))


@pytest.fixture
def client() -> TestClient:
    app = Starlette(routes=[Route("/{path:path}", lambda request: PlainTextResponse("gradio's answer"))])
    app.add_middleware(KeptAssets)
    return TestClient(app)


@pytest.mark.parametrize("file", [SCRIPT, STYLE])
def test_an_asset_is_the_file_itself_and_may_be_kept(client: TestClient, file: object) -> None:
    answer = client.get(f"/assets/{file.name}", headers={"Accept-Encoding": "gzip, br"})
    assert answer.content == file.read_bytes()
    assert answer.headers["cache-control"].endswith("immutable")
    assert answer.headers["content-encoding"] == "br"
    assert answer.headers["content-type"].startswith("text/javascript" if file.suffix == ".js" else "text/css")


@pytest.mark.parametrize(
    "path", ["/assets/none.js", "/assets/..%2Findex.html", "/assets/../routes.py", "/config", "/assets/"]
)
def test_anything_else_is_gradios(client: TestClient, path: str) -> None:
    assert client.get(path, headers={"Accept-Encoding": "br"}).text == "gradio's answer"


def test_a_browser_without_brotli_gets_gradios_answer(client: TestClient) -> None:
    assert client.get(f"/assets/{SCRIPT.name}", headers={"Accept-Encoding": "gzip"}).text == "gradio's answer"
    assert client.post(f"/assets/{SCRIPT.name}", headers={"Accept-Encoding": "br"}).status_code == 405


@pytest.mark.parametrize("taken", ["br", "gzip"])
def test_plotlys_own_script_comes_whole_to_any_browser(client: TestClient, taken: str) -> None:
    answer = client.get(f"/{PLOTLY_SCRIPT}", headers={"Accept-Encoding": taken})
    assert answer.text == plotly.offline.get_plotlyjs()
    assert answer.headers["content-type"].startswith("text/javascript")
    assert answer.headers["cache-control"].endswith("immutable")
