"""The plan as a person reads it: what is trained, what it takes of this machine, how long, and what the other methods would take."""

from __future__ import annotations

from studio.ui import markup


def problems_html(problems: list[str]) -> str:
    """Everything that stands in the way, each with its advice."""
    items = "".join(f"<li>{markup.escape(problem)}</li>" for problem in problems)
    return f'<div class="notice bad" role="alert"><b>This cannot run yet</b><ul>{items}</ul></div>'
