"""ssmtool diff."""
EXAMPLES = ""
def command() -> None:
    """."""
