"""Results as JSON: dataclasses become dicts, tuples lists, floats are rounded to what a reader can use.

Rounding happens here only, never in the results themselves. NaN and infinity become null: JSON has neither.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

SIGNIFICANT_DIGITS = 7


def to_jsonable(value: Any) -> Any:
    """`value` made of dicts, lists, strings, ints, bools, None and floats of seven significant digits."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_jsonable(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): to_jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_jsonable(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.{SIGNIFICANT_DIGITS}g}") if math.isfinite(value) else None
    if value is None or isinstance(value, (bool, int, str)):
        return value
    return str(value)
