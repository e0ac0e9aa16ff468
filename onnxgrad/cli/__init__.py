"""The command line: arguments in, the Python functions' words, tables out; no logic of its own. It
imports all other folders, and nothing imports it.
"""

from onnxgrad.cli.app import main

__all__ = ["main"]
