"""Exact mathematics of linear time-invariant systems."""
