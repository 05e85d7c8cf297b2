"""Training: tasks, recipes, the accuracy of a checkpoint."""
