"""What the Playground does in the browser itself, without asking the server."""

from __future__ import annotations

import json

from studio.ui.play_form import SETTINGS

CLICKS = """
element.addEventListener('click', async event => {
  const button = event.target.closest('[data-do]');
  if (!button) return;
  if (button.dataset.do === 'copy') {
    await navigator.clipboard.writeText(button.dataset.text);
    button.textContent = 'Copied';
    setTimeout(() => { button.textContent = 'Copy'; }, 1500);
    return;
  }
  if (button.dataset.do === 'layout') {
    for (const code of button.closest('.block').querySelectorAll('pre')) code.hidden = !code.hidden;
    [button.textContent, button.dataset.other] = [button.dataset.other, button.textContent];
    button.ariaPressed = button.ariaPressed === 'true' ? 'false' : 'true';
    return;
  }
  trigger('submit', {do: button.dataset.do, turn: Number(button.dataset.turn), pane: button.dataset.pane || ''});
});
"""
"""On the conversation: copy an answer, switch a block of code between formatted and as written; other buttons go to the server."""
CLEAR_ASKED = """(prompt, conversation) => {
  const turns = conversation ? JSON.parse(conversation).turns : [];
  return turns.length && turns.at(-1).user === prompt ? '' : prompt;
}"""
"""After an answer the prompt box is emptied, unless something else was typed meanwhile."""
SAVE_FILE = """text => {
  const link = document.createElement('a');
  link.href = URL.createObjectURL(new Blob([text || '{}'], {type: 'application/json'}));
  link.download = 'conversation.json';
  link.click();
  URL.revokeObjectURL(link.href);
}"""
"""The kept conversation as a download."""
REMEMBER = (
    "(conversation, ...values) => ({conversation, settings: Object.fromEntries("
    + json.dumps(SETTINGS)
    + ".map((name, place) => [name, values[place]]))})"
)
"""What the browser remembers, made of the conversation and the settings."""
