"""The pictures of docs/pictures: `make pictures`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).parents[1]
OUT = ROOT / "docs" / "pictures"
MODELS = ROOT / "models"
CAT = [MODELS / "efficientnet_lite0.onnx", MODELS / "cat.jpg", "--mean", "127", "--std", "128"]
CAT += ["--labels", MODELS / "imagenet_classes.txt"]
DIGIT = [MODELS / "digits.onnx", MODELS / "digit.npy"]

# By the picture's name, what the command explain is given.
PICTURES = {
    "cat_grad_cam": [*CAT, "--method", "grad-cam"],
    "cat_integrated_gradients": [*CAT, "--method", "integrated-gradients"],
    "cat_saliency": [*CAT, "--method", "saliency"],
    "digit_input_x_gradient": [*DIGIT, "--method", "input-x-gradient"],
}


def main(names: list[str]) -> None:
    """Draw those of the names, or all."""
    OUT.mkdir(exist_ok=True)
    for name in names or PICTURES:
        path = OUT / f"{name}.png"
        program = [sys.executable, "-c", "from onnxgrad.cli import main; main()", "explain"]
        subprocess.run([*program, *map(str, PICTURES[name]), "-o", path], cwd=ROOT, check=True)
        with Image.open(path) as drawn:
            small = drawn.convert("RGB")
        small.thumbnail((720, 720))
        small.save(path, optimize=True)  # below 200 kB


if __name__ == "__main__":
    main(sys.argv[1:])
