"""The one door through which base models enter: catalog name, hub id, local folder or GGUF file; plain, int8, NF4 or FP4.

The hub's own settings are respected because its own client does the fetching: HF_TOKEN, HF_ENDPOINT (a mirror), HF_HOME and
HF_HUB_OFFLINE; what is cached works offline. Weights are read from safetensors only, since a pickle can run code. Nothing here
writes into a model's folder. Quantization follows arXiv 2208.07339 (int8) and arXiv 2305.14314 (NF4, FP4, double quantization), by
bitsandbytes; embeddings, norms and LM head stay in the compute dtype.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from studio.core.catalog import find_model
from studio.core.errors import ModelError, ModelNotFound
from studio.core.paths import StudioHome
from studio.core.spec import ModelSpec, RunSpec
from studio.models import gguf
from studio.models.hardware import choose_device, detect_hardware
from studio.models.hub import is_hub_reachable
from studio.models.load_errors import explain_failure
from studio.models.quiet import quiet_libraries

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


@dataclass(frozen=True)
class LoadedBase:
    """A base model in memory. `dtype` is what its unquantized weights are held in and its products are computed in."""

    model: Any
    tokenizer: Any
    device: str
    dtype: Any
    quantization: str


def resolve_model(model_id: str, home: StudioHome) -> str | Path:
    """A folder to load from, or the hub id to fetch. A GGUF is converted once into the home's cache. Raises ModelNotFound, ModelError."""
    text = model_id.strip()
    entry = find_model(text)
    if entry and entry.id == "starter" and text == entry.id:
        return _starter(home, entry.hub_id)
    path = Path(text).expanduser()
    if path.exists():
        return _local(path, home)
    if _looks_like_path(text):
        raise ModelNotFound(f"There is no model at {text}.", "Check the path; it should be a folder with config.json or a .gguf file.")
    if not HUB_ID.fullmatch(text):
        raise ModelNotFound(
            f"{model_id!r} is no model's name.", "Give a hub id like Qwen/Qwen2.5-0.5B-Instruct, a folder, or a .gguf file."
        )
    return entry.hub_id if entry else text


def _starter(home: StudioHome, hub_id: str) -> str | Path:
    if gguf.is_complete(home.starter_model):
        return home.starter_model
    from huggingface_hub import try_to_load_from_cache

    if isinstance(try_to_load_from_cache(hub_id, "config.json"), str):
        return hub_id
    raise ModelNotFound("The starter model is not set up yet.", "Run `python -m studio setup`, which fetches it (93 MB).")


def _looks_like_path(text: str) -> bool:
    return text.startswith(("/", "./", "../", "~")) or "\\" in text or text.lower().endswith((".gguf", ".safetensors"))


def _local(path: Path, home: StudioHome) -> Path:
    source = gguf.find_gguf(path) or gguf.find_gguf(path.resolve())  # hub caches link x.gguf to a file named by its checksum
    if source:
        return gguf.convert_cached(source, home)
    path = path.resolve()
    if path.is_file():
        raise ModelError(f"{path.name} is a single file the studio cannot load.", "Name the model's folder, or a .gguf file.")
    if not (path / "config.json").is_file():
        raise ModelNotFound(f"{path} holds no model: it has no config.json.", "Name the folder that holds config.json and the weights.")
    names = {file.name for file in path.iterdir()}
    if not any(name.endswith(".safetensors") for name in names):
        if any(name.endswith((".bin", ".pt", ".pth")) for name in names):
            raise ModelError(
                f"{path.name} holds its weights as pickles, which can run code when they are read.",
                "Convert them to safetensors where you trust them, or choose a safetensors version of the model.",
            )
        raise ModelError(f"{path.name} holds no weights: no .safetensors file is in it.", "Fetch the model again.")
    return path


def load_tokenizer(model: ModelSpec, home: StudioHome) -> Any:
    """The model's tokenizer, with a padding token (the end-of-text token where it has none). Raises ModelError and its kinds."""
    quiet_libraries()
    from transformers import AutoTokenizer

    source = resolve_model(model.id, home)
    with explain_failure(model.id):
        tokenizer: Any = AutoTokenizer.from_pretrained(source, **_options(model, source))
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    return tokenizer


def load_base(spec: RunSpec, home: StudioHome) -> LoadedBase:
    """The frozen base model of a run, in eval mode on its device, and its tokenizer.

    Raises ModelNotFound, GatedModel, ModelError (missing shard, unknown architecture, pickled weights), OutOfMemory, DiskFull.
    """
    quiet_libraries()
    from transformers import AutoModelForCausalLM

    device = choose_device()
    dtype = choose_dtype(spec.model, device)
    tokenizer = load_tokenizer(spec.model, home)
    source = resolve_model(spec.model.id, home)
    options = {**_options(spec.model, source), "dtype": dtype, "use_safetensors": True, "attn_implementation": spec.model.attention}
    if spec.quantization != "none":
        options["quantization_config"] = _quantization(spec, dtype)
    if spec.quantization != "none" or device != "cpu":
        options["device_map"] = {"": 0 if device == "cuda" else device}
    with explain_failure(spec.model.id):
        model: Any = AutoModelForCausalLM.from_pretrained(source, **options)
    if spec.quantization != "none":
        _leave_the_file(model)
    keep_weights_in_place(model)
    model.requires_grad_(False)
    model.eval()
    return LoadedBase(model, tokenizer, device, dtype, spec.quantization)


def choose_dtype(model: ModelSpec, device: str) -> Any:
    """The torch dtype of the unquantized weights: the one asked for; for `auto` bfloat16 where the device computes in it, else float32."""
    import torch

    if model.dtype != "auto":
        return getattr(torch, model.dtype)
    bf16 = torch.cuda.is_bf16_supported(including_emulation=False) if device == "cuda" else detect_hardware().bf16
    return torch.bfloat16 if bf16 else torch.float32


def keep_weights_in_place(model: Any) -> int:
    """Stop bitsandbytes from repacking 4-bit weights; returns how many modules it was stopped in.

    On CPUs with AVX512-BF16 a Linear4bit repacks its weights in place at the first forward without gradients; from then on training
    drops the gradient through the base without a word, double quantization is lost, and some shapes crash.
    """
    if "bitsandbytes" not in sys.modules:
        return 0
    from bitsandbytes.nn import Linear4bit

    modules = [module for module in model.modules() if isinstance(module, Linear4bit)]
    for module in modules:
        module.support_avx512bf16_for_cpu = False
    return len(modules)


def _leave_the_file(model: Any) -> None:
    """Copy what was not quantized out of the mapped weight file: one embedding left in it keeps the whole file in memory."""
    for parameter in model.parameters():
        if type(parameter).__name__ not in ("Params4bit", "Int8Params") and parameter.device.type == "cpu":
            parameter.data = parameter.data.clone()


def _options(model: ModelSpec, source: str | Path) -> dict[str, Any]:
    options: dict[str, Any] = {"trust_remote_code": model.trust_remote_code}
    if model.revision and isinstance(source, str):
        options["revision"] = model.revision
    if isinstance(source, Path) or not is_hub_reachable():
        options["local_files_only"] = True
    return options


def _quantization(spec: RunSpec, dtype: Any) -> Any:
    from transformers import BitsAndBytesConfig

    if spec.quantization == "int8":
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=["lm_head"])
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=spec.quantization,
        bnb_4bit_use_double_quant=spec.model.double_quantization,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=["lm_head"],
    )
