"""Start, stop, queue and find runs; talk to worker processes. Imports nothing it starts."""
