"""The Playground tab: a conversation with a base model and up to four adapters on it, side by side, from one model, with one seed.

The page holds the conversation (a hidden box, kept in the browser), the worker holds the model in its own process; a run that starts
ends that process first. What is asked and answered stays on the page whatever fails.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from studio.core.errors import PlayError
from studio.core.paths import StudioHome
from studio.jobs import store
from studio.jobs.votes import add_vote
from studio.ui import play_closer, play_markup
from studio.ui.conversation import BASE, MOST_CHARACTERS, Conversation
from studio.ui.guard import guarded
from studio.ui.lazy import current_page
from studio.ui.links import Links
from studio.ui.play_ask import Ask, answer_turn, refuse_while_training, run_code
from studio.ui.play_form import PlayForm, build_form, build_tools
from studio.ui.play_scripts import CLEAR_ASKED, CLICKS, REMEMBER, SAVE_FILE
from studio.ui.play_sources import RUN, adapter_choices, base_of
from studio.ui.studio import Studio

QUIET: dict[str, Any] = {"show_progress": "hidden"}
LINE: dict[str, Any] = {**QUIET, "concurrency_limit": 32, "concurrency_id": "play"}


def build(studio: Studio, tab: gr.Tab, links: Links) -> None:
    with gr.Row(elem_classes="two-columns", equal_height=False):
        with gr.Column(scale=4, min_width=300):
            form = build_form(studio)
        with gr.Column(scale=9, min_width=340):
            with gr.Column(elem_id="panes"):
                thread = gr.HTML(play_markup.EMPTY, elem_id="thread", padding=False, js_on_load=CLICKS)
                current = gr.HTML("", elem_id="current", padding=False)
            tools = build_tools()
    form = form._replace(thread=thread, current=current, tools=tools)
    _wire_asking(studio, form, links.conversation)
    _wire_keeping(studio, form)
    _wire_tools(studio, form)
    play_closer.wire(studio, form)
    _wire_visits(studio, form, tab, links)


def _wire_asking(studio: Studio, form: PlayForm, remembered: gr.BrowserState) -> None:
    def ask(values: dict[Any, Any], request: gr.Request) -> Iterator[dict[Any, Any]]:
        yield from _ask(studio, form, values, str(request.session_hash))

    def act(values: dict[Any, Any], event: gr.EventData, request: gr.Request) -> Iterator[dict[Any, Any]]:
        yield from _act(studio, form, values, event._data, str(request.session_hash))

    def stop(request: gr.Request) -> None:
        studio.play_room.stop(str(request.session_hash))

    outputs = [form.thread, form.current, form.prompt, form.editing, form.kept, form.memory]
    asked = gr.on([form.ask.click, form.prompt.submit], guarded(ask), form.inputs, outputs, **LINE)
    asked.success(None, [form.prompt, form.kept], form.prompt, js=CLEAR_ASKED, **QUIET)
    # "multiple": gradio would drop a click that comes before an earlier one has ended, without a word.
    acted = form.thread.submit(guarded(act), form.inputs, outputs, trigger_mode="multiple", **LINE)
    for event in (asked, acted):
        event.failure(guarded(lambda: ("", memory_now(studio))), None, [form.current, form.memory], **QUIET)
    # As long as a message is being edited the page says so: Answer replaces it, and what came after it goes.
    form.editing.change(editing_button, form.editing, form.unedit, queue=False, **QUIET)
    form.unedit.click(lambda: ("", ""), None, [form.editing, form.prompt], queue=False, **QUIET)
    form.stop.click(stop, None, None, queue=False, **QUIET)
    # In the browser itself, whatever changed the conversation: an answer, a vote, a file brought in, a new beginning.
    form.kept.change(None, [form.kept, *form.settings], remembered, js=REMEMBER, **QUIET)


def editing_button(index: str) -> dict[str, Any]:
    """The button's update: shown with the number of the question that Answer would replace."""
    return gr.update(visible=bool(index), value=f"Cancel the edit of question {int(index) + 1}" if index else "Cancel the edit")


def _ask(studio: Studio, form: PlayForm, values: dict[Any, Any], session: str) -> Iterator[dict[Any, Any]]:
    """Answer what stands in the prompt; a message being edited is asked anew, and what came after it goes."""
    conversation = Conversation.from_json(values[form.kept])
    editing = values[form.editing]
    if editing.isdigit():
        conversation = conversation.before(int(editing))
    yield from _answer(studio, form, values, session, conversation, values[form.prompt])


def _answer(
    studio: Studio, form: PlayForm, values: dict[Any, Any], session: str, conversation: Conversation, user: str, seed: int | None = None
) -> Iterator[dict[Any, Any]]:  # fmt: skip
    sources = form.sources(studio.home, values)
    conversation = conversation.asked_of(sources.panes, values[form.system].strip() or sources.system)
    sampling = form.sampling(values)
    if seed is not None:
        sampling["seed"] = seed
    order = tuple(random.sample([pane.id for pane in sources.panes], len(sources.panes))) if values[form.blind] else ()
    thread = play_markup.thread_html(conversation) if conversation.turns else ""
    yield {form.thread: thread, form.current: play_markup.loading_html(user), form.memory: memory_now(studio)}
    ended, held = False, None
    ask = Ask(user, conversation, sources, sampling, values[form.strength], order)
    for step in answer_turn(studio, ask, session, values[form.kept]):
        shown: dict[Any, Any] = {form.current: "" if step.conversation else play_markup.step_html(ask, step)}
        if step.loaded is not held:
            held = step.loaded
            shown[form.memory] = play_markup.memory_html(held)
        if step.conversation is not None:
            ended = True
            shown |= {form.thread: play_markup.thread_html(step.conversation), form.kept: step.conversation.to_json(), form.editing: ""}
        yield shown
    if not ended:
        kept = Conversation.from_json(values[form.kept])
        yield {form.thread: play_markup.thread_html(kept), form.current: ""}


def _act(studio: Studio, form: PlayForm, values: dict[Any, Any], asked: dict[str, Any], session: str) -> Iterator[dict[Any, Any]]:
    """A button inside the conversation was pressed."""
    conversation = Conversation.from_json(values[form.kept])
    index, pane = int(asked.get("turn", -1)), str(asked.get("pane", ""))
    turn = conversation.with_changed(index).turns[index]
    if asked.get("do") == "retry":
        # The same seed would give the same answer; where tokens are drawn, the next seed is taken and shown.
        seed = int(turn.how.get("seed", 0)) + 1 if form.sampling(values)["temperature"] else None
        yield from _answer(studio, form, values, session, conversation.before(index), turn.user, seed)
        return
    with studio.play_room.hold(session, values[form.kept]):
        if asked.get("do") == "edit":
            gr.Info("Change the message in the prompt box and press Answer. What came after it will go.", duration=5)
            shown = {form.prompt: turn.user, form.editing: str(index)}
        else:
            changes = {"vote": _vote(studio, conversation, index, pane)} if asked.get("do") == "vote" else {}
            if asked.get("do") == "run":
                changes = {"runs": {**turn.runs, pane: run_code(studio, turn.answers.get(pane, {}).get("text", ""), values[form.tests])}}
            changed = conversation.with_changed(index, **changes)
            shown = {form.thread: play_markup.thread_html(changed), form.kept: changed.to_json()}
            studio.play_room.supersede(session, values[form.kept], changed.to_json())
    yield shown


def _vote(studio: Studio, conversation: Conversation, index: int, winner: str) -> dict[str, Any]:
    """Keep the verdict in the folder of every run it says something about: the adapter beside the base."""
    turn, told = conversation.turns[index], []
    for pane in conversation.panes:
        verdict = "tie" if not winner else "better" if winner == pane.id else "worse" if winner == BASE else None
        if pane.id.startswith(RUN) and BASE in turn.answers and verdict and not turn.vote:
            tally = add_vote(_run_paths(studio.home, pane.id), verdict, turn.user, bool(turn.how.get("blind")))
            told.append(f"{pane.title}: {tally.summary}")
    return {"winner": winner, "tally": " ".join(told) or "Votes are kept with runs; this pair names none."}


def _run_paths(home: StudioHome, adapter: str) -> Any:
    return home.run(adapter.removeprefix(RUN))


def _wire_keeping(studio: Studio, form: PlayForm) -> None:
    """New, export, import, free the memory, and the base that goes with a picked adapter."""
    cleared = [form.kept, form.thread, form.current, form.editing]
    form.export.click(None, form.kept, None, js=SAVE_FILE)

    def begin_anew(request: gr.Request) -> tuple[str, str, str, str]:
        with studio.play_room.hold(str(request.session_hash)):
            return "", play_markup.EMPTY, "", ""

    def bring_in(path: str, request: gr.Request) -> tuple[str, str, str, str]:
        with studio.play_room.hold(str(request.session_hash)), Path(path).open(encoding="utf-8", errors="replace") as file:
            conversation = Conversation.from_json(file.read(MOST_CHARACTERS + 1) or "{}")
        return conversation.to_json(), play_markup.thread_html(conversation), "", ""

    def free() -> str:
        studio.play.close()
        gr.Info("The model is unloaded and its memory is free.", duration=4)
        return play_markup.memory_html(None)

    def follow(adapters: list[str]) -> Any:
        base = base_of(studio, adapters[0]) if len(adapters) == 1 else None
        return base or (gr.skip(), gr.skip())

    form.new.click(guarded(begin_anew), None, cleared, **QUIET)
    form.bring.upload(guarded(bring_in), form.bring, cleared, **QUIET)
    form.unload.click(guarded(free), None, form.memory, **QUIET)
    form.adapters.input(guarded(follow), form.adapters, [form.model, form.quantization], **QUIET)


def _wire_tools(studio: Studio, form: PlayForm) -> None:
    """Below the conversation: the rendered prompt, tests for every pane, the difference between two answers."""

    def render(values: dict[Any, Any]) -> tuple[str, str]:
        refuse_while_training(studio)
        conversation = Conversation.from_json(values[form.kept])
        sources = form.sources(studio.home, values)
        conversation = conversation.asked_of(conversation.panes, values[form.system].strip() or sources.system)
        user = values[form.prompt].strip()
        messages = conversation.messages(BASE, user) if user or not conversation.turns else conversation.before(
            len(conversation.turns) - 1).messages(BASE, conversation.turns[-1].user)  # fmt: skip
        rendered = studio.play_room.call("render", messages=messages, load=sources.load)
        return play_markup.rendered_html(rendered), memory_now(studio)

    def run_all(values: dict[Any, Any], request: gr.Request) -> dict[Any, Any]:
        conversation = Conversation.from_json(values[form.kept])
        last = len(conversation.turns) - 1
        answers = conversation.with_changed(last).turns[last].answers
        session = str(request.session_hash)
        with studio.play_room.hold(session, values[form.kept]):
            runs = {pane: run_code(studio, answer["text"], values[form.tests]) for pane, answer in answers.items()}
            changed = conversation.with_changed(last, runs=runs)
            studio.play_room.supersede(session, values[form.kept], changed.to_json())
        return {form.thread: play_markup.thread_html(changed), form.kept: changed.to_json()}

    def diff(kept: str) -> str:
        conversation = Conversation.from_json(kept)
        answers = conversation.turns[-1].answers if conversation.turns else {}
        shown = [pane for pane in conversation.panes if pane.id in answers]
        if len(shown) < 2:
            raise PlayError("There are no two answers to compare.", "Ask a question with an adapter picked.")
        texts = [[block["code"] for block in answers[pane.id].get("blocks") or []] or [answers[pane.id]["text"]] for pane in shown]
        first = "\n".join(texts[0])
        parts = []
        for pane, code in zip(shown[1:], texts[1:], strict=True):
            lines = studio.code.call("diff", first=first, second="\n".join(code))
            parts.append(play_markup.diff_html(lines, shown[0].title, pane.title))
        return "".join(parts)

    tools = form.tools
    tools.render.click(guarded(render), form.inputs, [tools.rendered, form.memory], **LINE)
    tools.run_all.click(guarded(run_all), form.inputs, [form.thread, form.kept], concurrency_limit=4, concurrency_id="code")
    tools.diff.click(guarded(diff), form.kept, tools.difference, **QUIET)


def _wire_visits(studio: Studio, form: PlayForm, tab: gr.Tab, links: Links) -> None:
    """The conversation back after a reload; 'Open in Playground' on a run; the lists kept fresh whenever the tab is opened."""
    shown = [form.kept, form.thread, form.prompt, form.editing, form.memory, *form.settings, links.play_run]

    def restore(remembered: dict[str, Any], run_id: str) -> dict[Any, Any]:
        values = {**restored(studio, form, remembered or {}), form.memory: memory_now(studio)}
        return {**values, **with_run(studio, form, run_id, values[form.kept]), links.play_run: ""} if run_id else values

    def open_run(run_id: str, kept: str) -> dict[Any, Any]:
        return {**with_run(studio, form, run_id, kept), links.play_run: ""} if run_id else {links.play_run: gr.skip()}

    current_page().load(guarded(restore), [links.conversation, links.play_run], shown, **QUIET)
    links.play_run.change(guarded(open_run), [links.play_run, form.kept], shown, **QUIET)
    fresh = [form.adapters, form.memory]
    tab.select(guarded(lambda: (gr.update(choices=adapter_choices(studio)), memory_now(studio))), None, fresh, **QUIET)


def restored(studio: Studio, form: PlayForm, remembered: dict[str, Any]) -> dict[Any, Any]:
    """What the browser kept, without the runs that are gone; on a first visit the newest run's adapter beside its base."""
    settings = remembered.get("settings") or default_settings(studio)
    kept = str(remembered.get("conversation") or "")
    try:
        thread = play_markup.thread_html(Conversation.from_json(kept))
    except PlayError:
        kept, thread = "", play_markup.EMPTY
    choices = adapter_choices(studio)
    there = [value for value in settings.get("adapters") or [] if not value.startswith(RUN) or value in dict(map(reversed, choices))]
    values = [settings.get("model") or "starter", settings.get("quantization") or "none", settings.get("beside") or [],
              gr.update(choices=choices, value=there), settings.get("system") or ""]  # fmt: skip
    shown = {form.kept: kept, form.thread: thread, **dict(zip(form.settings, values, strict=True))}
    return {**shown, form.prompt: ""} if kept else shown


def with_run(studio: Studio, form: PlayForm, run_id: str, kept: str) -> dict[Any, Any]:
    """A run's adapter beside its base; a conversation that it takes no part in makes room for a new one."""
    model, quantization = base_of(studio, RUN + run_id) or ("starter", "none")
    picked = gr.update(choices=adapter_choices(studio), value=[RUN + run_id])
    values = {form.adapters: picked, form.model: model, form.quantization: quantization, form.beside: []}
    if RUN + run_id in {pane.id for pane in Conversation.from_json(kept).panes}:
        return values
    return {**values, form.kept: "", form.thread: play_markup.EMPTY, form.editing: ""}


def default_settings(studio: Studio) -> dict[str, Any]:
    """A first visit: the newest run's adapter beside its base, or the starter model alone."""
    newest = next((value for _, value in adapter_choices(studio) if value.startswith(RUN)), None)
    base = base_of(studio, newest) if newest else None
    return {"adapters": [newest], "model": base[0], "quantization": base[1]} if newest and base else {}


def memory_now(studio: Studio) -> str:
    """What to say of the memory while nothing is asked."""
    active = next((run for run in store.list_runs(studio.home) if run.status.is_active), None)
    if active:
        text = f"The run {active.name} is training and holds the memory. The playground answers again when it has ended."
        return play_markup.markup.notice(text, "warn")
    loaded = studio.play_room.loaded
    return "" if studio.play.pid and not loaded else play_markup.memory_html(loaded)
