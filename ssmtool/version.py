"""The version, for every module that records it: importing it imports nothing else."""

__version__ = "0.1.0"
