"""The playground's child process: `python -m studio.play --home HOME` speaks studio.core.protocol.

load      {model, quantization, adapters: {name: folder}, beside: {pane: quantization}}   -> what is loaded
generate  {panes, messages or prompt or conversations: {pane: messages}, sampling, strength: 0..2, load: {...}}
                                                                -> events 'loaded', 'pass' {panes}, 'token' {pane, text}, then answers
render    {messages, load: {...}}                               -> the prompt as text and tokens
inspect   {messages, text, panes, strength, load: {...}}         -> the text's tokens as each pane sees them
unload    {}                                                    -> {}

`beside` names panes that are the bare base held in another way, as copies in memory beside the first, which carries the adapters.
`strength` scales what every adapter adds that has a strength; the answer says which.
`load` inside another request makes sure of the model within that request, so that nobody else's load can come between the two.
"""

from __future__ import annotations

import argparse
import os
from typing import Any

import psutil

from studio.core.files import write_json
from studio.core.paths import StudioHome
from studio.core.protocol import Call, Handler, serve
from studio.core.spec import ModelSpec


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", required=True)
    home = StudioHome.find(parser.parse_args().home)
    # A run that starts frees this process's memory first; it finds it here.
    write_json(home.playground, {"pid": os.getpid(), "started": psutil.Process().create_time()})
    serve(Verbs(home).handlers())


class Verbs:
    """The verbs. The models, and with them torch, are imported by the first call that needs them."""

    def __init__(self, home: StudioHome) -> None:
        self.home = home
        self._copies: Any = None

    def handlers(self) -> dict[str, Handler]:
        return {"load": self.load, "generate": self.generate, "render": self.render, "inspect": self.inspect, "unload": self.unload}

    @property
    def copies(self) -> Any:
        if self._copies is None:
            from studio.play.copies import Copies

            self._copies = Copies(self.home)
        return self._copies

    def load(self, call: Call) -> dict[str, Any]:
        return self._load(call.args)

    def generate(self, call: Call) -> dict[str, Any]:
        from studio.core.sampling import Sampling
        from studio.play.engine import Question

        sampling = Sampling.parse(call.args.get("sampling") or {})
        conversations = call.args.get("conversations") or {pane: _messages(call.args) for pane in call.args["panes"]}
        self._ensure_loaded(call)
        strengths = self._strengths(call)
        done = self.copies.answer(Question(conversations, sampling, strengths), call.emit, call.cancelled.is_set)
        return {**done, "strengths": strengths}

    def render(self, call: Call) -> dict[str, Any]:
        from studio.play.rendering import render_tokens

        self._ensure_loaded(call)
        return render_tokens(self.copies.first, _messages(call.args))

    def inspect(self, call: Call) -> dict[str, Any]:
        from studio.play.closer import look_closer

        self._ensure_loaded(call)
        return look_closer(self.copies, _messages(call.args), str(call.args["text"]), call.args["panes"], self._strengths(call))

    def unload(self, call: Call) -> dict[str, Any]:
        self.copies.unload()
        return {}

    def _strengths(self, call: Call) -> dict[str, float]:
        """The one strength asked for, for every adapter that has one."""
        value = call.args.get("strength")
        return dict.fromkeys(self.copies.first.describe().get("strength", ()), 1.0 if value is None else float(value))

    def _load(self, args: dict[str, Any]) -> dict[str, Any]:
        model = ModelSpec.model_validate(args.get("model") or {})
        return self.copies.load(model, args.get("quantization") or "none", args.get("adapters") or {}, args.get("beside") or {})

    def _ensure_loaded(self, call: Call) -> None:
        if call.args.get("load"):
            call.emit("loaded", self._load(call.args["load"]))


def _messages(args: dict[str, Any]) -> list[dict[str, Any]]:
    return args.get("messages") or [{"role": "user", "content": str(args.get("prompt", ""))}]


if __name__ == "__main__":
    main()
