"""The gradient of the digits net for a digit that training never saw: `make demo`."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
import onnx
from rich.console import Console
from rich.table import Table

import onnxgrad as og

matplotlib.use("Agg")  # a picture is written, no window opened
import matplotlib.pyplot as plt

ROOT = Path(__file__).parents[1]
MODEL = ROOT / "models" / "digits.onnx"
OUT = ROOT / "out"


def picture(path: Path, image: np.ndarray, gradient: np.ndarray, digit: int, chance: float) -> None:
    """The digit beside the gradient of its score with respect to each pixel."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.6, 4.6), layout="constrained")
    extreme = float(np.abs(gradient).max())
    shown = [
        (left, image, "gray_r", (0, 1), f"Input: read as {digit} ({chance:.1%})", "ink"),
        (
            right,
            gradient,
            "RdBu_r",
            (-extreme, extreme),
            f"Saliency: what more ink does to the score of {digit}",
            f"$\\partial\\,$logit$_{digit}$ / $\\partial\\,$pixel",
        ),
    ]
    for axes, values, colours, (low, high), title, unit in shown:
        drawn = axes.imshow(values, cmap=colours, vmin=low, vmax=high)
        axes.set_title(title, fontsize=11, pad=10)
        axes.set_xticks(range(8))
        axes.set_yticks(range(8))
        axes.set_xticks(np.arange(0.5, 7), minor=True)
        axes.set_yticks(np.arange(0.5, 7), minor=True)
        axes.grid(which="minor", color="0.88", linewidth=1)
        axes.tick_params(which="both", length=0, labelsize=8, labelcolor="0.45")
        axes.spines[:].set_color("0.88")
        bar = figure.colorbar(drawn, ax=axes, shrink=0.86, pad=0.03)
        bar.set_label(unit, fontsize=9)
        bar.ax.tick_params(length=0, labelsize=8, labelcolor="0.45")
        bar.outline.set_visible(False)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main() -> int:
    console = Console(highlight=False)
    image = np.load(MODEL.with_name("digit.npy"))
    net = og.Net(MODEL)

    logits = net(image)
    digit = int(logits.argmax())
    chance = float(np.exp(logits[0, digit] - np.logaddexp.reduce(logits[0])))
    console.print(f"[bold]Prediction[/]  {digit}, with probability {chance:.2%}")

    # Imposed at the logits, a one picks the score of the digit that was read.
    score = np.zeros_like(logits)
    score[0, digit] = 1
    seed = {"image": image, og.NetPortGradient("logits"): score}
    saliency = net(seed, og.NetPortGradient("image"))
    weight = net(seed, og.NetPortGradient(["fc", "weight"]))
    table = Table("with respect to", "shape", "norm", "largest", title_justify="left")
    table.title = f"[bold not italic]Gradient of the score of {digit}[/]"
    for name, gradient in [("image, an input", saliency), ("fc.weight, a parameter", weight)]:
        norm, largest = np.linalg.norm(gradient), np.abs(gradient).max()
        table.add_row(name, str(gradient.shape), f"{norm:.4f}", f"{largest:.4f}")
    console.print(table)

    report = og.check(MODEL, image, ["image", "fc.weight"], ograd={"logits": score})
    console.print("[bold]Against finite differences[/]")
    console.print(str(report), soft_wrap=True)

    OUT.mkdir(exist_ok=True)
    model = og.gradient(MODEL, ["image", "fc.weight"], ograd=True)
    onnx.save(model, OUT / "digits_gradient.onnx")
    picture(OUT / "digit_saliency.png", image[0, 0], saliency[0, 0], digit, chance)
    console.print("[bold]Written[/]")
    for name, what in [
        ("digits_gradient.onnx", "the net with its gradients, for any ONNX runtime"),
        ("digit_saliency.png", "the digit beside its saliency"),
    ]:
        console.print(f"{OUT / name}: {what}", soft_wrap=True)
    return 0 if report.ok else 1


if __name__ == "__main__":
    raise SystemExit(main())
