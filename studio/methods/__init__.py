"""PEFT families, one small file each, behind one protocol."""
