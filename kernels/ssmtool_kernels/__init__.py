"""Scans of state-space layers. Imports nothing of ssmtool.

One folder per operation; `naive.py` is the truth every faster version is tested against, and runs in float64.
"""
