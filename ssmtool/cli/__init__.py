"""The command line: parses, calls, prints. One file per sub-command; what is heavy is imported inside functions."""
