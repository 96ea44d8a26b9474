"""A base model rounded to NF4 with calibration: still an ordinary model folder, but one that QLoRA's 4 bits cost little."""
