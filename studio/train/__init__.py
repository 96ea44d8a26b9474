"""The training child process."""
