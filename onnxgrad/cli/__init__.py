"""The command line. It imports everything, and nothing imports it."""

from onnxgrad.cli.commands import main

__all__ = ["main"]
