"""Reference models, one file per layout: the same classifier under the tensor names of a public code base."""
