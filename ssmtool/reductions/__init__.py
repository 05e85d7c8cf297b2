"""Reductions: one method per file; sees only canonical systems."""
