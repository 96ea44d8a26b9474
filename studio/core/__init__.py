"""What every other package may import: errors, specs, records, paths, files. Standard library and pydantic only."""
