"""Text that people and models wrote, as HTML: escaped, code coloured, and characters that hide or turn text made visible."""

from __future__ import annotations

import html
import re
import unicodedata
from typing import Any

from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer, get_lexer_by_name
from pygments.util import ClassNotFound

# Controls, directional marks and overrides, zero-width spaces, the byte order mark and tag characters. The joiners of emoji and of
# scripts that need them (U+200C, U+200D) are left alone.
UNSEEN = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069\ufeff\U000e0000-\U000e007f]"
)
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
_FORMATTER = HtmlFormatter(nowrap=True)


def show_text(text: str) -> str:
    """Escaped, with every unseen character replaced by its code point in a small frame."""
    return mark_unseen(html.escape(text))


def mark_unseen(markup: str) -> str:
    """The same for markup whose tags are plain ASCII."""
    return UNSEEN.sub(_frame, markup)


def _frame(found: re.Match[str]) -> str:
    character = found.group()
    name = unicodedata.name(character, "control character").lower()
    return f'<span class="unseen" title="{html.escape(name)}">U+{ord(character):04X}</span>'


def show_code(code: str, language: str) -> str:
    """Coloured, escaped code; plain where the language is not known."""
    try:
        lexer = get_lexer_by_name(language, stripnl=False, ensurenl=False) if language else PythonLexer(stripnl=False, ensurenl=False)
    except ClassNotFound:
        return show_text(code)
    return mark_unseen(highlight(code, lexer, _FORMATTER).rstrip("\n"))


def answer_html(text: str, blocks: list[dict[str, Any]]) -> str:
    """An answer with its blocks of code set off and coloured. `blocks` as studio.play.runner finds them."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    parts, at = [], 0
    for block in blocks:
        first, end = block["first_line"], block["end_line"]
        fenced = first > 0 and bool(_FENCE.match(lines[first - 1]))
        parts.append(_prose("\n".join(lines[at : first - fenced])))
        parts.append(_block(block) if block["code"].strip() else "")
        at = end + (fenced and end < len(lines) and bool(_FENCE.match(lines[end])))
    return "".join([*parts, _prose("\n".join(lines[at:]))])


def _block(block: dict[str, Any]) -> str:
    """Coloured code; formatted where it could be, with a switch to the code as written, which is what runs."""
    language = block["language"] or ("python" if block["python"] else "")
    written, formatted = block["code"], block.get("formatted")
    if formatted:
        switch = '<button class="tool" data-do="layout" aria-pressed="false" data-other="Show formatted">Show as written</button>'
        note = f'<div class="layout"><span>Formatted; what runs is the code as written.</span>{switch}</div>'
        hidden = f'<pre class="code" tabindex="0" hidden>{show_code(written, language)}</pre>'
        return f'<div class="block">{note}<pre class="code" tabindex="0">{show_code(formatted, language)}</pre>{hidden}</div>'
    why = block.get("unformatted")
    note = f'<div class="layout"><span>Shown as written. {show_text(why)}</span></div>' if why else ""
    return f'<div class="block">{note}<pre class="code" tabindex="0">{show_code(written, language)}</pre></div>'


def _prose(text: str) -> str:
    stripped = text.strip("\n")
    return f"<pre>{show_text(stripped)}</pre>" if stripped.strip() else ""
