"""PEFT families, one small file each, behind one protocol. Importing the package registers them; none of it imports torch."""

from studio.methods import lora, qlora  # noqa: F401  in the order in which they are shown
from studio.methods.base import Method, MethodCard, MethodPart, all_methods, get_method

__all__ = ["Method", "MethodCard", "MethodPart", "all_methods", "get_method"]
