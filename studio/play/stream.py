"""Token ids to text as they come: only whole characters, and never the same text twice."""

from __future__ import annotations

from typing import Any


class TextStream:
    """One pane's text. Decoding looks back a few tokens only, so its cost does not grow with the answer."""

    LOOK_BACK = 8

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.ids: list[int] = []
        self.text = ""
        self._start = 0
        self._shown = 0

    def push(self, token: int) -> str:
        """The text this token completed; empty while a character is still in parts."""
        self.ids.append(token)
        known = self._decode(self.ids[self._start : self._shown])
        grown = self._decode(self.ids[self._start :])
        if grown.endswith("\ufffd") or len(grown) <= len(known):
            return ""
        new = grown[len(known) :]
        self._shown = len(self.ids)
        self._start = max(self._start, self._shown - self.LOOK_BACK)
        self.text += new
        return new

    def finish(self) -> str:
        """Whatever was held back; an unfinished character shows as a replacement mark."""
        whole = self._decode(self.ids)
        new = whole[len(self.text) :] if whole.startswith(self.text) else ""
        self.text = whole
        return new

    def _decode(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
