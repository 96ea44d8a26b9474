"""GGUF files: their header read with plain Python, and their conversion, once, into a folder every other part can load.

A GGUF is converted to safetensors before anything else touches it: bitsandbytes cannot quantize a model that is read from a GGUF,
and unpacking takes longer than reading. The header (metadata and the tensors' names, shapes and types) is parsed here because the
plan needs it without torch and at once. What is not known here: the weights' meaning, which transformers maps per architecture.
Source: the format's specification, version 3, https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import math
import shutil
import struct
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from studio.core.errors import ModelError, StudioError, from_os_error
from studio.core.files import open_to_all, read_json, write_json
from studio.core.paths import StudioHome

STAMP = "converted.json"
"""Written last into a converted folder: where it came from, and every file's size."""

# Value types of the format, by their number there; 8 is a string, 9 an array.
_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_F32, _F16, _BF16 = 0, 1, 30

# llama.cpp's pre-tokenizers that split digits one by one; transformers' reader knows the name and not the rule, and without it the
# space before a number sticks to the number instead of to the indentation.
_SINGLE_DIGITS = ("smollm", "starcoder", "refact")


@dataclass(frozen=True)
class GgufHeader:
    """Metadata by key (an array's length instead of its values), and each tensor's shape and type number."""

    metadata: dict[str, Any]
    tensors: dict[str, tuple[tuple[int, ...], int]]

    @property
    def architecture(self) -> str:
        return str(self.metadata.get("general.architecture", ""))

    @property
    def dtype(self) -> str:
        """The torch dtype that holds these weights without waste: that of the file, or bfloat16 for quantized ones."""
        sizes: Counter[int] = Counter()
        for shape, kind in self.tensors.values():
            sizes[kind] += math.prod(shape)
        most = max(sizes, key=lambda kind: sizes[kind], default=_BF16)
        return {_F32: "float32", _F16: "float16"}.get(most, "bfloat16")


def read_header(path: Path) -> GgufHeader:
    """The header of a GGUF file. Raises ModelError for a file that is none, or is cut short."""
    try:
        with path.open("rb") as file:
            return _parse_header(file, path.stat().st_size)
    except OSError as error:
        raise from_os_error(error, f"reading {path.name}") from error
    except (struct.error, ValueError, KeyError) as error:
        raise ModelError(f"{path.name} is not a GGUF file this studio can read, or is cut short.", "Fetch the file again.") from error


def _parse_header(file: BinaryIO, size: int) -> GgufHeader:
    magic, version, tensor_count, key_count = struct.unpack("<4sIQQ", file.read(24))
    if magic != b"GGUF" or version not in (2, 3) or max(tensor_count, key_count) > size:
        raise ValueError("no GGUF header")
    metadata = {}
    for _ in range(key_count):
        key = _read_string(file, size)
        metadata[key] = _read_value(file, _read_scalar(file, "<I"), size)
    tensors = {}
    for _ in range(tensor_count):
        name = _read_string(file, size)
        dims = _read_scalar(file, "<I")
        shape = tuple(_read_scalar(file, "<Q") for _ in range(min(dims, 8)))
        tensors[name] = (shape, _read_scalar(file, "<I"))
        _read_scalar(file, "<Q")
    return GgufHeader(metadata, tensors)


def _read_scalar(file: BinaryIO, code: str) -> Any:
    return struct.unpack(code, file.read(struct.calcsize(code)))[0]


def _read_string(file: BinaryIO, size: int) -> str:
    length = _read_scalar(file, "<Q")
    if length > size:
        raise ValueError("a string longer than the file")
    return file.read(length).decode("utf-8", errors="replace")


def _read_value(file: BinaryIO, kind: int, size: int) -> Any:
    if kind == 8:
        return _read_string(file, size)
    if kind != 9:
        return _read_scalar(file, _SCALARS[kind])
    item, count = _read_scalar(file, "<I"), _read_scalar(file, "<Q")
    if count > size:
        raise ValueError("an array longer than the file")
    if item in (8, 9):
        for _ in range(count):
            _read_value(file, item, size)
    else:
        file.seek(struct.calcsize(_SCALARS[item]) * count, 1)
    return count


def find_gguf(path: Path) -> Path | None:
    """The GGUF file that `path` is or, for a folder without safetensors, holds. Raises ModelError where the folder holds several."""
    if path.is_file():
        return path if path.suffix.lower() == ".gguf" else None
    if not path.is_dir() or any(path.glob("*.safetensors")):
        return None
    found = sorted(path.glob("*.gguf"))
    if len(found) > 1:
        names = ", ".join(file.name for file in found[:5])
        raise ModelError(f"{path} holds several GGUF files: {names}.", "Name the one you mean, with its file name.")
    return found[0] if found else None


def converted_folder(gguf: Path, home: StudioHome) -> Path:
    """Where the conversion of this very file (path, size, time of change) is kept in the home."""
    stat = gguf.stat()
    key = hashlib.sha256(f"{gguf.resolve()}|{stat.st_size}|{stat.st_mtime_ns}".encode()).hexdigest()[:12]
    return home.cache / "gguf" / f"{gguf.stem}-{key}"


def convert_cached(gguf: Path, home: StudioHome) -> Path:
    """The folder this GGUF was converted to, converting it on first use; a second process waits for the first."""
    folder = converted_folder(gguf, home)
    with locked(folder):
        if not is_complete(folder):
            convert(gguf, folder, {"source": gguf.name})
    return folder


def locked(folder: Path) -> Any:
    """A lock over processes for building `folder`."""
    from filelock import FileLock

    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        return FileLock(folder.parent / f".{folder.name}.lock")
    except OSError as error:
        raise from_os_error(error, "preparing the model's folder") from error


def is_complete(folder: Path) -> bool:
    """Whether a conversion ended here and every file still has the size it had."""
    stamp = read_json(folder / STAMP)
    files = stamp.get("files") if stamp else None
    if not isinstance(files, dict) or not files:
        return False
    return all((folder / name).is_file() and (folder / name).stat().st_size == size for name, size in files.items())


def convert(gguf: Path, folder: Path, stamp: dict[str, Any], finish: Callable[[Any, Any, Path], None] | None = None) -> None:
    """Read `gguf` with transformers and save it as safetensors with tokenizer, chat template and generation config.

    Built in a folder beside and renamed at the end, so `folder` is whole or absent; call it under `locked(folder)`.
    `finish(model, tokenizer, part)` may correct what a GGUF does not say, before anything is saved, and write more files into `part`.
    Raises ModelError for an architecture transformers cannot read, DiskFull.
    """
    header = read_header(gguf)
    for left in folder.parent.glob(f".{folder.name}.*.part"):
        shutil.rmtree(left, ignore_errors=True)
    try:
        part = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.", suffix=".part"))
        try:
            _save(gguf, header, part, finish)
            files = {path.relative_to(part).as_posix(): path.stat().st_size for path in sorted(part.rglob("*")) if path.is_file()}
            write_json(part / STAMP, {**stamp, "dtype": header.dtype, "files": files})
            open_to_all(part)
            if folder.exists():
                shutil.rmtree(folder)
            part.rename(folder)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    except OSError as error:
        raise from_os_error(error, f"converting {gguf.name}") from error


def _save(gguf: Path, header: GgufHeader, part: Path, finish: Callable[[Any, Any, Path], None] | None) -> None:
    model, tokenizer = _read(gguf, header)
    if finish:
        finish(model, tokenizer, part)
    model.save_pretrained(part)
    tokenizer.save_pretrained(part)


def _read(gguf: Path, header: GgufHeader) -> tuple[Any, Any]:
    import torch
    import transformers

    from studio.models.quiet import quiet_libraries

    quiet_libraries()
    options: dict[str, Any] = {"gguf_file": gguf.name, "dtype": getattr(torch, header.dtype)}
    if hasattr(transformers, "GgufConfig"):  # newer releases keep the weights packed unless asked not to
        options["quantization_config"] = transformers.GgufConfig(dequantize=True)
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        with contextlib.redirect_stderr(io.StringIO()):  # its progress bar cannot be turned off
            model: Any = transformers.AutoModelForCausalLM.from_pretrained(gguf.parent, **options)
    except StudioError:
        raise
    except (ValueError, NotImplementedError, KeyError) as error:
        raise ModelError(
            f"{gguf.name} (architecture {header.architecture or 'unknown'}) cannot be read: {error}".rstrip(".") + ".",
            "Choose the model's safetensors version, or a GGUF of a Llama, Mistral, Qwen, Phi or Gemma model.",
        ) from error
    for name in ("quantization_config", "_model_name_or_path"):
        if hasattr(model.config, name):
            delattr(model.config, name)
    _restore_digits(tokenizer, header)
    return model, tokenizer


def _restore_digits(tokenizer: Any, header: GgufHeader) -> None:
    if header.metadata.get("tokenizer.ggml.pre") not in _SINGLE_DIGITS:
        return
    from tokenizers import pre_tokenizers

    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)]
    )
