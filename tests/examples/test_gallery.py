"""The gallery: each script runs, in small, and draws its picture; the page is current."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("matplotlib", reason="matplotlib is not installed: the extra plot")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: the extra cpu")

from tools import gallery


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A temporary folder with the files that the scripts read."""
    result = tmp_path_factory.mktemp("gallery")
    shutil.copytree(gallery.ROOT / "models", result / "models")
    return result


@pytest.mark.parametrize("name", gallery.names())
def test_a_script_draws(name: str, folder: Path) -> None:
    with Image.open(gallery.run(name, folder, small=True)) as drawn:
        assert min(drawn.size) > 100
        assert len(np.unique(np.asarray(drawn.convert("RGB")).reshape(-1, 3), axis=0)) > 10


def test_scripts_are_short_and_all_are_shown() -> None:
    scripts = sorted(gallery.GALLERY.glob("*.py"))
    assert sorted(gallery.names()) == [path.stem for path in scripts]
    assert len(scripts) >= 15
    assert not {p.name for p in scripts if len(p.read_text().splitlines()) > 40}
    for folder, (_, _, most) in gallery.SIZES.items():
        sizes = {path.stem: path.stat().st_size for path in folder.glob("*.png")}
        assert sorted(sizes) == sorted(gallery.names())
        assert max(sizes.values()) < most


def test_the_page_is_current() -> None:
    assert (gallery.GALLERY / "index.md").read_text() == gallery.page(), "make gallery"
