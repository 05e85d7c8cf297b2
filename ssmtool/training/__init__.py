"""Training: the reference model, its tasks, and the recipes that made fixtures/."""
