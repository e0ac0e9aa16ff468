"""What releases of runtimes take, by the opset and the IR version of a file.

The numbers of onnxruntime are measured: the highest of each that a release loads, a net of one Neg.
They are those of its builds for C++, browsers and phones too, which share its releases.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx


@dataclass(frozen=True)
class Release:
    """The highest opset and IR version that a runtime takes since a release."""

    version: str
    opset: int
    ir_version: int


RELEASES: dict[str, list[Release]] = {
    "onnxruntime": [
        Release("1.15", 19, 9),
        Release("1.17", 20, 9),
        Release("1.18", 21, 10),
        Release("1.21", 22, 10),
        Release("1.23", 23, 11),
        Release("1.24", 25, 13),
        Release("1.25", 26, 13),
        Release("1.32", 28, 14),
    ],
    # A row for each release of the standard, as the installed onnx lists them.
    "onnx.reference": [
        Release(version, opset, ir) for version, ir, opset, *_ in onnx.helper.VERSION_TABLE
    ],
}


def first_releases(opset: int, ir_version: int) -> dict[str, str | None]:
    """By runtime, its first release that takes a file; None where no release is known to.

    Args:
        opset: The file's opset of the standard's default domain.
        ir_version: Its IR version.
    """
    return {
        runtime: next(
            (r.version for r in releases if r.opset >= opset and r.ir_version >= ir_version), None
        )
        for runtime, releases in RELEASES.items()
    }
