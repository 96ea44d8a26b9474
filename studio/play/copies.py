"""The same base held in several ways at once, plain and quantized, to see what quantization alone changes.

Each way is a copy of the base in memory, an Engine of its own; adapters sit on the first copy. Every other pane is the bare base as it
is held there. The copies answer one after the other in the order they were asked for, each with the question's own seed, so that the
weights are all that differs. A copy that is no longer asked for is dropped.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from studio.core.errors import PlayError
from studio.core.paths import StudioHome
from studio.core.spec import ModelSpec
from studio.play.engine import Emit, Engine, Question
from studio.play.injection import BASE


class Copies:
    """The playground's models. `load` first, then `answer`; `place` says which copy a pane is on."""

    def __init__(self, home: StudioHome) -> None:
        self.home = home
        self.engines: dict[str, Engine] = {"none": Engine(home)}
        """Quantization -> the base held so; the first carries the adapters."""
        self.beside: dict[str, str] = {}
        """Pane -> the quantization of the copy it is."""
        self._model: ModelSpec | None = None

    @property
    def first(self) -> Engine:
        return next(iter(self.engines.values()))

    def load(self, model: ModelSpec, quantization: str, adapters: Mapping[str, str], beside: Mapping[str, str]) -> dict[str, Any]:
        """Hold the base as `quantization` with these adapters (name -> folder), and a copy for each pane of `beside`.

        Raises PlayError for a pane or a quantization named twice, and what Engine.load raises; copies that were ready then stay.
        """
        wanted = [quantization, *beside.values()]
        if len(set(wanted)) < len(wanted) or {BASE, *adapters} & set(beside):
            raise PlayError("The base was to be held in the same way twice.", "Name each way of holding it once.")
        if model != self._model:
            self.unload()
        dropped = [self.engines.pop(held) for held in list(self.engines) if held not in wanted]
        _forget(dropped)
        self.engines = {held: self.engines.get(held) or Engine(self.home) for held in wanted}
        self.beside, self._model = dict(beside), model
        for held, engine in self.engines.items():
            engine.load(model, held, adapters if held == quantization else {})
        return self.describe()

    def describe(self) -> dict[str, Any]:
        """As Engine.describe of the first copy, with `copies`: pane -> quantization, dtype and base_bytes of each further one."""
        told = {pane: self.engines[held].describe() for pane, held in self.beside.items()}
        facts = ("quantization", "dtype", "base_bytes")
        return {**self.first.describe(), "copies": {pane: {fact: of[fact] for fact in facts} for pane, of in told.items()}}

    def unload(self) -> None:
        """Forget every copy. The memory is surely back only when the process ends."""
        _forget(self.engines.values())
        self.engines, self.beside, self._model = {"none": Engine(self.home)}, {}, None

    def place(self, pane: str) -> tuple[Engine, str]:
        """The copy a pane is on, and what the pane is called there."""
        return (self.engines[self.beside[pane]], BASE) if pane in self.beside else (self.first, pane)

    def answer(self, question: Question, emit: Emit, is_cancelled: Callable[[], bool]) -> dict[str, Any]:
        """As Engine.answer, over all copies. Raises PlayError before anything is computed."""
        shares = self._shares(question)
        if len(shares) < 2 and not self.beside:
            return self.first.answer(question, emit, is_cancelled)
        for engine, names in shares:
            engine.ready(list(names))
            for pane in names.values():
                engine.encode(question.conversations[pane])
        parts = [_answer_on(engine, names, question, emit, is_cancelled) for engine, names in shares]
        answers = {answer["pane"]: answer for part in parts for answer in part["panes"]}
        passes = [names for part in parts for names in part["passes"]]
        reasons = [part["apart"] for part in parts if part.get("apart")]
        if len(parts) > 1:
            reasons.insert(0, "Each copy of the base answers by itself.")
        return {
            "panes": [answers[pane] for pane in question.conversations], "passes": passes, "apart": " ".join(reasons),
            "mixed_batch": len(passes) == 1 and len(answers) > 1,
            "prompt_tokens": max(part["prompt_tokens"] for part in parts), "seconds": sum(part["seconds"] for part in parts),
        }  # fmt: skip

    def _shares(self, question: Question) -> list[tuple[Engine, dict[str, str]]]:
        """Each copy that is asked, with the panes on it: what the copy calls them -> their own names."""
        shares: dict[int, tuple[Engine, dict[str, str]]] = {}
        for pane in question.conversations:
            engine, name = self.place(pane)
            shares.setdefault(id(engine), (engine, {}))[1][name] = pane
        return list(shares.values())


def _answer_on(
    engine: Engine, names: Mapping[str, str], question: Question, emit: Emit, is_cancelled: Callable[[], bool]
) -> dict[str, Any]:  # fmt: skip
    """One copy's part of an answer, with the panes under their own names."""

    def tell(event: str, data: Any) -> None:
        renamed = {"panes": [names[name] for name in data["panes"]]} if event == "pass" else {"pane": names[data["pane"]]}
        emit(event, {**data, **renamed})

    asked = replace(question, conversations={name: question.conversations[pane] for name, pane in names.items()})
    done = engine.answer(asked, tell, is_cancelled)
    panes = [{**answer, "pane": names[answer["pane"]]} for answer in done["panes"]]
    return {**done, "panes": panes, "passes": [[names[name] for name in passed] for passed in done["passes"]]}


def _forget(engines: Iterable[Engine]) -> None:
    """Drop the models and give their memory back to the system."""
    for engine in engines:
        engine.unload()
    gc.collect()  # a model and its hooks refer to each other
    if sys.platform.startswith("linux"):
        # The C library keeps two thirds of a small model's freed layers; musl's has no such call and keeps nothing.
        with contextlib.suppress(AttributeError):
            ctypes.CDLL(None).malloc_trim(0)
