"""Numbers as a person reads them: bytes, counts, durations, rates. Decimal units, as disks, papers and GPU vendors use them."""

from __future__ import annotations

import math


def show_bytes(value: float) -> str:
    """1,234,567,890 -> '1.23 GB' (decimal: 1 GB = 1e9 bytes)."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if abs(value) >= size:
            return f"{value / size:.3g} {unit}" if abs(value) < 1000 * size else f"{value / size:,.0f} {unit}"
    return f"{value:.0f} B"


def show_count(value: float) -> str:
    """134515008 -> '134.5 M'; whole numbers below 10,000 in full."""
    for unit, size in ((" T", 1e12), (" B", 1e9), (" M", 1e6)):
        if abs(value) >= size:
            return f"{value / size:.4g}{unit}"
    return f"{value:,.0f}"


def show_duration(seconds: float) -> str:
    """59 -> '59 s', 125 -> '2 min 05 s', 7260 -> '2 h 01 min', 200000 -> '2 d 7 h'; '–' for what no clock shows."""
    if not math.isfinite(seconds):
        return "–"
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def show_percent(share: float) -> str:
    """0.754 -> '75 %'."""
    return f"{100 * share:.0f} %"


def show_share(part: float, whole: float) -> str:
    """The share as a percentage with three significant digits: '0.0689 %'."""
    return f"{100 * part / whole:.3g} %" if whole else "0 %"
