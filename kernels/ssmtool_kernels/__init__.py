"""Scan kernels; imports nothing of ssmtool."""
