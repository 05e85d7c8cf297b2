"""Analyses: one section of `ssmtool diagnose` per file; sees only canonical systems, mixers and their traces."""
