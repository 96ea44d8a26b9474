"""Error toasts go ten seconds after the newest message, later where somebody is at them; assets/theme.css shows the newest message only.

Gradio 6.31 keeps all messages of a kind in one box. Its clock starts with the first of them and takes the newer ones along, however
short they were there, so guard.py sets none and this script does it.
"""

from __future__ import annotations

import gradio as gr

CLOCK = """
const clocks = new WeakMap();
const wait = toast => {
  clearTimeout(clocks.get(toast));
  clocks.set(toast, setTimeout(close, 10000, toast));
};
const close = toast => {
  if (!toast.isConnected) return;
  if (toast.matches(':hover, :focus-within')) wait(toast);
  else toast.querySelector('.toast-close').click();
};
const look = wrap => {
  for (const toast of wrap.querySelectorAll('.toast-body.error')) {
    const count = String(toast.querySelectorAll('.toast-message-item').length);
    if (toast.dataset.count !== count) { toast.dataset.count = count; wait(toast); }
  }
};
const begin = () => {
  const wrap = document.querySelector('.toast-wrap');  // Gradio makes it once, with the page
  if (wrap) new MutationObserver(() => look(wrap)).observe(wrap, {childList: true, subtree: true});
  else setTimeout(begin, 100);
};
begin();
"""


def build() -> None:
    gr.HTML("", js_on_load=CLOCK, padding=False, elem_id="toasts")
