"""Errors as toasts: headed by our own words, escaped, and a bug told with the id under which the log has it."""

from __future__ import annotations

import re

import gradio as gr
import pytest

from studio.core.errors import PlayError
from studio.ui.guard import guarded, to_gradio_error

EVIL = "<img src=x onerror=alert(1)>"


def test_an_expected_failure_says_what_happened_and_what_to_do():
    error = to_gradio_error(PlayError(f"One\n{EVIL}", f"Do {EVIL}"))
    assert error.title == "That did not work"
    assert error.message.startswith('<b class="title">That did not work</b><br>One<br>&lt;img')
    assert EVIL not in error.message and "<br><br>Do &lt;img" in error.message


def test_a_bug_is_told_with_its_id(caplog):
    error = to_gradio_error(ValueError(EVIL))
    incident = re.search(r"under (\w{8})\.$", error.message)
    assert error.title == "A bug in the studio" and EVIL not in error.message
    assert incident and incident[1] in caplog.text


def test_a_gradio_error_stays_as_it_is():
    error = gr.Error("as it is")
    assert to_gradio_error(error) is error


@pytest.mark.parametrize("kind", ["call", "stream"])
def test_handlers_and_generator_handlers_are_guarded(kind):
    def call():
        raise PlayError("No.")

    def stream():
        yield 1
        raise PlayError("No.")

    with pytest.raises(gr.Error, match="That did not work"):
        list(guarded(call)() if kind == "call" else guarded(stream)())
