"""The OpenAI-compatible endpoint, asked by OpenAI's own client."""

from __future__ import annotations

import contextlib
import http.client
import json
import queue
import shutil
import socket
import threading
import urllib.error
import urllib.request

import httpx
import openai
import pytest

from studio.cli.api import MOST_BODY_BYTES, make_server
from studio.core.errors import RunNotFound
from studio.core.paths import StudioHome
from studio.core.spec import RunSpec

HALF_A_CHARACTER = rb'{"model": "base", "messages": [{"role": "user", "content": "\ud800"}]}'
ASKED = [{"role": "user", "content": "Count the words."}]


@pytest.fixture(scope="module")
def server(tmp_path_factory, lively_llama, make_adapter):
    home = StudioHome.find(tmp_path_factory.mktemp("home"))
    run = home.runs / "tuned-run"
    shutil.copytree(make_adapter("lora", 1), run / "adapter")
    spec = RunSpec.parse({"model": {"id": str(lively_llama), "dtype": "float32"}})
    (run / "spec.json").write_text(json.dumps(spec.to_json()), encoding="utf-8")
    server = make_server(home, ["tuned-run"], 0)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.close()


@pytest.fixture
def client(server):
    with openai.OpenAI(base_url=f"http://127.0.0.1:{server.server_port}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_its_models_are_the_base_and_the_run(client):
    assert [model.id for model in client.models.list()] == ["base", "tuned-run"]


def test_the_name_picks_who_answers_and_streaming_says_the_same(client):
    whole = {}
    for model in ("base", "tuned-run"):
        made = client.chat.completions.create(model=model, messages=ASKED, max_tokens=12, temperature=0)
        whole[model] = made.choices[0].message.content
        assert made.usage.completion_tokens == 12 and made.choices[0].finish_reason == "length"
        chunks = list(client.chat.completions.create(model=model, messages=ASKED, max_tokens=12, temperature=0, stream=True))
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole[model]
        assert chunks[-1].choices[0].finish_reason == "length"
    assert whole["base"] != whole["tuned-run"]


@pytest.mark.parametrize(
    ("asked", "named"),
    [
        ({"model": "other"}, "no model 'other'"),
        ({"messages": []}, "must end in a turn of the user"),
        ({"temperature": -1}, "temperature"),
        ({"messages": [{"role": "robot", "content": "Hi."}]}, "no role 'robot'"),
        ({"messages": [*ASKED, {"role": "assistant", "content": "Hi."}]}, "must end"),
        ({"messages": [{"role": "user", "content": " "}]}, "prompt is empty"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_cannot_be_answered_is_named(client, asked, named, stream):
    with pytest.raises(openai.BadRequestError, match=named):
        client.chat.completions.create(**({"model": "base", "messages": ASKED, "stream": stream} | asked))


def test_a_page_in_a_browser_cannot_ask_in_passing(server):
    """Without a JSON content type, which pages of other sites may not send, nothing is answered."""
    address = f"http://127.0.0.1:{server.server_port}/v1/chat/completions"
    body = json.dumps({"model": "base", "messages": ASKED}).encode()
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(urllib.request.Request(address, body, {"Content-Type": "text/plain"}))
    assert refused.value.code == 400


@pytest.mark.parametrize(
    ("headers", "body", "status", "named"),
    [
        ({}, b"{}", 400, "Content-Type"),
        ({"Content-Type": "application/json"}, b"[" * 200_000, 400, "no JSON"),
        ({"Content-Type": "application/json"}, HALF_A_CHARACTER, 400, "half of a character"),
        ({"Content-Type": "application/json", "Content-Length": "abc"}, b"", 400, "Content-Length"),
        ({"Content-Type": "application/json", "Content-Length": "9" * 5000}, b"", 413, "larger than"),
    ],
)
def test_a_request_that_cannot_be_read_is_told_as_json(server, headers, body, status, named):
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", server.server_port)) as connection:
        connection.request("POST", "/v1/chat/completions", body, headers)
        answer = connection.getresponse()
        assert answer.status == status and named in json.loads(answer.read())["error"]["message"]


@pytest.mark.parametrize("client", ["httpx", "socket", "socket that waits for 100"])
def test_a_request_that_is_too_large_is_told_so_and_not_cut_off(server, client):
    """Closing over a body that was not read resets the connection, and the answer goes with it."""
    body = b"x" * (MOST_BODY_BYTES + 8_000_000)
    if client == "httpx":
        for _ in range(3):
            answer = httpx.post(f"http://127.0.0.1:{server.server_port}/v1/chat/completions", content=body)
            assert (answer.status_code, answer.headers["connection"]) == (413, "close")
            assert "larger than 4,000,000 bytes" in answer.json()["error"]["message"]
        return
    waits = client.endswith("100")
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=60) as connection:
        expect = "Expect: 100-continue\r\n" if waits else ""
        connection.sendall(f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n{expect}Content-Length: {len(body)}\r\n\r\n".encode())
        if not waits:
            connection.sendall(body)
        said = b"".join(iter(lambda: connection.recv(65536), b""))
    assert said.startswith(b"HTTP/1.1 413 ") and said.endswith(b"}") and b"100 Continue" not in said


@pytest.mark.parametrize(("method", "path", "status"), [("POST", "/v1/other", 404), ("PUT", "/v1/chat/completions", 501)])
def test_the_next_request_of_a_connection_is_not_read_from_the_last_ones_body(server, method, path, status):
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", server.server_port)) as connection:
        connection.request(method, path, b"GET /nonsense HTTP/1.1\r\n\r\n", {"Content-Type": "application/json"})
        refused = connection.getresponse()
        assert refused.status == status and json.loads(refused.read())["error"]["message"]
        connection.request("GET", "/v1/models")
        answer = connection.getresponse()
        assert answer.status == 200 and json.loads(answer.read())["data"]


def test_a_bug_is_told_as_one_and_the_server_goes_on(server, client, monkeypatch):
    monkeypatch.setattr("studio.cli.api.question", lambda *_: 1 / 0)
    with pytest.raises(openai.InternalServerError, match="ZeroDivisionError"):
        client.chat.completions.create(model="base", messages=ASKED)
    assert client.models.list()


@pytest.mark.parametrize("stream", [False, True])
def test_a_reader_that_goes_away_cancels_its_answer(server, client, monkeypatch, stream):
    ended, real = queue.Queue(), server.worker.stream

    def watched(verb, **args):
        event = None
        try:
            for event in real(verb, **args):
                yield event
        finally:
            ended.put(event)

    monkeypatch.setattr(server.worker, "stream", watched)
    body = json.dumps({"model": "base", "messages": ASKED, "max_tokens": 30_000, "stream": stream}).encode()
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port)
    connection.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
    connection.close()
    last = ended.get(timeout=60)
    assert last.name != "done" or last.data["panes"][0]["stopped_by"] == "you"


def test_a_run_that_is_not_there_is_named(studio_home):
    with pytest.raises(RunNotFound):
        make_server(StudioHome.find(studio_home), ["nowhere"], 0)
