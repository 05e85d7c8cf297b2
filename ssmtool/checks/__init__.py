"""Policies on results: what a model has to keep, measured, judged and compared with what it was before."""
