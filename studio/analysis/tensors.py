"""Tensors of a model, read straight from its safetensors files without loading the model.

A safetensors file is an 8-byte little-endian header length, a JSON header {name: {dtype, shape, data_offsets}}, then raw
bytes. Each tensor is mapped on its own and the map is dropped after use, so memory stays bounded by one tensor, not by the
file. Pickled checkpoints are refused: reading one can run code.

What it does not know: fused expert tensors of three dimensions are listed but are not linear layers; a checkpoint that is
already quantized is refused for analysis because its numbers are codes, not weights.
Source: the safetensors format description (huggingface/safetensors README).
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from studio.core.errors import AnalysisError, ModelNotFound, from_os_error

FLOAT_DTYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),  # numpy has no bfloat16: its bits are the upper half of a float32
}
DTYPE_BYTES = {"F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2}  # others take 1
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
QUANTIZED_KEYS = (".absmax", ".quant_map", ".SCB", ".qweight", ".qzeros", ".weight_scale", ".weight_scale_inv", ".weight_packed")
TRANSPOSED_MODEL_TYPES = {"gpt2", "imagegpt", "openai-gpt", "decision_transformer", "ctrl"}  # Conv1D keeps (in, out)
MAX_HEADER_BYTES = 100_000_000
_NUMBERED = re.compile(r"^(?P<stack>.*?)\.?(?P<layer>\d+)\.(?P<module>.+)\.weight$")


@dataclass(frozen=True)
class TensorRef:
    """Where one tensor lies: file, first byte, dtype as safetensors spells it, shape. Nothing is read yet."""

    name: str
    file: Path
    offset_bytes: int
    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def size_bytes(self) -> int:
        return self.size * DTYPE_BYTES.get(self.dtype, 1)


@dataclass(frozen=True)
class LinearLayer:
    """One weight matrix (out, in) of a numbered layer. `module` is its path inside the layer, such as self_attn.q_proj."""

    name: str
    stack: str
    layer: int
    module: str
    tensor: TensorRef
    transposed: bool = False

    @property
    def shape(self) -> tuple[int, int]:
        rows, columns = self.tensor.shape
        return (columns, rows) if self.transposed else (rows, columns)


@dataclass(frozen=True)
class ModelDescription:
    """What the headers of a model folder say. Counts are of numbers stored in the files; sizes in bytes."""

    folder: str
    model_type: str
    layers: int
    modules: list[str]
    linear_layers: int
    parameters: int
    linear_parameters: int
    size_bytes: int
    dtypes: dict[str, int]
    files: list[str]
    largest_tensor: str
    largest_tensor_bytes: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class ModelFiles:
    """The tensors of a model folder by name, and its config.json (empty where there is none)."""

    folder: Path
    config: dict[str, Any]
    tensors: dict[str, TensorRef]

    @property
    def linear_layers(self) -> list[LinearLayer]:
        """Every two-dimensional weight of a numbered layer, ordered by stack, layer, then order in the file."""
        transposed = self.config.get("model_type") in TRANSPOSED_MODEL_TYPES
        found = (_as_linear(ref, transposed) for ref in self.tensors.values())
        return sorted((layer for layer in found if layer), key=lambda item: (item.stack, item.layer))

    def linear(self, layer: int, module: str) -> LinearLayer:
        """The one linear layer whose module path is, or ends in, `module` (q_proj, self_attn.q_proj). Errors: AnalysisError."""
        everything = self.linear_layers
        matching = [item for item in everything if item.layer == layer and _names(item, module)]
        if len(matching) == 1:
            return matching[0]
        if matching:
            names = ", ".join(item.name for item in matching[:6])
            raise AnalysisError(
                f"Layer {layer} has {len(matching)} modules called {module}: {names}.", "Give the whole name of one of them."
            )
        raise _no_such_linear(everything, layer, module)


def _names(item: LinearLayer, module: str) -> bool:
    return module in (item.name, f"{item.name}.weight", item.module) or item.module.endswith(f".{module}")


def _no_such_linear(everything: list[LinearLayer], layer: int, module: str) -> AnalysisError:
    if not everything:
        return AnalysisError("This model has no linear layers in numbered blocks.", "Choose a transformer language model.")
    layers = sorted({item.layer for item in everything})
    if layer not in layers:
        return AnalysisError(f"There is no layer {layer}.", f"Layers run from {layers[0]} to {layers[-1]}.")
    modules = sorted({item.module.rsplit(".", 1)[-1] for item in everything if item.layer == layer})
    return AnalysisError(f"Layer {layer} has no module {module}.", f"It has {', '.join(modules)}.")


def _as_linear(ref: TensorRef, transposed: bool) -> LinearLayer | None:
    match = _NUMBERED.match(ref.name)
    if match is None or len(ref.shape) != 2 or "embed" in match["module"] or match["module"].endswith("attention_bias"):
        return None
    name = ref.name.removesuffix(".weight")
    return LinearLayer(name, match["stack"], int(match["layer"]), match["module"], ref, transposed)


def read_header(file: Path) -> dict[str, TensorRef]:
    """The tensors that one safetensors file holds. Errors: AnalysisError for a torn, foreign or pickled file."""
    if file.suffix in PICKLE_SUFFIXES:
        raise AnalysisError(f"{file.name} is a pickled checkpoint, which can run code when read.", "Convert it to safetensors first.")
    try:
        size_bytes = file.stat().st_size
        with file.open("rb") as stream:
            header_bytes = int.from_bytes(stream.read(8), "little")
            if size_bytes < 8 or header_bytes > min(size_bytes - 8, MAX_HEADER_BYTES):
                raise AnalysisError(f"{file.name} is not a safetensors file, or it is cut off.", "Fetch the file again.")
            raw = stream.read(header_bytes)
    except FileNotFoundError as error:
        raise AnalysisError(f"{file.name} is missing from {file.parent}.", "Fetch the missing file again.") from error
    except OSError as error:
        raise from_os_error(error, f"reading {file.name}") from error
    return _parse_header(file, raw, 8 + header_bytes, size_bytes)


def _parse_header(file: Path, raw: bytes, data_start: int, size_bytes: int) -> dict[str, TensorRef]:
    try:
        header = json.loads(raw)
        entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
        refs = {
            name: TensorRef(name, file, data_start + entry["data_offsets"][0], entry["dtype"], tuple(int(n) for n in entry["shape"]))
            for name, entry in entries.items()
        }
        ends = [data_start + entry["data_offsets"][1] for entry in entries.values()]
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise AnalysisError(f"The header of {file.name} cannot be read.", "Fetch the file again.") from error
    if max(ends, default=0) > size_bytes:
        raise AnalysisError(f"{file.name} is cut off: its header names bytes that are not there.", "Fetch the file again.")
    return refs


def read_tensor(ref: TensorRef) -> np.ndarray:
    """The tensor as float32 (float64 stays float64), in memory, in its stored shape. Errors: AnalysisError for codes."""
    return decode(ref, map_tensor(ref))


def map_tensor(ref: TensorRef) -> np.ndarray:
    """The tensor's raw numbers mapped read-only from its file; bfloat16 arrives as uint16 bits. Drop it to unmap it."""
    dtype = FLOAT_DTYPES.get(ref.dtype)
    if dtype is None:
        raise AnalysisError(
            f"{ref.name} is stored as {ref.dtype}, which holds codes and not weights.",
            "Choose the 16- or 32-bit version of this model.",
        )
    if ref.size == 0:
        return np.empty(ref.shape, dtype)
    return np.memmap(ref.file, dtype=dtype, mode="r", offset=ref.offset_bytes, shape=ref.shape)


def decode(ref: TensorRef, raw: np.ndarray) -> np.ndarray:
    """Raw numbers of a tensor (or of a slice of it) as floats: bfloat16 bits and float16 become float32, exactly."""
    if ref.dtype == "BF16":
        return (raw.astype(np.uint32) << np.uint32(16)).view(np.float32)
    if ref.dtype == "F16":
        return raw.astype(np.float32)
    return np.array(raw)


def read_linear(linear: LinearLayer) -> np.ndarray:
    """The weight of a linear layer, float32, shape (out, in)."""
    weight = read_tensor(linear.tensor).astype(np.float32, copy=False)
    return np.ascontiguousarray(weight.T) if linear.transposed else weight


def open_model(folder: Path) -> ModelFiles:
    """List the tensors of a model folder (one file, shards with an index, or several files), or of one safetensors file.

    Errors: ModelNotFound, AnalysisError for a missing shard, a pickled checkpoint or a model that is already quantized.
    """
    folder = Path(folder)
    if folder.is_file():
        return _checked(ModelFiles(folder.parent, {}, read_header(folder)))
    if not folder.is_dir():
        raise ModelNotFound(f"There is no model folder {folder}.", "Check the path, or fetch the model first.")
    tensors: dict[str, TensorRef] = {}
    for file in _weight_files(folder):
        tensors |= read_header(file)
    return _checked(ModelFiles(folder, _read_json(folder / "config.json"), tensors))


def _weight_files(folder: Path) -> list[Path]:
    index = folder / "model.safetensors.index.json"
    if index.exists():
        shards = sorted(set(_read_json(index).get("weight_map", {}).values()))
        missing = [name for name in shards if not (folder / name).is_file()]
        if missing:
            raise AnalysisError(
                f"{len(missing)} of {len(shards)} weight files are missing: {', '.join(missing[:3])}.", "Fetch the model again."
            )
        return [folder / name for name in shards]
    files = sorted(folder.glob("*.safetensors"))
    if files:
        single = folder / "model.safetensors"
        return [single] if single in files else files
    pickles = [file.name for file in sorted(folder.iterdir()) if file.suffix in PICKLE_SUFFIXES]
    if pickles:
        raise AnalysisError(f"{pickles[0]} is a pickled checkpoint, which can run code when read.", "Convert it to safetensors first.")
    raise ModelNotFound(f"{folder.name} holds no safetensors file.", "Choose a folder with model.safetensors in it.")


def _read_json(file: Path) -> dict[str, Any]:
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (ValueError, OSError) as error:
        raise AnalysisError(f"{file.name} cannot be read: it is not valid JSON.", "Fetch the file again.") from error
    if not isinstance(data, dict):
        raise AnalysisError(f"{file.name} should hold one JSON object and does not.", "Fetch the file again.")
    return data


def _checked(model: ModelFiles) -> ModelFiles:
    if not model.tensors:
        raise AnalysisError(f"The weights of {model.folder.name} hold no tensors.", "Fetch the model again.")
    quantization = model.config.get("quantization_config")
    if quantization:
        method = quantization.get("quant_method", "an unnamed method") if isinstance(quantization, dict) else quantization
        raise _already_quantized(f"config.json says {method}")
    for name in model.tensors:
        if name.endswith(QUANTIZED_KEYS) or ".quant_state." in name:
            raise _already_quantized(f"it carries {name}")
    return model


def _already_quantized(evidence: str) -> AnalysisError:
    return AnalysisError(f"This model is already quantized: {evidence}.", "Choose its 16- or 32-bit version, which has the weights.")


def describe_model(folder: Path) -> ModelDescription:
    """Layers, modules, counts and bytes of a model folder, from its headers alone. Errors: as open_model."""
    model = open_model(folder)
    linears = model.linear_layers
    refs = list(model.tensors.values())
    largest = max(refs, key=lambda ref: ref.size_bytes)
    return ModelDescription(
        folder=str(model.folder),
        model_type=str(model.config.get("model_type", "unknown")),
        layers=len({(item.stack, item.layer) for item in linears}),
        modules=list(dict.fromkeys(item.module for item in linears)),
        linear_layers=len(linears),
        parameters=sum(ref.size for ref in refs),
        linear_parameters=sum(item.tensor.size for item in linears),
        size_bytes=sum(ref.size_bytes for ref in refs),
        dtypes={dtype: sum(ref.size for ref in refs if ref.dtype == dtype) for dtype in sorted({ref.dtype for ref in refs})},
        files=sorted({ref.file.name for ref in refs}),
        largest_tensor=largest.name,
        largest_tensor_bytes=largest.size_bytes,
    )
