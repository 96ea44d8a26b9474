"""The settings' names and help, from assets/help.md: one text for the form and for the reader."""

from __future__ import annotations

import functools
import re
from typing import NamedTuple

from studio.core.paths import ASSETS


class Help(NamedTuple):
    label: str
    text: str


@functools.cache
def all_help() -> dict[str, Help]:
    """Setting -> its label and one-sentence help, in the file's order."""
    found = {}
    for block in (ASSETS / "help.md").read_text(encoding="utf-8").split("\n## ")[1:]:
        heading, _, text = block.partition("\n")
        path, _, label = heading.partition(" — ")
        found[path.strip()] = Help(label.strip(), re.sub(r"`", "", " ".join(text.split())))
    return found
