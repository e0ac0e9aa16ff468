"""A net of photos, from its file: what it sees, why, and how it learns: `make demo`."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import matplotlib
import numpy as np
import onnxruntime
from rich.console import Console
from rich.table import Table

import onnxgrad as og

matplotlib.use("Agg")  # a picture is written, no window opened
import matplotlib.pyplot as plt

ROOT = Path(__file__).parents[1]
MODELS = ROOT / "models"
OUT = ROOT / "out"
NET, PHOTO = MODELS / "efficientnet_lite0.onnx", MODELS / "cat.jpg"
EGYPTIAN_CAT, TABBY = 285, 281


def chances(logits: np.ndarray) -> np.ndarray:
    return np.exp(logits - np.logaddexp.reduce(logits))


def predict(console: Console, logits: np.ndarray) -> str:
    """Print the most probable classes of a photo; the first one in words."""
    names, found = (MODELS / "imagenet_classes.txt").read_text().splitlines(), chances(logits)
    table = Table("class", "number", "probability", title_justify="left")
    table.title = f"[bold not italic]Prediction for {PHOTO.name}[/]"
    best = found.argsort()[::-1]
    for k in best[:3]:
        table.add_row(names[k], str(k), f"{found[k]:.1%}")
    console.print(table)
    return f"{names[best[0]]}: {found[best[0]]:.1%}"


def picture(path: Path, title: str, maps: dict[str, np.ndarray]) -> None:
    """The photo under what the net says of it, and each map over it."""
    figure = plt.figure(figsize=(11, 2.8), layout="constrained")
    first, *others = figure.subfigures(1, 1 + len(maps), width_ratios=[4, *[4.6] * len(maps)])
    any_map = next(iter(maps.values()))
    og.explain.show(any_map, PHOTO, methods=["original_image"], title=title, figure=first)
    for part, (name, values) in zip(others, maps.items(), strict=True):
        og.explain.show(values, PHOTO, methods=["blended_heat_map"], title=name, figure=part)
    for axes in figure.axes:
        axes.set_title("")
    figure.savefig(path, dpi=150)
    plt.close(figure)


def learn(x: np.ndarray, label: int, runs: int) -> Iterator[np.ndarray]:
    """Train the whole net on a photo, by two files on onnxruntime; its logits in each run."""
    loss = og.losses.cross_entropy("logits")
    og.train.artifacts(NET, OUT / "training", loss, og.train.SGD(), forward=True)
    init = onnxruntime.InferenceSession(OUT / "training" / "init.onnx")
    step = onnxruntime.InferenceSession(OUT / "training" / "step.onnx")
    state = dict(zip([y.name for y in init.get_outputs()], init.run(None, {}), strict=True))
    names = [y.name for y in step.get_outputs()]
    batch = {"image": x, "labels": np.array([label]), "learning_rate": np.array(1e-4, np.float32)}
    for _ in range(runs):
        found = dict(zip(names, step.run(None, batch | state), strict=True))
        state = {name: found[f"{name}_next"] for name in state}
        yield found["logits"][0]


def curves(path: Path, console: Console, logits: list[np.ndarray]) -> None:
    """Print and draw how the probabilities of two classes change with the steps."""
    figure, axes = plt.subplots(figsize=(6, 3.2), layout="constrained")
    table = Table("steps", "Egyptian cat", "tabby")
    console.print("[bold]The net learns that this is a tabby[/]")
    values = np.array([chances(row)[[EGYPTIAN_CAT, TABBY]] for row in logits])
    for k, row in enumerate(values):
        table.add_row(str(k), *(f"{value:.1%}" for value in row))
    console.print(table)
    for name, column, style in zip(["Egyptian cat", "tabby"], values.T, ["o--", "o-"], strict=True):
        axes.plot(column, style, label=name)
    axes.set(xlabel="training steps", ylabel="probability", ylim=(0, 1))
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
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
    model = og.explain.several(NET, maps)
    og.save(model, OUT / "cat_explained.onnx")

    net = og.Net(model)
    x = og.explain.image(PHOTO, net, mean=127, std=128)
    logits, *attributions = net(x).values()
    title = predict(console, logits[0])
    picture(OUT / "cat.png", title, dict(zip(maps, attributions, strict=True)))
    curves(OUT / "learning.png", console, list(learn(x, TABBY, runs=7)))
    proven = proof(console)

    console.print("[bold]Written[/]")
    for name, what in [
        ("cat_explained.onnx", "the net with both explanations, for any ONNX runtime"),
        ("cat.png", "the photo, what the net says of it, and why"),
        ("training/step.onnx", "a training step of the whole net, likewise"),
        ("learning.png", "what six such steps do"),
    ]:
        console.print(f"{OUT / name}: {what}", soft_wrap=True)
    return 0 if proven else 1


if __name__ == "__main__":
    raise SystemExit(main())
