"""Speculative decoding: a draft proposes a tree of tokens, the model reads it in one pass and keeps its own choice."""
