"""The command line. Modules that need torch are imported inside commands: `--help` stays fast."""

from bench.cli.commands import app
from bench.cli.start import main

__all__ = ["app", "main"]
