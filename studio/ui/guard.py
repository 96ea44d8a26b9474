"""Where errors become messages: StudioError -> what happened and what to do; anything else -> logged with an id.

Wrap every event handler in `guarded`. Gradio shows a gr.Error as a toast and leaves every output as it was, so what a person typed stays.
A handler with queue=False has no toast: its error comes to the page without the mark that it may be seen, and Gradio shows it to nobody.
"""

from __future__ import annotations

import functools
import html
import inspect
import logging
import uuid
from collections.abc import Callable
from typing import Any

import gradio as gr

from studio.core.errors import StudioError

logger = logging.getLogger("studio")


def to_gradio_error(error: Exception) -> gr.Error:
    """The toast for an error. Its text is escaped: messages may quote what a person or a model wrote."""
    if isinstance(error, gr.Error):
        return error
    if isinstance(error, StudioError):
        body = html.escape(error.message).replace("\n", "<br>")
        hint = f"<br><br>{html.escape(error.hint)}" if error.hint else ""
        return _toast("That did not work", body + hint)
    incident = uuid.uuid4().hex[:8]
    logger.error("incident %s", incident, exc_info=error)
    text = f"Something unexpected went wrong ({type(error).__name__}). The studio's log has it under {incident}."
    return _toast("A bug in the studio", text)


def _toast(title: str, body: str) -> gr.Error:
    """Gradio 6.31's page loses an error's title and heads every toast 'Error'; ours stands in the text, and theme.css hides the other.

    It has no duration: toasts.py says when it goes."""
    return gr.Error(f'<b class="title">{title}</b><br>{body}', title=title, duration=None, print_exception=False)


def guarded(handler: Callable[..., Any]) -> Callable[..., Any]:
    """The handler, or generator handler, with its errors turned into toasts."""
    if inspect.isgeneratorfunction(handler):

        @functools.wraps(handler)
        def stream(*args: Any) -> Any:
            try:
                yield from handler(*args)
            except Exception as error:  # the edge of the page: everything is told, nothing is hidden
                raise to_gradio_error(error) from error

        return stream

    @functools.wraps(handler)
    def call(*args: Any) -> Any:
        try:
            return handler(*args)
        except Exception as error:  # the edge of the page: everything is told, nothing is hidden
            raise to_gradio_error(error) from error

    return call
