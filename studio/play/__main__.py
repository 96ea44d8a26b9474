"""The playground's child process: `python -m studio.play --home HOME` speaks studio.core.protocol.

load      {model, quantization, adapters: {name: folder}}          -> what is loaded
generate  {panes, messages or prompt, sampling}                    -> events 'token' {pane, text}, then answers
unload    {}                                                       -> {}
"""

from __future__ import annotations

import argparse
import os
from typing import Any

import psutil

from studio.core.files import write_json
from studio.core.paths import StudioHome
from studio.core.protocol import Call, serve
from studio.core.spec import ModelSpec


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", required=True)
    home = StudioHome.find(parser.parse_args().home)
    # A run that starts frees this process's memory first; it finds it here.
    write_json(home.playground, {"pid": os.getpid(), "started": psutil.Process().create_time()})
    serve(handlers(home))


def handlers(home: StudioHome) -> dict[str, Any]:
    """The verbs. The engine, and with it torch, is imported by the first call that needs it."""
    engines: list[Any] = []

    def engine() -> Any:
        if not engines:
            from studio.play.engine import Engine

            engines.append(Engine(home))
        return engines[0]

    def load(call: Call) -> dict[str, Any]:
        model = ModelSpec.model_validate(call.args.get("model") or {})
        return engine().load(model, call.args.get("quantization") or "none", call.args.get("adapters") or {})

    def generate(call: Call) -> dict[str, Any]:
        from studio.play.sampling import Sampling

        messages = call.args.get("messages") or [{"role": "user", "content": str(call.args.get("prompt", ""))}]
        sampling = Sampling.parse(call.args.get("sampling") or {})
        return engine().answer(
            call.args["panes"], messages, sampling, lambda pane, text: call.emit("token", {"pane": pane, "text": text}), call.cancelled.is_set
        )

    def unload(call: Call) -> dict[str, Any]:
        engine().unload()
        return {}

    return {"load": load, "generate": generate, "unload": unload}


if __name__ == "__main__":
    main()
