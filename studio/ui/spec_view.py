"""The form's content as the spec.json that the command line takes, to copy or to save.

Plain HTML: gr.Code and gr.Markdown would make every visitor load an editor and a parser before the page can be used.
"""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Any

import gradio as gr

from studio.core.errors import StudioError
from studio.core.spec import RunSpec
from studio.ui import markup

TAKE = """
element.addEventListener('click', async event => {
  const button = event.target.closest('[data-do]');
  if (!button) return;
  const text = element.querySelector('pre').textContent;
  if (button.dataset.do === 'copy') {
    await navigator.clipboard.writeText(text);
    button.textContent = 'Copied';
    setTimeout(() => { button.textContent = 'Copy'; }, 1500);
    return;
  }
  const link = document.createElement('a');
  link.href = URL.createObjectURL(new Blob([text], {type: 'application/json'}));
  link.download = 'spec.json';
  link.click();
  URL.revokeObjectURL(link.href);
});
"""
BUTTONS = '<span class="tools"><button class="tool" data-do="copy">Copy</button><button class="tool" data-do="save">Save</button></span>'
TWINS = (
    "<p><code>{studio} train spec.json</code> starts the same run, <code>{studio} plan spec.json</code> prints this plan. "
    "A YAML of LLaMA-Factory or Axolotl fills the form too; what the studio cannot carry over is listed.</p>"
)


def build(data: dict[str, Any]) -> gr.HTML:
    return gr.HTML(spec_html(data), elem_id="spec-json", padding=False, js_on_load=TAKE)


def spec_html(data: dict[str, Any]) -> str:
    """`data` with its defaults filled in; as it stands where it is not valid yet, so that nothing typed is hidden."""
    try:
        shown = RunSpec.parse(data).to_json()
    except StudioError:
        shown = data
    twins = TWINS.format(studio=markup.escape(studio_command(sys.executable, Path.cwd())))
    text = json.dumps(shown, indent=2, ensure_ascii=False)
    return f'<div class="spec-json"><header><b>spec.json</b>{BUTTONS}</header><pre tabindex="0">{markup.escape(text)}</pre>{twins}</div>'


def studio_command(python: str, folder: Path) -> str:
    """How the studio is called from `folder`, where it was started, with the interpreter `python` it runs on; by its full name outside."""
    path = Path(python)  # not resolved: an environment's python is a link to one that has none of its packages
    shown = path.relative_to(folder) if path.is_relative_to(folder) else path
    return shlex.join([str(shown), "-m", "studio"])
