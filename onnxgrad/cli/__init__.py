"""The command line: arguments in, the Python functions' words, tables out; no logic of its own. It
imports all other folders, and nothing imports it.
"""

from __future__ import annotations

import sys


def main() -> None:
    """The console entry point. Exit status: 0, 1 for a refusal or a failed check, 2 for usage."""
    try:
        from onnxgrad.cli.app import run
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("onnxgrad"):
            raise
        sys.exit(
            f"onnxgrad: the command line needs {error.name}, which is not installed: "
            'pip install "onnxgrad[cli]"'
        )
    run()
