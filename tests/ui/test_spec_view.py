"""The line to copy calls the interpreter that runs the studio."""

from __future__ import annotations

import sys
from pathlib import Path

from studio.ui import spec_view


def test_the_command_is_the_interpreter_as_seen_from_the_folder():
    assert spec_view.studio_command("/home/me/studio/.venv/bin/python", Path("/home/me/studio")) == ".venv/bin/python -m studio"
    assert spec_view.studio_command("/opt/my python/bin/python", Path("/home/me")) == "'/opt/my python/bin/python' -m studio"


def test_the_page_prints_it_and_the_spec():
    html = spec_view.spec_html({})
    assert f"{Path(sys.executable).name} -m studio train spec.json</code>" in html
    assert "A YAML of" in html
