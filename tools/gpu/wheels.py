"""Wheels that were carried to a machine without a network, whole or in pieces.

    split -b 50M -d onnxruntime_gpu-1.31.1-cp312-cp312-manylinux_2_28_x86_64.whl \\
        FOLDER/onnxruntime_gpu-1.31.1-cp312-cp312-manylinux_2_28_x86_64.whl.
"""

from __future__ import annotations

import io
import zipfile
from collections import defaultdict
from pathlib import Path


def unpack(wheels: Path, target: Path) -> list[str]:
    """Join the pieces of wheels and unpack them, for a folder to put on Python's path.

    Args:
        wheels: Holds files NAME.whl, or their pieces NAME.whl.00, NAME.whl.01 and so on.

    Returns:
        The names of the wheels.

    Raises:
        SystemExit: There is no wheel, or one lacks pieces.
    """
    pieces: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(wheels.iterdir()):
        name, found, _ = path.name.partition(".whl")
        if found:
            pieces[name + found].append(path)
    if not pieces:
        raise SystemExit(f"{wheels} has no wheels, and no pieces of any (NAME.whl.00, ...)")
    for name, parts in pieces.items():
        try:
            with zipfile.ZipFile(io.BytesIO(b"".join(p.read_bytes() for p in parts))) as wheel:
                wheel.extractall(target)
        except zipfile.BadZipFile as error:
            raise SystemExit(f"{name}: {len(parts)} pieces are no whole wheel ({error})") from error
    return list(pieces)
