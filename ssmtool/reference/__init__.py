"""Reference models: the same small classifier under the tensor names of several public code bases."""
