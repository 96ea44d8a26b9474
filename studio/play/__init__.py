"""The playground's child process: one model, several answers; and the sandbox for generated code."""
