"""Compression: a small student learns from labels and from a larger teacher that sees the same images."""

from bench.spec import RunSpec
from bench.tasks.base import Task


class Compression(Task):
    name = "compression"
    keeps_outputs = True
    allows_transfer = True
    is_tunable = True
    has_controls = True

    def is_published(self, run: RunSpec) -> bool:
        """Return True: these are the papers' main tables."""
        return True
