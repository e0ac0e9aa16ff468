"""The pictures of docs/pictures, as the documents' own code draws them: `make pictures`."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).parents[1]
OUT = ROOT / "docs" / "pictures"
PAGES = [ROOT / "README.md", ROOT / "docs" / "explain.md"]
PYTHON = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
WIDTH = 640


def main() -> None:
    """Run the blocks of Python of the pages, and keep what they draw, below 200 kB each."""
    OUT.mkdir(exist_ok=True)
    for page in PAGES:
        code = "".join(PYTHON.findall(page.read_text()))
        with tempfile.TemporaryDirectory() as folder:
            shutil.copytree(ROOT / "models", Path(folder) / "models")
            subprocess.run([sys.executable, "-c", code], cwd=folder, check=True)
            for path in sorted(Path(folder).glob("*.png")):
                keep(path)


def keep(path: Path) -> None:
    """A smaller copy of a picture."""
    with Image.open(path) as drawn:
        small = drawn.convert("RGB")
    small.thumbnail((WIDTH, WIDTH), Image.Resampling.LANCZOS)
    small.save(OUT / path.name, optimize=True)
    print(f"docs/pictures/{path.name}: {(OUT / path.name).stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
