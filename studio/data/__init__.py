"""Datasets: rows from anywhere, to tokens and a label mask."""
