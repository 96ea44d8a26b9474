"""`chat`: a conversation in the terminal with a base, adapters on it, and the base quantized; the twin of the Playground.

It asks through the same functions as the page, and saves and loads the same files. Sampling, system prompt and what answers are options
and commands; a line of standard input is a message, so that it can be driven from a file or a pipe.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from studio.cli.chat_screen import Answers, change_line, interrupts_stop, is_interactive, read_message, show_run, show_safely, tell
from studio.cli.output import print_json
from studio.cli.sources import SAMPLING, add_sampling_arguments, add_source_arguments, read_named_sources, read_sampling
from studio.core.errors import PlayError, StudioError
from studio.core.files import write_atomic
from studio.core.paths import StudioHome
from studio.ui.conversation import MOST_CHARACTERS, Conversation, Turn
from studio.ui.play_ask import Ask, answer_turn, run_code, show_memory
from studio.ui.play_markup import figures_text, how_text
from studio.ui.play_sources import Sources
from studio.ui.studio import Studio

SESSION = "chat"
COMMANDS = {
    "help": "/help                 this list",
    "retry": "/retry [N]            ask message N, else the last, again; where tokens are drawn, with the next seed",
    "edit": "/edit [N] [TEXT]      change message N, else the last, and ask again; what came after it goes",
    "run": "/run [N] [TEST]       run the code in the answers to message N, else the last, in the sandbox; a TEST is as assert f(1) == 2",
    "system": "/system [TEXT]        show the system prompt, or begin anew with another",
    "set": "/set [NAME VALUE]     temperature, top_p, top_k, max_new_tokens, seed or strength",
    "history": "/history              the messages so far with their numbers",
    "new": "/new                  begin anew",
    "save": "/save FILE            the conversation as the Playground exports it",
    "load": "/load FILE            go on from a saved conversation",
    "quit": "/quit                 leave, as Ctrl-D does; Ctrl-C stops an answer",
}
EXAMPLES = """\
examples:
  python -m studio chat                                                 the starter model alone
  python -m studio chat RUN                                             a run beside its base
  python -m studio chat RUN1 RUN2 --temperature 0.7
  python -m studio chat starter --quantization none --quantization nf4  what NF4 changes
  echo "Write a haiku." | python -m studio chat --json                  one JSON object a turn

A line is a message; \"\"\" begins and ends one of several lines; // begins one that starts with a slash. Commands:
  """ + "\n  ".join(COMMANDS.values())


def add_verbs(verbs: Any) -> None:
    chat = verbs.add_parser(
        "chat", help="talk to a base and adapters side by side, in the terminal", epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add_source_arguments(chat)
    add_sampling_arguments(chat)
    chat.add_argument("--load", metavar="FILE", help="go on from a conversation that /save or the Playground's Export made")
    chat.add_argument("--json", action="store_true", help="one JSON object a turn on standard output, and nothing else there")
    chat.set_defaults(verb=run_chat)


def run_chat(options: argparse.Namespace, home: StudioHome) -> int:
    sources = read_named_sources(options, home)
    studio = Studio(home)
    try:
        chat = Chat(studio, sources, read_sampling(options), options.strength, options.json)
        if options.load:
            chat.load(options.load)
        return chat.talk()
    finally:
        studio.close()


class Chat:
    """One conversation with the panes of `sources`. Settings may change from turn to turn."""

    def __init__(self, studio: Studio, sources: Sources, sampling: dict[str, Any], strength: float, as_json: bool) -> None:
        self.studio, self.sources, self.as_json = studio, sources, as_json
        self.settings = {**sampling, "strength": strength}
        self.begin_with = sources.system
        self.conversation = Conversation()
        self.told_memory = ""

    def talk(self) -> int:
        """Until the input ends or /quit: 0; 1 where it came from a pipe and something in it failed."""
        if is_interactive():
            tell(f"{', '.join(pane.title for pane in self.sources.panes)}. /help lists the commands, /quit leaves.")
        failures = 0
        while True:
            try:
                line = read_message()
                if line is None or line.strip() == "/quit":
                    return 1 if failures and not is_interactive() else 0
                self.take(line)
            except StudioError as error:
                failures += 1
                tell(*(text for text in (error.message, error.hint) if text))
                if self.as_json:
                    print_json(error.to_json())
            except KeyboardInterrupt:
                if not is_interactive():
                    raise
                tell("", "/quit leaves.")

    def take(self, line: str) -> None:
        """A message or a command. Raises the StudioErrors of either."""
        if not line.startswith("/") or line.startswith("//"):
            if line.strip():
                self.ask(line.removeprefix("/") if line.startswith("//") else line)
            return
        name, _, rest = line[1:].partition(" ")
        if name not in COMMANDS:
            raise PlayError(f"There is no command /{name}.", "/help lists them. A message that starts with a slash begins with //.")
        command: Callable[[str], None] = getattr(self, name)
        command(rest.strip())

    def ask(self, user: str, before: Conversation | None = None, seed: int | None = None) -> None:
        """Answer `user` after the turns of `before`, else after all turns so far. What fails leaves the conversation as it was."""
        conversation = (self.conversation if before is None else before).asked_of(self.sources.panes, self.begin_with)
        sampling = {name: self.settings[name] for name in SAMPLING} | ({} if seed is None else {"seed": seed})
        answers = Answers(self.sources.panes)
        with interrupts_stop(lambda: self.studio.play_room.stop(SESSION)):
            for step in answer_turn(self.studio, Ask(user, conversation, self.sources, sampling, self.settings["strength"]), SESSION):
                if step.texts is not None and not self.as_json:
                    answers.show(step.texts, step.now, step.conversation is not None)
                if step.conversation is not None:
                    self.conversation = step.conversation
                    self._tell_turn(step.conversation.turns[-1], show_memory(step.loaded) if step.loaded else "")

    def _tell_turn(self, turn: Turn, memory: str) -> None:
        """The figures of what was answered, and what is held in memory once that changes."""
        titles = {pane.id: pane.title for pane in self.conversation.panes}
        if self.as_json:
            panes = [{"pane": pane, "title": titles[pane], **answer} for pane, answer in turn.answers.items()]
            print_json({"prompt": turn.user, "panes": panes, **turn.how})
        elif is_interactive():
            held = memory.partition(";")[0]
            lines = [f"   {show_safely(titles[pane])}: {figures_text(answer)}" for pane, answer in turn.answers.items()]
            tell(*lines, f"   {how_text(turn, self.conversation)}", *([f"   In memory: {memory}."] if held != self.told_memory else []))
            self.told_memory = held

    def help(self, rest: str) -> None:
        tell(*COMMANDS.values())

    def retry(self, rest: str) -> None:
        index, _ = self._message_of(rest)
        turn = self.conversation.turns[index]
        # The same seed would give the same answer.
        seed = int(turn.how.get("seed", 0)) + 1 if self.settings["temperature"] else None
        self.ask(turn.user, self.conversation.before(index), seed)

    def edit(self, rest: str) -> None:
        index, text = self._message_of(rest)
        self.ask(text or change_line(self.conversation.turns[index].user), self.conversation.before(index))

    def _message_of(self, rest: str) -> tuple[int, str]:
        """The turn that a command's first word counts from 1, else the last; and the words after it. Raises PlayError."""
        first, _, text = rest.partition(" ")
        count = len(self.conversation.turns)
        if not count:
            raise PlayError("Nothing has been asked yet.", "Type a message first.")
        if not first.isdecimal():
            return count - 1, rest
        if not 1 <= int(first) <= count:
            raise PlayError(f"There is no message {first}.", f"There are {count}; /history lists them.")
        return int(first) - 1, text.strip()

    def run(self, rest: str) -> None:
        index, test = self._message_of(rest)
        answers = self.conversation.turns[index].answers
        runs = {pane: run_code(self.studio, str(answer.get("text", "")), test) for pane, answer in answers.items()}
        self.conversation = self.conversation.with_changed(index, runs=runs)
        refused = [ran["refused"] for ran in runs.values() if "refused" in ran]
        if len(refused) == len(runs):
            raise PlayError(" ".join(dict.fromkeys(refused)) or f"Message {index + 1} has no answer.")
        if self.as_json:
            print_json({"message": index + 1, "runs": runs})
            return
        for pane in self.conversation.panes:
            if pane.id in runs:
                show_run(pane.title if len(runs) > 1 else "", runs[pane.id])

    def system(self, rest: str) -> None:
        if rest:
            self.begin_with, self.conversation = rest, Conversation()
        tell(f"System prompt: {show_safely(self._system_now()) or 'none'}")

    def _system_now(self) -> str:
        return self.conversation.system if self.conversation.turns else self.begin_with

    def set(self, rest: str) -> None:
        name, _, value = rest.partition(" ")
        if not rest:
            tell(*(f"{known} {held:g}" for known, held in self.settings.items()))
            return
        if name not in self.settings:
            raise PlayError(f"There is no setting {name!r}.", f"There are: {', '.join(self.settings)}.")
        try:
            self.settings[name] = type(self.settings[name])(value)
        except ValueError as error:
            raise PlayError(f"{value!r} is no value of {name}.", f"It is {self.settings[name]:g} now.") from error

    def history(self, rest: str) -> None:
        system = self._system_now()
        tell(*([f"system: {show_safely(system)}"] if system else []))
        tell(*(f"{index}: {show_safely(turn.user)}" for index, turn in enumerate(self.conversation.turns, 1)))

    def new(self, rest: str) -> None:
        self.conversation = Conversation()

    def save(self, rest: str) -> None:
        path = _file(rest)
        if path.exists():
            _read(path)  # another kind of file is not written over
        write_atomic(path, replace(self.conversation, panes=self.sources.panes, system=self._system_now()).to_json())
        tell(f"Saved in {path}.")

    def load(self, rest: str) -> None:
        loaded = _read(_file(rest))
        loaded.asked_of(self.sources.panes, "")
        self.conversation, self.begin_with = loaded, loaded.system
        tell(f"{len(loaded.turns)} messages loaded.")


def _file(name: str) -> Path:
    if not name:
        raise PlayError("No file is named.", "Name one: /save talk.json")
    return Path(name).expanduser()


def _read(path: Path) -> Conversation:
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return Conversation.from_json(file.read(MOST_CHARACTERS + 1) or "{}")
    except OSError as error:
        raise PlayError(f"{path} cannot be read: {error.strerror}.", "Check its name.") from error
