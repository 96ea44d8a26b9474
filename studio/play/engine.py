"""One base model in memory and the adapters that may answer on it.

Honesty is the point of this file. The base pane is the base: it runs either as the rows of a mixed batch that name no adapter
(PEFT's `__base__`), or with every adapter disabled, or with none injected at all. LoRA answers share one batch with the base, which
PEFT's mixed batches do exactly; tuners that ignore `adapter_names` without a word (all others, and DoRA) get a pass of their own.
Conversations that have come to differ are padded to one length where that is exact, and get passes of their own elsewhere. The seed is
the same. The protocol answers requests one by one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil

from studio.core.errors import PlayError
from studio.core.files import is_unicode
from studio.core.paths import StudioHome
from studio.core.sampling import Sampling
from studio.core.spec import ModelSpec, RunSpec
from studio.methods.adapters import base_warning, describe_adapter
from studio.models.chat import Message, encode_prompt
from studio.models.load import LoadedBase, load_base
from studio.play.batch_rows import can_batch
from studio.play.decode import Decoding, PaneState, decode
from studio.play.injection import BASE, Injection, has_strength
from studio.play.stream import TextStream


@dataclass(frozen=True)
class PaneAnswer:
    """One pane's answer. stopped_by: end of answer, token limit, end of the context, or you."""

    pane: str
    text: str
    tokens: int
    seconds: float
    first_token_s: float
    stopped_by: str
    prompt_tokens: int


@dataclass(frozen=True)
class Question:
    """What is asked: each pane's conversation, how tokens are picked, and adapters' strengths where they are not 1."""

    conversations: Mapping[str, Sequence[Message]]
    sampling: Sampling = field(default_factory=Sampling)
    strengths: Mapping[str, float] = field(default_factory=dict)


Emit = Callable[[str, Any], None]
"""(event, data): 'pass' {panes} before a pass begins, 'token' {pane, text} as text comes."""


class Engine:
    """The playground's model. `load` first, then `answer` any number of times."""

    def __init__(self, home: StudioHome) -> None:
        self.home = home
        self.loaded: LoadedBase | None = None
        self.injection: Injection | None = None
        self._key: tuple[str, str] | None = None

    def load(self, model: ModelSpec, quantization: str, adapters: Mapping[str, str]) -> dict[str, Any]:
        """Hold this base with exactly these adapters (name -> folder). A base that is already there stays. Returns what is loaded.

        Raises ModelError and its kinds, MethodError and PlayError; the base is then there without any adapter, or not at all.
        """
        if BASE in adapters:
            raise PlayError("An adapter cannot be called 'base'.", "That name is the base model's own.")
        infos = {name: (Path(folder), describe_adapter(Path(folder))) for name, folder in adapters.items()}
        spec = RunSpec.parse({"model": {**model.model_dump(), "quantization": quantization}})
        key = (spec.model.model_dump_json(), quantization)
        if self._key != key or self.injection is None or not self.injection.is_clean():
            self.unload()
            self.loaded = load_base(spec, self.home)
            self.injection, self._key = Injection(self.loaded.model), key
        self.injection.offer(infos)
        self.injection.hold(list(infos)[:1])
        return self.describe()

    def describe(self) -> dict[str, Any]:
        """The base, its adapters and what to warn of, for the page."""
        memory = {"memory_bytes": psutil.Process().memory_info().rss}
        if self.loaded is None or self.injection is None:
            return {"loaded": False, **memory}
        name = str(self.loaded.model.config.name_or_path)
        offered = {pane: info for pane, (_, info) in self.injection.offered.items()}
        return {
            "loaded": True,
            "quantization": self.loaded.quantization,
            "dtype": str(self.loaded.dtype).removeprefix("torch."),
            "device": self.loaded.device,
            "context": self.context,
            "base_bytes": int(self.loaded.model.get_memory_footprint()),
            "adapters": {pane: info.summary for pane, info in offered.items()},
            "families": {pane: info.family for pane, info in offered.items()},
            "strength": [pane for pane, info in offered.items() if has_strength(info)],
            "warnings": [text for info in offered.values() if (text := base_warning(info, name))],
            **memory,
        }

    def unload(self) -> None:
        """Forget base and adapters. The memory is surely back only when the process ends."""
        self.loaded, self.injection, self._key = None, None, None

    def answer(self, question: Question, emit: Emit, is_cancelled: Callable[[], bool]) -> dict[str, Any]:
        """Answer every pane ('base' or an adapter's name) of `question`. Raises PlayError before anything is computed."""
        began = time.perf_counter()
        loaded, _ = self.ready(list(question.conversations))
        prompts = {pane: self.encode(messages) for pane, messages in question.conversations.items()}
        streams = {pane: TextStream(loaded.tokenizer) for pane in prompts}

        def on_token(pane: str, token: int) -> None:
            if text := streams[pane].push(token):
                emit("token", {"pane": pane, "text": text})

        settings = Decoding(question.sampling, self.stop_ids(), self.context, on_token, is_cancelled)
        states: dict[str, PaneState] = {}
        passes = self._passes(prompts)
        for names in passes:
            emit("pass", {"panes": names})
            states |= {state.name: state for state in self._run(names, prompts, settings, question.strengths)}
            for pane in names:
                if rest := streams[pane].finish():
                    emit("token", {"pane": pane, "text": rest})
        answers = [asdict(_answer(states[pane], streams[pane].text, len(prompt))) for pane, prompt in prompts.items()]
        return {
            "panes": answers, "mixed_batch": len(passes) == 1 and len(prompts) > 1, "passes": passes,
            "apart": self._why_apart(passes), "prompt_tokens": max(map(len, prompts.values())), "seconds": time.perf_counter() - began,
        }  # fmt: skip

    def ready(self, panes: Sequence[str]) -> tuple[LoadedBase, Injection]:
        """The loaded base and its adapters, which know all of `panes`. Raises PlayError."""
        if self.loaded is None or self.injection is None:
            raise PlayError("No model is loaded.", "Pick a base model first.")
        unknown = [pane for pane in panes if pane != BASE and pane not in self.injection.offered]
        if unknown or not panes:
            raise PlayError(
                f"No such pane: {', '.join(unknown) or 'none was named'}.", f"There are: {', '.join([BASE, *self.injection.offered])}."
            )
        return self.loaded, self.injection

    def encode(self, messages: Sequence[Message]) -> list[int]:
        """Token ids of a conversation, which leave room for an answer. Raises PlayError, and ModelError for a template that fails."""
        if not any(str(message.get("content", "")).strip() for message in messages if message.get("role") == "user"):
            raise PlayError("The prompt is empty.", "Type what you would like to ask.")
        if not is_unicode("".join(str(message.get("content", "")) for message in messages)):
            raise PlayError("The prompt holds half of a character (a lone surrogate), which no model reads.", "Take it out.")
        ids = encode_prompt(self.loaded.tokenizer, messages)  # type: ignore[union-attr]
        over = len(ids) - self.context
        if over >= 0:
            raise PlayError(
                f"The prompt has {len(ids):,} tokens; the model reads {self.context:,}, "
                f"so it is {over + 1:,} too long to leave room for an answer.",
                "Shorten it, or start a new conversation.",
            )
        return ids

    @property
    def context(self) -> int:
        """How many tokens the loaded base reads."""
        return int(getattr(self.loaded.model.config, "max_position_embeddings", 0) or 1 << 20)  # type: ignore[union-attr]

    def stop_ids(self) -> frozenset[int]:
        """The tokens that end an answer."""
        configured = self.loaded.model.generation_config.eos_token_id  # type: ignore[union-attr]
        ids = configured if isinstance(configured, list) else [configured]
        return frozenset(token for token in [*ids, self.loaded.tokenizer.eos_token_id] if token is not None)  # type: ignore[union-attr]

    def _passes(self, prompts: Mapping[str, list[int]]) -> list[list[str]]:
        """Which panes share a batch: base and plain LoRA do, where prompts are equal or may differ; every other pane answers alone."""
        loaded, injection = self.ready(list(prompts))
        passes: list[list[str]] = []
        any_length = can_batch(loaded.model)
        for pane, prompt in prompts.items():
            beside = [names for names in passes if injection.mixes(names[0]) and (any_length or prompts[names[0]] == prompt)]
            if beside and injection.mixes(pane):
                beside[0].append(pane)
            else:
                passes.append([pane])
        return passes

    def _why_apart(self, passes: Sequence[Sequence[str]]) -> str:
        """Why there is more than one pass, as a sentence; empty where there is not."""
        mixing = sum(self.injection.mixes(names[0]) for names in passes)  # type: ignore[union-attr]
        reasons = ["Only the base and LoRA without DoRA share a batch exactly."] if len(passes) > 1 and mixing < len(passes) else []
        if mixing > 1:
            reasons.append("This model reads conversations that differ one by one: in one batch its answers would change.")
        return " ".join(reasons)

    def _run(
        self, names: list[str], prompts: Mapping[str, list[int]], settings: Decoding, strengths: Mapping[str, float]
    ) -> list[PaneState]:  # fmt: skip
        loaded, injection = self.ready(names)
        injection.hold(names)
        for name in names:
            if name != BASE:
                injection.set_strength(name, strengths.get(name, 1.0))
        return decode(loaded.model, [prompts[name] for name in names], injection.new_cache(names), names, injection.rows, settings)


def _answer(state: PaneState, text: str, prompt_tokens: int) -> PaneAnswer:
    return PaneAnswer(state.name, text, len(state.tokens), state.seconds, state.first_token_s, state.stopped_by, prompt_tokens)
