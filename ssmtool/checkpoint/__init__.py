"""Checkpoints as bytes: resolve, read lazily, write atomically. Knows no family."""
