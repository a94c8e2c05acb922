"""Networks: those of the project, of libraries, and of users' files. Imports no torch."""

from bench.models.named import NETWORKS, OTHERS, NetworkEntry, build, known, library, shapes
from bench.models.own import register_network

__all__ = ["NETWORKS", "OTHERS", "NetworkEntry", "build", "known", "library", "register_network", "shapes"]
