"""How the spectrum of a run grew: one spectrum per snapshot or checkpoint folder, in order of the step in its name.

What it does not know: what happened between two snapshots. Snapshots are kept in 16 bits, so values below about 1e-3 of the largest
entry are rounded.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from studio.analysis.adapter_files import CONFIG
from studio.analysis.spectrum import AdapterSpectrum, adapter_spectrum
from studio.core.errors import AnalysisError

_STEP = re.compile(r"(\d+)$")


@dataclass(frozen=True)
class SpectrumGrowth:
    """Steps of training, ascending, and the adapter's spectrum at each."""

    steps: tuple[int, ...]
    spectra: tuple[AdapterSpectrum, ...]


def snapshot_folders(folder: Path) -> list[Path]:
    """The adapter folders directly below `folder` (step-10, checkpoint-20, ...), by step. Empty when there are none."""
    if not folder.is_dir():
        return []
    return sorted((path for path in folder.iterdir() if _STEP.search(path.name) and (path / CONFIG).is_file()), key=step_of)


def step_of(folder: Path) -> int:
    """The step in a snapshot folder's name: step-000010 is 10; 0 without one."""
    match = _STEP.search(folder.name)
    return int(match[1]) if match else 0


def spectrum_growth(folders: Sequence[Path]) -> SpectrumGrowth:
    """Measure each folder. Errors: AnalysisError for no folders, adapters that differ in their modules, or as adapter_spectrum."""
    if not folders:
        raise AnalysisError("No snapshots were kept.", "The run may have stopped before its first step: train it again.")
    ordered = sorted(folders, key=step_of)
    spectra = tuple(adapter_spectrum(folder) for folder in ordered)
    names = {tuple(module.name for module in spectrum.modules) for spectrum in spectra}
    if len(names) > 1:
        raise AnalysisError("These snapshots do not change the same modules.", "Choose snapshots of one run.")
    return SpectrumGrowth(tuple(step_of(folder) for folder in ordered), spectra)
