"""The harness: suite file in, comparison table out."""

__version__ = "0.1.0"
