"""One base model in memory and the adapters that may answer on it.

Honesty is the point of this file. The base pane is the base: it runs either as the rows of a mixed batch that name no adapter
(PEFT's `__base__`), or with every adapter disabled, or with none injected at all. LoRA answers share one batch with the base, which
PEFT's mixed batches do exactly; tuners that ignore `adapter_names` without a word (all others, and DoRA) get a pass of their own, with
the same prompt and seed. One lock would be needed if requests overlapped; the protocol answers them one by one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from studio.core.errors import PlayError
from studio.core.paths import StudioHome
from studio.core.spec import ModelSpec, RunSpec
from studio.methods.adapters import AdapterInfo, base_warning, describe_adapter, load_adapter
from studio.models.chat import Message, encode_prompt
from studio.models.load import LoadedBase, load_base
from studio.play.decode import Decoding, PaneState, decode
from studio.play.sampling import Sampling
from studio.play.stream import TextStream

BASE = "base"


@dataclass(frozen=True)
class PaneAnswer:
    """One pane's answer. stopped_by: end of answer, token limit, end of the context, or you."""

    pane: str
    text: str
    tokens: int
    seconds: float
    first_token_s: float
    stopped_by: str


class Engine:
    """The playground's model. `load` first, then `answer` any number of times."""

    def __init__(self, home: StudioHome) -> None:
        self.home = home
        self.loaded: LoadedBase | None = None
        self._key: tuple[str, str] | None = None
        self._model: Any = None
        self._family = ""
        self._adapters: dict[str, tuple[Path, AdapterInfo]] = {}

    def load(self, model: ModelSpec, quantization: str, adapters: dict[str, str]) -> dict[str, Any]:
        """Hold this base with exactly these adapters (name -> folder). A base that is already there stays. Returns what is loaded."""
        infos = {name: (Path(folder), describe_adapter(Path(folder))) for name, folder in adapters.items()}
        spec = RunSpec.parse({"model": {**model.model_dump(), "quantization": quantization}})
        key = (spec.model.model_dump_json(), quantization)
        if self._key != key:
            self.unload()
            self.loaded = load_base(spec, self.home)
            self._model, self._key = self.loaded.model, key
        changed = {name: folder for name, (folder, _) in self._adapters.items()} != {name: folder for name, (folder, _) in infos.items()}
        if changed:
            self._strip()
        self._adapters = infos
        for name, (_, info) in infos.items():
            self._hold(info.family, name)
        return self.describe()

    def describe(self) -> dict[str, Any]:
        """The base, its adapters and what to warn of, for the page."""
        if self.loaded is None:
            return {"loaded": False}
        name = str(self.loaded.model.config.name_or_path)
        return {
            "loaded": True,
            "quantization": self.loaded.quantization,
            "dtype": str(self.loaded.dtype).removeprefix("torch."),
            "context": self._context(),
            "adapters": {key: info.summary for key, (_, info) in self._adapters.items()},
            "warnings": [text for _, info in self._adapters.values() if (text := base_warning(info, name))],
        }

    def unload(self) -> None:
        """Forget base and adapters. The memory is surely back only when the process ends."""
        self._strip()
        self.loaded, self._model, self._key = None, None, None

    def answer(
        self, panes: Sequence[str], messages: Sequence[Message], sampling: Sampling,
        emit: Callable[[str, str], None], is_cancelled: Callable[[], bool],
    ) -> dict[str, Any]:  # fmt: skip
        """Answer `messages` in every pane ('base' or an adapter's name); `emit(pane, text)` as text comes. Raises PlayError."""
        if self.loaded is None:
            raise PlayError("No model is loaded.", "Pick a base model first.")
        unknown = [pane for pane in panes if pane != BASE and pane not in self._adapters]
        if unknown or not panes:
            raise PlayError(f"No such pane: {', '.join(unknown) or 'none was named'}.", f"There are: {', '.join([BASE, *self._adapters])}.")
        prompt = self._prompt(messages)
        streams = {pane: TextStream(self.loaded.tokenizer) for pane in panes}

        def on_token(pane: str, token: int) -> None:
            if text := streams[pane].push(token):
                emit(pane, text)

        settings = Decoding(sampling, self._stop_ids(), self._context(), on_token, is_cancelled)
        states: dict[str, PaneState] = {}
        passes = self._passes(panes)
        for names in passes:
            states |= {state.name: state for state in self._run(names, prompt, settings)}
        answers = []
        for pane in panes:
            if rest := streams[pane].finish():
                emit(pane, rest)
            state = states[pane]
            answers.append(asdict(PaneAnswer(pane, streams[pane].text, len(state.tokens), state.seconds, state.first_token_s, state.stopped_by)))
        return {"panes": answers, "prompt_tokens": len(prompt), "mixed_batch": len(passes) == 1 and len(panes) > 1, "passes": passes}

    def _prompt(self, messages: Sequence[Message]) -> list[int]:
        if not any(str(message.get("content", "")).strip() for message in messages if message.get("role") == "user"):
            raise PlayError("The prompt is empty.", "Type what you would like to ask.")
        ids = encode_prompt(self.loaded.tokenizer, messages)  # type: ignore[union-attr]
        over = len(ids) - self._context()
        if over >= 0:
            raise PlayError(
                f"The prompt has {len(ids):,} tokens; the model reads {self._context():,}, so it is {over + 1:,} too long to leave room for an answer.",
                "Shorten it, or start a new conversation.",
            )
        return ids

    def _context(self) -> int:
        return int(getattr(self.loaded.model.config, "max_position_embeddings", 0) or 1 << 20)  # type: ignore[union-attr]

    def _stop_ids(self) -> frozenset[int]:
        configured = self.loaded.model.generation_config.eos_token_id  # type: ignore[union-attr]
        ids = configured if isinstance(configured, list) else [configured]
        return frozenset(token for token in [*ids, self.loaded.tokenizer.eos_token_id] if token is not None)  # type: ignore[union-attr]

    def _passes(self, panes: Sequence[str]) -> list[list[str]]:
        """Which panes share a batch: base and plain LoRA do; every other adapter answers alone."""
        together = [pane for pane in panes if pane == BASE or _mixes(self._adapters[pane][1])]
        alone = [[pane] for pane in panes if pane not in together]
        return ([together] if together else []) + alone

    def _run(self, names: list[str], prompt: Sequence[int], settings: Decoding) -> list[PaneState]:
        from transformers import DynamicCache

        family = next((self._adapters[name][1].family for name in names if name != BASE), self._family)
        if family != self._family:
            self._hold_family(family)
        base = self.loaded.model  # type: ignore[union-attr]
        if family == "prefix" and names != [BASE]:
            self._model.set_adapter(names[0])
            cache = self._model.get_prompt(1)
        else:
            cache = DynamicCache(config=base.config)
        return decode(base, prompt, cache, names, self._rows, settings)

    @contextlib.contextmanager
    def _rows(self, names: Sequence[str]) -> Iterator[None]:
        """The injected modules answer as exactly `names`, row by row."""
        if not self._family:
            yield
        elif all(name == BASE for name in names):
            with self._model.disable_adapter():
                yield
        elif len(names) == 1:
            self._model.set_adapter(names[0])
            self._model.requires_grad_(False)
            yield
        else:
            rows = ["__base__" if name == BASE else name for name in names]
            with self._model.base_model._enable_peft_forward_hooks(adapter_names=rows):
                yield

    def _hold_family(self, family: str) -> None:
        self._strip()
        for name, (_, info) in self._adapters.items():
            if info.family == family:
                self._hold(family, name)

    def _hold(self, family: str, name: str) -> None:
        """Inject one adapter. PEFT holds one family at a time, so another family's adapters are taken out first."""
        if self._family not in ("", family):
            self._strip()
        if self._family and name in self._model.peft_config:
            return
        self._model = load_adapter(self._model, self._adapters[name][0], name)
        self._family = family

    def _strip(self) -> None:
        """Take every adapter out, so that the model is the base as it was loaded."""
        if self._family and self._family != "prefix":
            self._model.unload()
        if self.loaded is not None:
            self._model = self.loaded.model
        self._family = ""


def _mixes(info: AdapterInfo) -> bool:
    """PEFT answers mixed batches exactly for LoRA without DoRA; other tuners ignore the row's adapter without saying so."""
    return info.family == "lora" and not info.settings.get("use_dora")
