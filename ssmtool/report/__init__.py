"""Results to output: text tables, JSON documents, CSV, plots. Nothing here computes more than a summary."""
