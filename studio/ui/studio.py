"""What the pages share: the home, this machine, the worker processes. One object a server; it holds no run's state."""

from __future__ import annotations

import atexit
import functools
from pathlib import Path

from studio.core.catalog import BASE_MODELS, DATASETS
from studio.core.errors import RunError
from studio.core.paths import StudioHome
from studio.jobs.worker import Worker
from studio.models.hardware import Hardware, detect_hardware
from studio.ui.play_room import PlayRoom


class Studio:
    """The server's services. Workers start when first used and die with the server."""

    def __init__(self, home: StudioHome) -> None:
        self.home = home
        arguments = ["--home", str(home.root)]
        self.data = Worker("studio.data", home.root / "logs" / "data.log", arguments=arguments)
        self.play = Worker("studio.play", home.root / "logs" / "play.log", arguments=arguments)
        # Finding code in answers must not wait behind running it.
        self.code = Worker("studio.play.runner", home.root / "logs" / "code.log")
        self.runner = Worker("studio.play.runner", home.root / "logs" / "runner.log")
        self.play_room = PlayRoom(self.play)
        self.calibrating = False
        """A page is having a model rounded: the memory is not to be shared meanwhile."""
        self.analysis = Worker("studio.analysis", home.root / "logs" / "analysis.log", arguments=arguments)
        atexit.register(self.close)

    def refuse_while_calibrating(self) -> None:
        """Raises RunError while a page is having a model rounded."""
        if self.calibrating:
            raise RunError("A model is being rounded with calibration and needs the memory.", "Wait until it is done.")

    @functools.cached_property
    def hardware(self) -> Hardware:
        return detect_hardware()

    def close(self) -> None:
        self.play_room.close()
        for worker in (self.data, self.play, self.code, self.runner, self.analysis):
            worker.close(grace_s=0.5)

    def model_choices(self) -> list[tuple[str, str]]:
        """Starter first, then what is on disk, then the catalog's hub models."""
        starter, *others = BASE_MODELS
        local = [
            (f"{path.name} (on disk)", str(path))
            for path in sorted(self.home.models.glob("*"))
            if path != self.home.starter_model and path.name[0] != "." and ((path / "config.json").is_file() or path.suffix == ".gguf")
        ]
        return [(starter.title, starter.id), *local, *[(f"{model.title} (hub)", model.id) for model in others]]

    def dataset_choices(self) -> list[tuple[str, str]]:
        uploads = [(f"{path.name} (uploaded)", str(path)) for path in sorted(self.home.uploads.glob("*")) if path.is_file()]
        starter, *others = DATASETS
        return [(starter.title, starter.id), *uploads, *[(f"{data.title} (hub)", data.id) for data in others]]

    def save_upload(self, path: str) -> Path:
        """Copy an uploaded file into the home under a free name. Returns its new path."""
        return copy_upload(Path(path), self.home.uploads)


def copy_upload(source: Path, folder: Path) -> Path:
    """Copy without following links; 'rows.csv', then 'rows-2.csv', never over another file."""
    folder.mkdir(parents=True, exist_ok=True)
    content = source.read_bytes()
    for number in range(1, 10_000):
        target = folder / (source.name if number == 1 else f"{source.stem}-{number}{source.suffix}")
        if target.is_file() and target.read_bytes() == content:
            return target
        try:
            with target.open("xb") as file:
                file.write(content)
        except FileExistsError:
            continue
        return target
    raise FileExistsError(source.name)
