"""Push a run's adapter or merged model to a model hub. The token is used once and written nowhere."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import Literal

from studio.core.errors import RunError
from studio.core.files import write_atomic
from studio.export.card import model_card
from studio.export.merge import save_merged
from studio.export.source import ExportSource, require_mergeable
from studio.methods.adapter_folder import describe_adapter
from studio.methods.saving import CONFIG_NAME, WEIGHTS_NAME
from studio.models.hub import is_hub_reachable

REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")


def push_run(
    source: ExportSource, repository: str, kind: Literal["adapter", "merged"] = "adapter", token: str = "", private: bool = True
) -> str:
    """Upload to `owner/name`, made (private, unless asked otherwise) where it is missing; its address.

    The token is $HF_TOKEN where none is given. Raises RunError: no token, a name that is none, or what the hub answered.
    """
    if not REPOSITORY.fullmatch(repository):
        raise RunError(f"{repository!r} is no repository's name.", "Name it as owner/name, with letters, digits, dots and dashes.")
    token = token.strip() or os.environ.get("HF_TOKEN", "").strip()
    if not token:
        raise RunError("Pushing to the hub needs a token with write permission.", "Set HF_TOKEN, or type it; it is not stored.")
    if kind == "merged":
        require_mergeable(source)
    with tempfile.TemporaryDirectory(prefix="push-", dir=source.home.root) as work:
        folder = _adapter_folder(source, Path(work)) if kind == "adapter" else save_merged(source, Path(work) / "merged")
        return _upload(folder, repository, token, private)


def _adapter_folder(source: ExportSource, work: Path) -> Path:
    describe_adapter(source.adapter)
    folder = work / "adapter"
    folder.mkdir()
    for name in (CONFIG_NAME, WEIGHTS_NAME):
        shutil.copyfile(source.adapter / name, folder / name)
    write_atomic(folder / "README.md", model_card(source, "adapter"))
    return folder


def _upload(folder: Path, repository: str, token: str, private: bool) -> str:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    if not is_hub_reachable():
        raise RunError("The hub cannot be reached.", "Check the network, HF_ENDPOINT and HF_HUB_OFFLINE.")
    api = HfApi(token=token)
    try:
        created = api.create_repo(repository, private=private, exist_ok=True)
        api.upload_folder(repo_id=repository, folder_path=folder, commit_message="Upload from PEFT Studio")
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else 0
        hint = "The token may lack write permission there." if status in (401, 403) else "Try again later."
        raise RunError(f"The hub refused the upload to {repository} (status {status}).", hint) from error
    return str(created)
