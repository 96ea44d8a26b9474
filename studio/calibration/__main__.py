"""The calibration worker: `python -m studio.calibration [--home HOME]` speaks studio.core.protocol and answers `calibrate`.

calibrate, args {"model": ModelSpec, "data": DataSpec, "rows", "out": path or ""}: events "progress" [share, phrase]; done with
{"path", and what calibration.json holds}. Cancelling ends it before the next layer and leaves nothing behind; what
one that was killed leaves is removed by the next to the same place.
"""

from __future__ import annotations

import argparse
from typing import Any

from pydantic import ValidationError

from studio.core.errors import RunError, SpecError
from studio.core.paths import StudioHome
from studio.core.protocol import Call, serve
from studio.core.spec import DataSpec, ModelSpec


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m studio.calibration", description="The studio's calibration worker.")
    parser.add_argument("--home", default=None, help="the studio's home")
    home = StudioHome.find(parser.parse_args().home)
    serve({"calibrate": lambda call: calibrate(home, call)})


def calibrate(home: StudioHome, call: Call) -> dict[str, Any]:
    from studio.models.quiet import quiet_libraries
    from studio.train.process import wait_asleep

    wait_asleep()
    quiet_libraries()
    from studio.calibration import calibrate as room

    def report(share: float, phrase: str) -> None:
        if call.cancelled.is_set():
            raise RunError("Calibrating was cancelled.")
        call.emit("progress", [share, phrase])

    try:
        model, data = ModelSpec.model_validate(call.args.get("model") or {}), DataSpec.model_validate(call.args.get("data") or {})
    except ValidationError as error:
        raise SpecError([f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors()]) from error
    spec = room.calibration_spec(model, data, int(call.args.get("rows") or room.ROWS))
    target = room.target_folder(spec, home, str(call.args.get("out") or ""))
    return {"path": str(target), **room.calibrate(spec, home, target, report)}


if __name__ == "__main__":
    main()
