"""Results to output: text, JSON, plots, model cards."""
