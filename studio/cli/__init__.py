"""The command line's verbs, a file per group. Each adds its parsers; everything heavy is imported inside the verb."""
