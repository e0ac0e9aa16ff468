"""The gallery of docs/gallery, its pictures and its page, made of its scripts: `make gallery`."""

from __future__ import annotations

import argparse
import ast
import os
import re
import runpy
import shutil
import tempfile
from pathlib import Path

import matplotlib as mpl
from PIL import Image

mpl.use("Agg")
import matplotlib.pyplot as plt

ROOT = Path(__file__).parents[1]
GALLERY = ROOT / "docs" / "gallery"
PICTURES = GALLERY / "pictures"
THUMBNAILS = PICTURES / "small"
SIZES = {PICTURES: (720, 256, 80_000), THUMBNAILS: (240, 64, 15_000)}  # width, colours, bytes

# The scripts, in the order of the page.
SECTIONS = {
    "Why a net decides": ["four_answers", "depth", "words", "wrong_labels", "doubt"],
    "Inputs that follow a gradient": [
        "adversarial_cat",
        "how_little",
        "ten_digits",
        "dream",
        "classes",
        "guidance",
    ],
    "Physics": ["molecules", "pendulum", "lens", "predator_prey", "newton"],
    "Training": ["burgers", "paint", "rounding", "private"],
}

HEAD = """# Gallery

<!-- made by tools/gallery.py from the scripts beside it: `make gallery` -->

What derivatives of an ONNX file are good for, in scripts of at most 40 lines. They need the files
of `models`, the package with its extras `cpu` and `plot`, and no more. From the checkout's folder:

```console
$ python docs/gallery/lens.py    # writes lens.png
$ make gallery                   # runs all scripts, about three minutes
```

The style of the pictures is in `docs/gallery/matplotlibrc`, which counts
where the environment has `MATPLOTLIBRC=docs/gallery`.
"""


def main() -> int:
    """Draw the pictures that are asked for, all by default, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="the scripts to run; all by default")
    parser.add_argument("--check", action="store_true", help="only say whether the page is current")
    asked = parser.parse_args()
    if asked.check:
        current = (GALLERY / "index.md").read_text() == page()
        print("docs/gallery/index.md", "is current" if current else "is old: make gallery")
        return 0 if current else 1
    THUMBNAILS.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(ROOT / "models", Path(folder) / "models")
        for name in asked.names or names():
            keep(run(name, Path(folder)))
    (GALLERY / "index.md").write_text(page())
    return 0


def names() -> list[str]:
    """The scripts, in the order of the page."""
    return [name for section in SECTIONS.values() for name in section]


def run(name: str, folder: Path, *, small: bool = False) -> Path:
    """Run a script in a folder that has the models; the picture that it draws.

    Where it is run in small, a line such as ``STEPS = 300  # small: 2`` counts as ``STEPS = 2``.
    """
    code, before = (GALLERY / f"{name}.py").read_text(), Path.cwd()
    if small:
        code = re.sub(r"^(\w+) = .*  # small: (.*)$", r"\1 = \2", code, flags=re.MULTILINE)
    copy = folder / f"{name}.py"
    copy.write_text(code)
    os.chdir(folder)
    try:
        with mpl.rc_context(fname=GALLERY / "matplotlibrc"):
            runpy.run_path(str(copy), run_name=name)
    finally:
        plt.close("all")
        os.chdir(before)
    return folder / f"{name}.png"


def keep(drawn: Path) -> None:
    """A picture of few colours in docs/gallery/pictures, and its thumbnail."""
    for folder, (width, colours, most) in SIZES.items():
        with Image.open(drawn) as picture:
            whole = picture.convert("RGB")
        kept = folder / drawn.name
        while True:
            small = whole.copy()
            small.thumbnail((width, width), Image.Resampling.LANCZOS)
            few = small.quantize(colours, kmeans=2, dither=Image.Dither.NONE)
            few.save(kept, optimize=True)
            if kept.stat().st_size < most:
                break
            width = width * 9 // 10
        print(f"{kept.relative_to(ROOT)}: {kept.stat().st_size / 1000:.0f} kB")


def page() -> str:
    """docs/gallery/index.md: thumbnails in front, then each picture with its script."""
    contents, entries = [], []
    for section, those in SECTIONS.items():
        contents.append(f"\n## {section}\n\n" + table(those))
        entries += [entry(name) for name in those]
    return HEAD + "".join(contents) + "\n## The scripts\n" + "".join(entries)


def table(those: list[str]) -> str:
    """Thumbnails, three in a row, each with its title below it; they lead to the entries."""
    columns = 3
    rows = []
    for start in range(0, len(those), columns):
        row = those[start : start + columns]
        links = [(title := told(name)[0], anchor(title)) for name in row]
        titles = [f"[{title}](#{place})" for title, place in links]
        images = [
            f"[![{title}](pictures/small/{name}.png)](#{place})"
            for name, (title, place) in zip(row, links, strict=True)
        ]
        fill = [" "] * (columns - len(row))
        rows += [images + fill, titles + fill]
    rows.insert(1, [":---:"] * columns)
    return "".join("| " + " | ".join(row) + " |\n" for row in rows)


def entry(name: str) -> str:
    """A script with its title, its caption and its picture."""
    title, caption = told(name)
    code = (GALLERY / f"{name}.py").read_text().split('"""', 2)[2].strip()
    parts = [
        f"### {title}",
        caption,
        f"![{title}](pictures/{name}.png)",
        f"[{name}.py]({name}.py)",
        f"```python\n{code}\n```\n",
    ]
    return "\n" + "\n\n".join(parts)


def told(name: str) -> tuple[str, str]:
    """The title and the caption of a script: its docstring."""
    docstring = ast.get_docstring(ast.parse((GALLERY / f"{name}.py").read_text())) or ""
    title, _, caption = docstring.partition("\n\n")
    return title, caption


def anchor(title: str) -> str:
    """What a heading is linked by."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


if __name__ == "__main__":
    raise SystemExit(main())
