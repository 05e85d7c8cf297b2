"""The small byte-level language models of fixtures/: corpus, models, recipe."""
