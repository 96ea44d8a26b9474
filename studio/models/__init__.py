"""Base models: find, load, describe, and plan what they cost."""
