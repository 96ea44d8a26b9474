"""Rows of a dataset on the hub, or of its copy in the hub's cache, through `datasets`. Imports it: for child processes only.

No dataset's own code is ever run. Token, mirror and offline mode are those of the environment (HF_TOKEN, HF_ENDPOINT, HF_HUB_OFFLINE).

Does not know: columns and forms (detect.py).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from studio.core.errors import DataError, from_os_error
from studio.core.spec import DataSpec
from studio.data.read import HELD_OUT_NAMES, Row

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


def fetch_splits(spec: DataSpec) -> tuple[Any, Any | None]:
    """The split `spec` names and the dataset's own held-out split, where it has one, as memory-mapped tables. Raises DataError."""
    loaded = _load(spec)
    if spec.split not in loaded:
        raise DataError(f"{spec.source} has no split {spec.split!r}.", f"Its splits are: {', '.join(loaded)}.")
    own = next((name for name in HELD_OUT_NAMES if name in loaded and name != spec.split), None)
    return loaded[spec.split], loaded[own] if own else None


def table_rows(table: Any) -> Iterator[Row]:
    """Rows of a table of `datasets`, counted from 1."""
    for line, values in enumerate(table, start=1):
        yield Row(values, line, "")


def _load(spec: DataSpec) -> Any:
    import datasets
    from datasets import exceptions
    from huggingface_hub.errors import HfHubHTTPError

    datasets.utils.logging.set_verbosity_error()
    # What the HTTP client raises when the network goes away; which client that is changes with the version of the hub's library.
    lost = getattr(datasets.utils.file_utils, "CONNECTION_ERRORS_TO_RETRY", ())
    try:
        return datasets.load_dataset(spec.source, spec.config or None)
    except exceptions.DatasetNotFoundError as error:
        raise _not_found(spec, str(error)) from error
    except (ConnectionError, TimeoutError, FileNotFoundError, HfHubHTTPError, *lost) as error:
        # FileNotFoundError: what `datasets` makes of a hub that answers with an error of its own.
        raise _offline(spec) from error
    except OSError as error:
        raise from_os_error(error, f"fetching {spec.source}") from error
    except (ValueError, RuntimeError, exceptions.DatasetsError) as error:
        raise _unreadable(spec, str(error)) from error


def _not_found(spec: DataSpec, text: str) -> DataError:
    if "gated" in text.lower():
        return DataError(
            f"The dataset {spec.source} is gated.",
            f"Accept its terms on its hub page, then set HF_TOKEN to a token that may read it. ({text})",
        )
    return DataError(
        f"There is no dataset {spec.source} on the hub that this machine can see.",
        "Check the id (owner/name). A private or gated one needs HF_TOKEN.",
    )


def _offline(spec: DataSpec) -> DataError:
    return DataError(
        f"The dataset {spec.source} is not on this machine and the hub cannot be reached.",
        "Connect to the network once to fetch it, or use a file, or the starter dataset.",
    )


def _unreadable(spec: DataSpec, text: str) -> DataError:
    first = text.strip().splitlines()[0] if text.strip() else "no reason given"
    if "config" in text.lower() and "missing" in text.lower():
        return DataError(f"The dataset {spec.source} comes in several configurations.", f"Set data.config to one of them. {text.strip()}")
    if "scripts are no longer supported" in text:
        return DataError(
            f"The dataset {spec.source} is a script; the studio runs no dataset's code.", "Use a copy in Parquet or JSON lines."
        )
    return DataError(
        f"The dataset {spec.source} cannot be read: {first}", "Check its id and data.config, or download it and give its path."
    )
