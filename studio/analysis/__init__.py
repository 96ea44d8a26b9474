"""Mathematics of quantization and rank, on numpy, each function checked against an oracle."""
