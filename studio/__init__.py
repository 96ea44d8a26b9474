"""PEFT Studio: fine-tune a language model with little memory, and see what happened inside."""

__version__ = "0.1.0"
