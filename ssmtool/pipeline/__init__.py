"""The whole story: a checkpoint in, its layers as canonical systems, mathematics on those, a checkpoint out."""

from ssmtool.pipeline.model import LayerSpectrum, Model, load

__all__ = ["LayerSpectrum", "Model", "load"]
