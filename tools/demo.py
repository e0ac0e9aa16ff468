"""Why a net sees a cat in a photo, from its file; and the proof of a gradient: `make demo`."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import matplotlib
import numpy as np
from rich.console import Console
from rich.table import Table

import onnxgrad as og

matplotlib.use("Agg")  # a picture is written, no window opened
import matplotlib.pyplot as plt

ROOT = Path(__file__).parents[1]
MODELS = ROOT / "models"
OUT = ROOT / "out"
PHOTO = MODELS / "cat.jpg"


def predict(console: Console, logits: np.ndarray) -> str:
    """Print the most probable classes of a photo; the first one in words."""
    names = (MODELS / "imagenet_classes.txt").read_text().splitlines()
    chances = np.exp(logits - np.logaddexp.reduce(logits))
    table = Table("class", "number", "probability", title_justify="left")
    table.title = f"[bold not italic]Prediction for {PHOTO.name}[/]"
    best = chances.argsort()[::-1]
    for k in best[:3]:
        table.add_row(names[k], str(k), f"{chances[k]:.1%}")
    console.print(table)
    return f"{names[best[0]]}: {chances[best[0]]:.1%}"


def picture(path: Path, title: str, maps: dict[str, np.ndarray]) -> None:
    """Each map beside the photo and over it."""
    figure = plt.figure(figsize=(8, 5.4), layout="constrained")
    figure.suptitle(title, fontsize=13)
    for part, (method, attribution) in zip(figure.subfigures(len(maps)), maps.items(), strict=True):
        og.explain.show(attribution, PHOTO, title=method, figure=part)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def proof(console: Console) -> bool:
    """Compare the gradients of a smaller net with finite differences."""
    digit, score = np.load(MODELS / "digit.npy"), og.heads.top_class("logits")
    report = og.check(MODELS / "digits.onnx", digit, ["image", "fc.weight"], of=score)
    console.print("[bold]Gradients of a net that reads digits, against finite differences[/]")
    console.print(str(report), soft_wrap=True)
    return report.ok


def main() -> int:
    console = Console(highlight=False)
    OUT.mkdir(exist_ok=True)
    paths = partial(og.explain.integrated_gradients, internal_batch_size=10)
    maps = {"Grad-CAM": og.explain.grad_cam, "Integrated gradients": paths}
    model = og.explain.several(MODELS / "efficientnet_lite0.onnx", maps)
    og.save(model, OUT / "cat_explained.onnx")

    net = og.Net(model)
    x = og.explain.image(PHOTO, net, mean=127, std=128)
    logits, *attributions = net(x).values()
    title = predict(console, logits[0])
    picture(OUT / "cat.png", title, dict(zip(maps, attributions, strict=True)))
    proven = proof(console)

    console.print("[bold]Written[/]")
    for name, what in [
        ("cat_explained.onnx", "the net with both explanations, for any ONNX runtime"),
        ("cat.png", "the photo beside and under its maps"),
    ]:
        console.print(f"{OUT / name}: {what}", soft_wrap=True)
    return 0 if proven else 1


if __name__ == "__main__":
    raise SystemExit(main())
