"""What loading a model can fail with, told as the studio's own errors: missing, gated, unreachable, broken, too large.

The libraries raise OSError for most of this, with the true cause somewhere in its chain, so the chain's class names decide and their
texts only where there is nothing else.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator

from studio.core.errors import GatedModel, ModelError, ModelNotFound, OutOfMemory, StudioError, from_os_error

_SMALLER = "Choose a smaller model, or hold the base in 4 bits (quantization nf4). The plan says what a model needs before it is loaded."


@contextlib.contextmanager
def explain_failure(model_id: str) -> Iterator[None]:
    """Raise ModelNotFound, GatedModel, ModelError, OutOfMemory or DiskFull in place of what the libraries raise while loading."""
    from safetensors import SafetensorError

    try:
        yield
    except StudioError:
        raise
    except MemoryError as error:
        raise OutOfMemory(f"There is not enough memory for {model_id}.", _SMALLER) from error
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, AttributeError, SafetensorError) as error:
        raise _explain(error, model_id) from error


def _explain(error: Exception, model_id: str) -> StudioError:
    chain = _chain(error)
    kinds = {kind.__name__ for link in chain for kind in type(link).__mro__}
    text = " ".join(str(link) for link in chain)
    full = next((link for link in chain if isinstance(link, OSError) and link.errno in (errno.ENOSPC, errno.EDQUOT)), None)
    if full:
        return from_os_error(full, f"fetching {model_id}")
    if "OutOfMemoryError" in kinds or "can't allocate memory" in text:
        return OutOfMemory(f"There is not enough memory for {model_id}.", _SMALLER)
    return _explain_access(kinds, text, model_id) or _explain_content(error, kinds, text, model_id)


def _explain_access(kinds: set[str], text: str, model_id: str) -> StudioError | None:
    if "GatedRepoError" in kinds or "access a gated repo" in text:
        return GatedModel(
            f"{model_id} is gated: its owner asks for an accepted licence.",
            f"Accept it at huggingface.co/{model_id}, then log in with `hf auth login` or set HF_TOKEN.",
        )
    if "RevisionNotFoundError" in kinds:
        return ModelNotFound(f"{model_id} has no such revision.", "Leave model.revision empty for the newest, or check its spelling.")
    if "RepositoryNotFoundError" in kinds:
        return ModelNotFound(
            f"The hub has no model {model_id}, or it is private.", "Check its spelling, or set HF_TOKEN to a token that may read it."
        )
    unreachable = {"LocalEntryNotFoundError", "OfflineModeIsEnabled", "ConnectionError", "ConnectError", "TimeoutException"}
    if kinds & unreachable or "couldn't connect" in text.lower() or "offline mode" in text.lower():
        return ModelNotFound(
            f"{model_id} is not on this machine, and the hub cannot be reached.",
            "Choose the starter model, a folder or a GGUF file; or set HF_ENDPOINT to a mirror you can reach.",
        )
    return None


def _explain_content(error: Exception, kinds: set[str], text: str, model_id: str) -> StudioError:
    lower = text.lower()
    if "trust_remote_code" in lower:
        return ModelError(
            f"{model_id} runs code of its own when loaded.", "Read that code; if you trust it, turn on model.trust_remote_code."
        )
    if "does not recognize this architecture" in lower or "unrecognized configuration class" in lower or "unrecognized model" in lower:
        return ModelError(
            f"{model_id} is no language model this version of transformers knows.", "Choose a Llama, Qwen, Mistral or similar one."
        )
    if "SafetensorError" in kinds or "headertoolarge" in lower or "incompletemetadata" in lower:
        return ModelError(f"A weight file of {model_id} is damaged or cut short.", "Fetch the model again.")
    if "no file named" in lower or "EntryNotFoundError" in kinds or isinstance(error, FileNotFoundError):
        return ModelError(
            f"{model_id} is incomplete: a weight or tokenizer file is missing ({_first_line(error)}).",
            "Fetch the model again. Only safetensors weights are read: pickled ones can run code.",
        )
    return ModelError(
        f"{model_id} cannot be loaded: {_first_line(error)}", "Check that the folder holds a complete model in transformers' format."
    )


def _chain(error: BaseException) -> list[BaseException]:
    links: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in links:
        links.append(link)
        link = link.__cause__ or link.__context__
    return links


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
