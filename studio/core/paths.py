"""The studio's home: the only place that spells a file name.

HOME (~/.peft-studio, or $PEFT_STUDIO_HOME, or --home)
├── models/NAME/          base models on disk: config.json, *.safetensors, tokenizer
├── data/                 starter.jsonl and uploads/
├── adapters/NAME/        adapters dropped in from elsewhere
├── cache/                what can be computed again
├── trash/                deleted runs, until emptied
├── studio.log, queue.lock, queue.json, playground.json
└── runs/ID/              one folder a run; its files are the truth about it
    ├── spec.json         what was asked for
    ├── environment.json  versions, device, data fingerprint, git state
    ├── notes.json        name, tags and notes, editable at any time
    ├── plan.json         planned parameters, memory, time
    ├── process.json      who works on it: pid and process start time
    ├── progress.json     phase, step, total; batches of an evaluation
    ├── metrics.jsonl     a line per log and per evaluation
    ├── votes.jsonl       which answers people found better than the base's
    ├── samples.jsonl     the sample prompts' answers at each evaluation
    ├── log.txt           all the child printed
    ├── stop              its presence asks the child to save and end
    ├── resume.json       which checkpoint to go on from, and what the run was before
    ├── result.json       how it ended
    ├── adapter/          the result, in PEFT's own format
    ├── snapshots/        the adapter at a few steps, for the spectra's growth
    └── checkpoints/      to resume from
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from studio.core.errors import RunNotFound, SetupError

ASSETS = Path(__file__).resolve().parents[2] / "assets"
RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,119}")


@dataclass(frozen=True)
class RunPaths:
    """Every file of one run."""

    folder: Path

    @property
    def id(self) -> str:
        return self.folder.name

    @property
    def spec(self) -> Path:
        return self.folder / "spec.json"

    @property
    def environment(self) -> Path:
        return self.folder / "environment.json"

    @property
    def notes(self) -> Path:
        return self.folder / "notes.json"

    @property
    def plan(self) -> Path:
        return self.folder / "plan.json"

    @property
    def process(self) -> Path:
        return self.folder / "process.json"

    @property
    def progress(self) -> Path:
        return self.folder / "progress.json"

    @property
    def metrics(self) -> Path:
        return self.folder / "metrics.jsonl"

    @property
    def samples(self) -> Path:
        return self.folder / "samples.jsonl"

    @property
    def votes(self) -> Path:
        return self.folder / "votes.jsonl"

    @property
    def log(self) -> Path:
        return self.folder / "log.txt"

    @property
    def stop(self) -> Path:
        return self.folder / "stop"

    @property
    def resume(self) -> Path:
        return self.folder / "resume.json"

    @property
    def result(self) -> Path:
        return self.folder / "result.json"

    @property
    def adapter(self) -> Path:
        return self.folder / "adapter"

    @property
    def snapshots(self) -> Path:
        return self.folder / "snapshots"

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"


@dataclass(frozen=True)
class StudioHome:
    """Every file and folder of one home."""

    root: Path

    @classmethod
    def find(cls, home: str | Path | None = None) -> StudioHome:
        """The home named, else $PEFT_STUDIO_HOME, else ~/.peft-studio; made when missing. Raises SetupError."""
        root = Path(home or os.environ.get("PEFT_STUDIO_HOME") or Path.home() / ".peft-studio").expanduser().resolve()
        try:
            (root / "runs").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SetupError(f"The studio's home {root} cannot be made: {error.strerror}.", "Name another with --home.") from error
        if not os.access(root, os.W_OK):
            raise SetupError(f"The studio's home {root} cannot be written to.", "Name another with --home.")
        return cls(root)

    @property
    def runs(self) -> Path:
        return self.root / "runs"

    @property
    def models(self) -> Path:
        return self.root / "models"

    @property
    def starter_model(self) -> Path:
        return self.models / "SmolLM2-135M-Instruct"

    @property
    def data(self) -> Path:
        return self.root / "data"

    @property
    def starter_data(self) -> Path:
        return self.data / "starter.jsonl"

    @property
    def uploads(self) -> Path:
        return self.data / "uploads"

    @property
    def adapters(self) -> Path:
        return self.root / "adapters"

    @property
    def cache(self) -> Path:
        return self.root / "cache"

    @property
    def trash(self) -> Path:
        return self.root / "trash"

    @property
    def log(self) -> Path:
        return self.root / "studio.log"

    @property
    def queue_lock(self) -> Path:
        return self.root / "queue.lock"

    @property
    def queue(self) -> Path:
        """The order in which waiting runs start, where a person changed it."""
        return self.root / "queue.json"

    @property
    def playground(self) -> Path:
        """Who holds the playground's model, so that a run of any studio on this home can free its memory first."""
        return self.root / "playground.json"

    def run(self, run_id: str) -> RunPaths:
        """The paths of a run that exists. Raises RunNotFound, also for a name that is no run id ('../x')."""
        folder = self.runs / run_id
        if not RUN_ID.fullmatch(run_id) or not (folder / "spec.json").is_file():
            raise RunNotFound(f"There is no run {run_id!r} in {self.root}.", "`python -m studio runs` lists those there are.")
        return RunPaths(folder)
