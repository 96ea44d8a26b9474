"""PEFT families, one small file each, behind one protocol. Importing the package registers them; none of it imports torch."""

from studio.methods import bottleneck, lora, prefix, qlora  # noqa: F401  each registers itself
from studio.methods.base import Method, MethodCard, MethodPart, all_methods, get_method

__all__ = ["Method", "MethodCard", "MethodPart", "all_methods", "get_method"]
