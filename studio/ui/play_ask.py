"""One question from the line to its answers: texts that grow and, at the end, a conversation that is one turn longer.

Pure of Gradio: the page and the terminal ask with it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from studio.core.errors import PlayError, SandboxError, WorkerError
from studio.core.units import show_bytes
from studio.jobs import store
from studio.ui.conversation import Conversation, Turn
from studio.ui.play_room import Place
from studio.ui.play_sources import HELD_AS, Sources
from studio.ui.studio import Studio

REDRAW_S = 0.08


@dataclass(frozen=True)
class Ask:
    """What is asked, after which turns, of whom and how. `order` is how a blind question's panes are shuffled."""

    user: str
    conversation: Conversation
    sources: Sources
    sampling: dict[str, Any]
    strength: float = 1.0
    order: tuple[str, ...] = ()
    """Pane ids as they are shown where the person does not want to know which is which; else empty."""


class Step(NamedTuple):
    """Where a question stands: in line, at its model, being answered, or done.

    `texts` holds every pane's answer so far, None before the first pass; `now` the panes of the pass that is running; `loaded` what is
    in memory, once that is known; `conversation` the longer conversation, at the end.
    """

    ahead: int = 0
    texts: Mapping[str, str] | None = None
    now: Sequence[str] = ()
    loaded: dict[str, Any] | None = None
    conversation: Conversation | None = None


def show_held(loaded: Mapping[str, Any]) -> str:
    """How a base is held in memory: the quantization's name, or the type of its plain numbers."""
    quantization = loaded.get("quantization")
    return str(loaded.get("dtype") or "") if quantization in (None, "none") else HELD_AS[quantization]


def show_memory(loaded: Mapping[str, Any]) -> str:
    """'the base in bfloat16 (269 MB) and in NF4 (113 MB), with 1 adapter; the process holds 900 MB', of what the worker's load tells."""
    held = [f"{show_held(copy)} ({show_bytes(copy['base_bytes'])})" for copy in (loaded, *loaded.get("copies", {}).values())]
    count = len(loaded["adapters"])
    adapters = f", with {count} adapter{'s' if count > 1 else ''}" if count else ""
    return f"the base in {' and in '.join(held)}{adapters}; the process holds {show_bytes(loaded['memory_bytes'])}"


def refuse_while_training(studio: Studio) -> None:
    """Raises PlayError while a run is at work, RunError while a model is calibrated: the memory is not to be shared."""
    studio.refuse_while_calibrating()
    active = next((run for run in store.list_runs(studio.home) if run.status.is_active), None)
    if active:
        raise PlayError(f"The run {active.name} is training and needs the memory.", "Wait until it has ended, or stop it under Runs.")


def answer_turn(studio: Studio, ask: Ask, session: str, kept: str = "") -> Iterator[Step]:
    """Wait in line, then answer. `kept` is the conversation as the page holds it. The last step comes after the line was left: the page may
    ask again at once. Raises PlayError and whatever loading the model or an adapter raises; nothing is changed then."""
    if not ask.user.strip():
        raise PlayError("The prompt is empty.", "Type what you would like to ask.")
    refuse_while_training(studio)
    last: Step | None = None
    with studio.play_room.stand_in_line(session, kept) as place:
        while ahead := studio.play_room.ahead(place):
            if place.stopped.is_set():
                return
            yield Step(ahead=ahead)
        if place.stopped.is_set():
            return
        refuse_while_training(studio)
        yield Step()
        try:
            for step in _stream(studio, ask, place):
                if step.conversation is None:
                    yield step
                else:
                    last = step
        except WorkerError:
            # The runner ends the play worker where it needs the memory; that is the better explanation.
            refuse_while_training(studio)
            raise
        if kept and last is not None and last.conversation is not None:
            studio.play_room.supersede(session, kept, last.conversation.to_json())
    if last is not None:
        yield last


def _stream(studio: Studio, ask: Ask, place: Place) -> Iterator[Step]:
    panes = [pane.id for pane in ask.sources.panes]
    texts, now, drawn, loaded = dict.fromkeys(panes, ""), [], 0.0, None
    conversations = {pane: ask.conversation.messages(pane, ask.user) for pane in panes}
    events = studio.play.stream(
        "generate", until=place.stopped, conversations=conversations, panes=panes, sampling=ask.sampling, strength=ask.strength,
        load=ask.sources.load,
    )  # fmt: skip
    for event in events:
        if event.name == "loaded":
            loaded = studio.play_room.loaded = event.data
        elif event.name == "pass":
            now, drawn = event.data["panes"], 0.0
        elif event.name == "token":
            texts[event.data["pane"]] += event.data["text"]
        else:
            yield Step(0, texts, (), loaded, ask.conversation.with_turn(_finished(studio, ask, event.data, loaded or {})))
            return
        if time.monotonic() - drawn > REDRAW_S:
            drawn = time.monotonic()
            yield Step(0, dict(texts), now, loaded)


def _finished(studio: Studio, ask: Ask, done: dict[str, Any], loaded: dict[str, Any]) -> Turn:
    answers = {answer["pane"]: {key: value for key, value in answer.items() if key != "pane"} for answer in done["panes"]}
    blocks = studio.code.call("find", texts=[answer["text"] for answer in answers.values()])
    for answer, found in zip(answers.values(), blocks, strict=True):
        answer["blocks"] = found
    how = {key: done[key] for key in ("mixed_batch", "passes", "prompt_tokens", "seconds", "strengths")}
    how |= {key: ask.sampling[key] for key in ("temperature", "seed")} | {key: loaded.get(key) for key in ("dtype", "quantization")}
    how["apart"] = str(done.get("apart", ""))
    how["copies"] = {pane: show_held(held) for pane, held in loaded.get("copies", {}).items()}
    return Turn(ask.user, answers, how | ({"blind": True, "order": list(ask.order)} if ask.order else {}))


def run_code(studio: Studio, text: str, tests: str) -> dict[str, Any]:
    """How the program in an answer ended in the sandbox; {'refused': why} where it was not run."""
    try:
        return studio.runner.call("run", text=text, tests=tests)
    except (SandboxError, PlayError) as error:
        return {"refused": str(error)}
