"""What the spectra suggest, in plain words: hypotheses with their evidence, never verdicts.

What it does not know: whether fewer or more ranks would train to the same loss. Only a run says that, so each sentence ends in one.
Source of the idea: arXiv 2106.09685, section 7.2 (the top directions carry the update); the thresholds are this project's own.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from statistics import median

from studio.analysis.spectrum import ENERGY_SHARE, AdapterSpectrum, ModuleSpectrum
from studio.core.units import show_percent

MANY = 0.75
FULL = 0.85
NEARLY_ALL = 0.8


@dataclass(frozen=True)
class Advice:
    """One hypothesis and the numbers it rests on."""

    hypothesis: str
    evidence: str
    numbers: dict[str, float]


def advise(spectrum: AdapterSpectrum) -> tuple[Advice, ...]:
    """Hypotheses on an adapter's rank and targets; one that says so when nothing changed."""
    changed = [module for module in spectrum.modules if module.ranks.largest > 0]
    if not changed:
        evidence = f"All {len(spectrum.modules)} updates are exactly zero."
        return (Advice("This adapter changes nothing: it was saved before its first step.", evidence, {"changed": 0.0}),)
    return (*_on_rank(changed), *_on_targets(changed))


def _on_rank(changed: list[ModuleSpectrum]) -> list[Advice]:
    r = round(median(module.r for module in changed))
    needed = sorted(module.ranks.energy_rank for module in changed)
    enough = needed[min(len(needed) - 1, int(MANY * len(needed)))]
    least = needed[int((1 - MANY) * len(needed))]
    used = median(module.ranks.effective_rank / len(module.singular_values) for module in changed)
    above = median(module.rank_above_noise for module in changed)
    numbers = {
        "r": float(r),
        "directions_for_90_percent": float(enough),
        "median_effective_share": used,
        "median_above_noise": float(above),
    }
    share = show_percent(ENERGY_SHARE)
    noise = f"{above:g} of {r} are above noise in the median module."
    evidence = f"In {show_percent(MANY)} of the modules at most {enough} of {r} directions hold {share} of the update's energy; {noise}"
    smaller = next((power for power in (1, 2, 4, 8, 16, 32, 64, 128) if power >= enough), enough)
    if smaller < r:
        return [Advice(f"r = {smaller} may be enough. Train it to see whether the loss stays.", evidence, numbers)]
    if used >= FULL and least >= NEARLY_ALL * r:
        more = f"r = {2 * r} may learn more. Train it to see whether the loss falls."
        also = f"In {show_percent(MANY)} of the modules at least {least} of {r} directions are needed for {share} of the update's energy; "
        if above == 0:
            # The floor rises above values that are all alike, so here it cannot tell a full update from noise.
            also += "none stands out above the others in the median module, as in an update that is full, or is noise."
            begin = f"All {r} directions are used alike" if r > 1 else "The one direction is in use"
            return [Advice(f"{begin}: {more}", also, numbers)]
        # One value is always left below the floor, so that of few directions all but one are nearly all.
        if above >= min(NEARLY_ALL * r, r - 1):
            return [Advice(f"Nearly all {r} directions are in use: {more}", also + noise, numbers)]
    return [Advice(f"r = {r} looks about right.", evidence, numbers)]


def _on_targets(changed: list[ModuleSpectrum]) -> list[Advice]:
    energy: dict[str, float] = defaultdict(float)
    for module in changed:
        energy[module.module.rsplit(".", 1)[-1]] += module.ranks.frobenius**2
    total = sum(energy.values())
    name, largest = max(energy.items(), key=lambda item: item[1])
    share, fair = largest / total, 1 / len(energy)
    if len(energy) < 2 or share < 2 * fair:
        return []
    evidence = f"{name} carries {show_percent(share)} of the squared norm of all updates; "
    evidence += f"an even split over {len(energy)} kinds would be {show_percent(fair)}."
    hypothesis = f"The largest share of the change is in {name}: a higher rank may pay off there first."
    return [Advice(hypothesis, evidence, {"share": share, "even": fair})]
