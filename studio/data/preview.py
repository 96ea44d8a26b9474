"""What the Train tab shows of a dataset before a run: first rows, layout, counts, lengths in tokens, one sample as the model will see it.

A dataset whose columns are not understood, or with a broken row further down, still shows its first rows and all its columns, with the
problem beside them, so that it can be corrected. So does one whose model's tokenizer cannot be loaded, without the tokens.

Lengths are measured on at most MEASURED_ROWS training rows, `measured` says on how many.

Does not know: where it is shown. DataPreview is plain data and travels as JSON.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from studio.core.errors import DataError, StudioError
from studio.core.paths import StudioHome
from studio.core.spec import DataSpec, ModelSpec, TrainingSpec
from studio.data.counts import count_rows
from studio.data.detect import detect_layout
from studio.data.examples import Example
from studio.data.format import NOT_TRAINED, Encoded, encode_examples, label_row, tokenize_examples
from studio.data.load import LoadedData, first_rows, load_data
from studio.data.read import find_files
from studio.data.source import open_source
from studio.models.sizes import DataSize

SHOWN_ROWS = 5
SHOWN_CHARACTERS = 1000
SHOWN_TOKENS = 2000
MEASURED_ROWS = 3000
PROMPTS = 3
PROMPT_CHARACTERS = 400
BINS = 24

Report = Callable[[str], None]


@dataclass(frozen=True)
class LengthHistogram:
    """Examples by length in tokens: bin i holds lengths from edges[i] to below edges[i + 1]."""

    edges: list[int]
    counts: list[int]
    mean: float
    median: int
    longest: int


@dataclass(frozen=True)
class DataPreview:
    """`rows` are the first ones, long texts shortened; `columns` maps roles to columns, `all_columns` are those there are. `counts` are
    those of count_rows, estimated where only a part was measured; `size` is a DataSize's JSON, for the plan. `sample` is the first
    training example as [text, trained on] per token, `prompt` the text the playground sends for it. A `problem` is StudioError.to_json()
    of what kept the rest from being known."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    all_columns: list[str] = field(default_factory=list)
    format: str = ""
    columns: dict[str, str] = field(default_factory=dict)
    counts: dict[str, Any] = field(default_factory=dict)
    fingerprint: str = ""
    measured: int = 0
    lengths: LengthHistogram | None = None
    size: dict[str, Any] | None = None
    sample: list[tuple[str, bool]] = field(default_factory=list)
    sample_place: str = ""
    held_out_prompts: list[str] = field(default_factory=list)
    """A few whole prompts of held-out examples, to watch a run by."""
    prompt: str = ""
    problem: dict[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> DataPreview:
        lengths = data.get("lengths")
        sample = [(str(text), bool(trained)) for text, trained in data.get("sample", [])]
        return cls(**{**data, "lengths": LengthHistogram(**lengths) if lengths else None, "sample": sample})


class Previewer:
    """Makes previews and keeps the last dataset and tokenizer, so that a changed setting answers at once."""

    def __init__(self, home: StudioHome, load_tokenizer: Callable[[ModelSpec], Any]) -> None:
        self.home = home
        self._load_tokenizer = load_tokenizer
        self._tokenizer: tuple[ModelSpec, Any] | None = None
        self._data: tuple[Any, LoadedData] | None = None

    def preview(self, data: DataSpec, model: ModelSpec, training: TrainingSpec, report: Report) -> DataPreview:
        """Raises DataError where there is not even a first row to show; every other StudioError becomes the preview's problem."""
        source = open_source(data, self.home, report)
        shown = first_rows(source)
        found = list(dict.fromkeys(name for row in shown for name in row))
        known: dict[str, Any] = {"rows": [shorten(row) for row in shown[:SHOWN_ROWS]], "all_columns": found}
        try:
            layout = detect_layout(shown, data)
            known |= {"format": layout.format, "columns": layout.columns}
            report("Reading the dataset")
            loaded = self._loaded(data, report)
            known |= {"fingerprint": loaded.fingerprint, "counts": loaded.report.to_json()}
            known |= {"held_out_prompts": choose_prompts(loaded.held_out)}
            report("Loading the tokenizer")
            known |= describe_tokens(loaded, self._tokenizer_of(model), training)
        except StudioError as error:
            if not shown:
                raise
            return DataPreview(**known, problem=error.to_json())
        return DataPreview(**known)

    def _loaded(self, spec: DataSpec, report: Report) -> LoadedData:
        key = (spec.model_dump_json(), _state(spec.source))
        if self._data is None or self._data[0] != key:
            self._data = None
            self._data = (key, load_data(spec, self.home, report))
        return self._data[1]

    def _tokenizer_of(self, model: ModelSpec) -> Any:
        if self._tokenizer is None or self._tokenizer[0] != model:
            self._tokenizer = (model, self._load_tokenizer(model))
        return self._tokenizer[1]


def _state(source: str) -> list[tuple[str, int, int]]:
    """Name, size and time of the files a path stands for: an edited file is read anew."""
    path = Path(source).expanduser()
    if not path.exists():
        return []
    stats = [(file, file.stat()) for files in find_files(path).values() for file in files]
    return [(file.name, stat.st_size, stat.st_mtime_ns) for file, stat in stats]


def describe_tokens(loaded: LoadedData, tokenizer: Any, training: TrainingSpec) -> dict[str, Any]:
    """The fields of a DataPreview that need the model's tokenizer."""
    measured = loaded.train[:MEASURED_ROWS]
    encoded = encode_examples(measured, tokenizer, training)
    held_out = encode_examples(loaded.held_out[:MEASURED_ROWS], tokenizer, training)
    size = _size(loaded, encoded, held_out)
    example = _shown_example(measured, encoded.lengths, training.max_length)
    return {
        "counts": count_rows(loaded.report, encoded, held_out) | {"train": size.rows, "held_out": size.held_out_rows},
        "measured": len(measured),
        "lengths": measure_lengths(encoded.lengths),
        "size": size.to_json() if encoded.rows else None,
        "sample": show_tokens(example, tokenizer, training),
        "sample_place": example.place,
        "prompt": show_prompt(example, tokenizer),
        "problem": _too_long(encoded, held_out, training.max_length),
    }


def _size(loaded: LoadedData, encoded: Encoded, held_out: Encoded) -> DataSize:
    """What a plan needs: the rows that are left of all, going by the first that were measured, and the lengths of those."""
    lengths = [len(row.ids) for row in encoded.rows] or [0]
    measured = len(encoded.lengths)
    labelled = sum(label != NOT_TRAINED for row in encoded.rows for label in row.labels)
    return DataSize(
        rows=round(len(loaded.train) * len(encoded.rows) / measured),
        held_out_rows=round(len(loaded.held_out) * len(held_out.rows) / len(held_out.lengths)),
        mean_tokens=sum(lengths) / len(lengths),
        longest_tokens=max(lengths),
        labelled_share=labelled / max(1, sum(lengths)),
        source="measured" if measured == len(loaded.train) else f"measured on the first {measured:,}",
    )


def _shown_example(examples: list[Example], lengths: list[int], max_length: int) -> Example:
    """The first that fits; where none does, the shortest."""
    limit = max(max_length, min(lengths))
    return next(example for example, length in zip(examples, lengths, strict=True) if length <= limit)


def _too_long(encoded: Encoded, held_out: Encoded, max_length: int) -> dict[str, Any] | None:
    """The problem of data nothing of which is left to train on, or to evaluate on; None where there is none."""
    if encoded.rows and held_out.rows:
        return None
    which = f"{len(held_out.lengths):,} held-out examples" if encoded.rows else f"{len(encoded.lengths):,} examples"
    advice = "Raise training.max_length, or set training.too_long to cut."
    return DataError(f"None of the {which} is left within {max_length} tokens.", advice).to_json()


def measure_lengths(lengths: list[int]) -> LengthHistogram:
    """At most BINS equally wide bins from 0 to the longest. `lengths` holds one number or more."""
    ordered = sorted(lengths)
    width = max(1, -(-(ordered[-1] + 1) // BINS))
    bins = ordered[-1] // width + 1
    counts = [0] * bins
    for length in ordered:
        counts[length // width] += 1
    edges = [width * index for index in range(bins + 1)]
    return LengthHistogram(edges, counts, sum(ordered) / len(ordered), ordered[len(ordered) // 2], ordered[-1])


def show_tokens(example: Example, tokenizer: Any, training: TrainingSpec) -> list[tuple[str, bool]]:
    """The example's tokens as text, each with whether it is trained on. Tokens that share one character are shown as one."""
    ids, labelled = next(tokenize_examples([example], tokenizer))
    labels = label_row(ids, labelled, training.loss_on).labels
    shown: list[tuple[str, bool]] = []
    waiting: list[int] = []
    for place, token in enumerate(ids[: min(SHOWN_TOKENS, training.max_length)]):
        waiting.append(token)
        text = tokenizer.decode(waiting, clean_up_tokenization_spaces=False)
        if not text.endswith("\ufffd"):
            shown.append((text, labels[place] == token))
            waiting = []
    return shown


def choose_prompts(examples: list[Example]) -> list[str]:
    """The prompts of the first PROMPTS held-out examples of one question and one answer, none longer than PROMPT_CHARACTERS."""
    turns = ([turn for turn in example.messages or [] if turn["role"] != "system"] for example in examples)
    prompts = (pair[0]["content"] for pair in turns if len(pair) == 2 and len(pair[0]["content"]) <= PROMPT_CHARACTERS)
    return list(islice(prompts, PROMPTS))


def show_prompt(example: Example, tokenizer: Any) -> str:
    """The prompt before the example's last answer, as the playground sends it; empty for plain text."""
    from studio.models.chat import render_prompt

    return render_prompt(tokenizer, example.messages[:-1]) if example.messages else ""


def shorten(value: Any) -> Any:
    """A cell as JSON can carry it, long texts shortened."""
    if isinstance(value, dict):
        return {str(key): shorten(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [shorten(item) for item in value[:SHOWN_ROWS]]
    if isinstance(value, str):
        return value if len(value) <= SHOWN_CHARACTERS else value[:SHOWN_CHARACTERS] + "…"
    return (
        value if value is None or isinstance(value, (bool, int)) or (isinstance(value, float) and value == value) else shorten(str(value))
    )
