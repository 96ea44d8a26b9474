"""Silence what libraries print while they load: progress bars into a log file, and lines that alarm without cause.

Only ever called in child processes and in command-line verbs; the studio's own phases tell how far a model is.
"""

from __future__ import annotations

import logging

_BITSANDBYTES = ("bitsandbytes.backends.cpu.ops", "bitsandbytes.autograd._functions")


class _HarmlessLines(logging.Filter):
    """bitsandbytes says that an optional CPU kernel is missing, which nothing here needs, and for int8 that each layer casts its input."""

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        return "gemm_4bit_forward" not in text and "inputs will be cast" not in text


def quiet_libraries() -> None:
    """No progress bars, transformers' warnings only from errors up, bitsandbytes without two lines that mean nothing. Safe to repeat."""
    import huggingface_hub.utils
    import transformers

    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    huggingface_hub.utils.disable_progress_bars()
    for name in _BITSANDBYTES:
        logger = logging.getLogger(name)
        if not any(isinstance(known, _HarmlessLines) for known in logger.filters):
            logger.addFilter(_HarmlessLines())
