"""The dataset worker: `python -m studio.data [--home HOME]` speaks studio.core.protocol and answers the verb `preview`.

preview, args {"data": DataSpec, "model": ModelSpec, "training": TrainingSpec}, each as JSON, any of them empty for the defaults.
Emits event "progress" with a short phrase; done with DataPreview.to_json().
"""

from __future__ import annotations

import argparse
from functools import partial
from typing import Any

from pydantic import ValidationError

from studio.core.errors import DataError, SpecError
from studio.core.paths import StudioHome
from studio.core.protocol import Call, serve
from studio.core.spec import ModelSpec, RunSpec


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m studio.data", description="The studio's dataset worker.")
    parser.add_argument("--home", default=None, help="the studio's home")
    home = StudioHome.find(parser.parse_args().home)
    serve({"preview": make_handler(home)})


def make_handler(home: StudioHome) -> Any:
    """The verb's handler. Heavy imports wait until the first call, so that the worker answers its start at once."""
    from studio.data.measured import remember
    from studio.data.preview import Previewer

    previewer = Previewer(home, lambda model: _load_tokenizer(model, home))

    def preview(call: Call) -> dict[str, Any]:
        spec = _parse(call.args)
        try:
            found = previewer.preview(spec.data, spec.model, spec.training, partial(call.emit, "progress")).to_json()
        except DataError as error:
            remember(home, spec, {"problem": error.to_json()})
            raise
        remember(home, spec, found)
        return found

    return preview


def _parse(args: dict[str, Any]) -> RunSpec:
    try:
        return RunSpec.model_validate({part: args.get(part) or {} for part in ("data", "model", "training")})
    except ValidationError as error:
        raise SpecError([f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors()]) from error


def _load_tokenizer(model: ModelSpec, home: StudioHome) -> Any:
    from studio.models.load import load_tokenizer

    return load_tokenizer(model, home)


if __name__ == "__main__":
    main()
