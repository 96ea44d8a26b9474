"""The adapter as one zip: PEFT's two files, the model card, and the settings it was trained with."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

from studio.export.card import model_card
from studio.export.source import ExportSource, new_file
from studio.methods.adapter_folder import describe_adapter
from studio.methods.saving import CONFIG_NAME, WEIGHTS_NAME


def zip_adapter(source: ExportSource, target: Path) -> Path:
    """Write `target` and give it back. Raises MethodError where the adapter is not whole, RunError where `target` exists."""
    describe_adapter(source.adapter)
    with new_file(target) as part, zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in (CONFIG_NAME, WEIGHTS_NAME):
            archive.write(source.adapter / name, name)
        archive.writestr("README.md", model_card(source, "adapter"))
        archive.writestr("spec.json", json.dumps(source.spec.to_json(), indent=2, ensure_ascii=False) + "\n")
    return target
