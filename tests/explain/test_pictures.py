"""Pictures: hot where the map is hot, on Captum's scale, of all kinds of data."""

from __future__ import annotations

import builtins
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import onnxgrad as og
from onnxgrad.explain.scaling import normalised, resized, thinned

matplotlib = pytest.importorskip("matplotlib", reason="matplotlib is not installed: the extra plot")
RNG = np.random.default_rng(0)
PHOTO = Image.fromarray(RNG.integers(0, 256, (40, 60, 3), np.uint8))


def drawn(figure: Any) -> np.ndarray:
    """The pixels of a figure, rows from below."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[::-1, :, :3]


def panel(figure: Any, title: str) -> Any:
    (found,) = (axes for axes in figure.axes if axes.get_title() == title)
    return found


def colour_at(figure: Any, axes: Any, x: float, y: float) -> np.ndarray:
    """The colour of the picture at a place of its data."""
    pixels = drawn(figure)
    column, row = axes.transData.transform((x, y))
    return pixels[int(row), int(column)].astype(int)


def close(colour: np.ndarray, cmap: str, value: float) -> bool:
    expected = np.array(matplotlib.colormaps[cmap](value)[:3]) * 255
    return bool(np.abs(colour - expected).max() <= 6)


def test_hot_where_the_map_is_hot() -> None:
    heat = np.zeros((1, 4, 6))
    heat[0, 1, 4] = 1
    figure = og.explain.show(heat, PHOTO, title="a class (3): score 1")
    assert [a.get_title() for a in figure.axes][:3] == ["input", "attribution", "both"]
    hot, cold = (45, 15), (5, 35)  # each place is 10 x 10 pixels
    axes = panel(figure, "attribution")
    assert close(colour_at(figure, axes, *hot), "inferno", 1.0)
    assert close(colour_at(figure, axes, *cold), "inferno", 0.0)
    photo = np.asarray(PHOTO)
    axes = panel(figure, "both")
    grey = photo[35, 5].mean()
    colour = colour_at(figure, axes, *cold)
    assert np.abs(colour - grey / 2).max() <= 8  # the image in grey below black, half opaque
    assert colour_at(figure, axes, *hot)[0] > colour_at(figure, axes, *hot)[2] + 40
    assert figure.get_suptitle() == "a class (3): score 1"


def test_signs() -> None:
    """Channels are added up; red speaks for the class, blue against it."""
    attribution = np.zeros((2, 3, 8, 8))
    attribution[1, :, 2, 5] = 1, 1, 1
    attribution[1, :, 6, 1] = -2, -2, 1
    attribution[0] = 7
    x = RNG.random((2, 3, 8, 8))
    for sign, hot, against, nothing, cmap in [
        (None, 1.0, 0.0, 0.5, "RdBu_r"),
        ("positive", 1.0, 0.0, 0.0, "inferno"),
        ("negative", 0.0, 1.0, 0.0, "inferno"),
        ("absolute_value", 1.0, 1.0, 0.0, "inferno"),
    ]:
        figure = og.explain.show(attribution, x, sign=sign, example=1, outlier_perc=0)  # type: ignore[arg-type]
        axes = panel(figure, "attribution")
        for place, value in [((5, 2), hot), ((1, 6), against), ((3, 3), nothing)]:
            assert close(colour_at(figure, axes, *place), cmap, value), (sign, place)
        figure = og.explain.show(
            attribution.transpose(0, 2, 3, 1),
            x.transpose(0, 2, 3, 1),
            layout="NHWC",
            sign=sign,  # type: ignore[arg-type]
            example=1,
            outlier_perc=0,
            methods=["heat_map"],
        )
        assert close(colour_at(figure, figure.axes[0], 5, 2), cmap, hot)


@pytest.mark.parametrize("size", [(60, 40), (900, 150), (100, 700), (1, 1), (3000, 2000)])
@pytest.mark.parametrize("title", [None, "word " * 60])
def test_of_any_size(size: tuple[int, int], title: str | None, tmp_path: Path) -> None:
    """All that is written lies within the picture, and nothing over anything else."""
    figure = og.explain.show(RNG.random((1, 7, 7)), Image.new("RGB", size), title=title)
    figure.savefig(tmp_path / "a.png", dpi=50)
    with Image.open(tmp_path / "a.png") as picture:
        picture.load()
    drawn(figure)
    renderer = figure.canvas.get_renderer()
    texts = [a.title for a in figure.axes[:3]]
    texts += [figure._suptitle] if title else []
    boxes = [t.get_window_extent(renderer) for t in texts]
    boxes += [a.get_window_extent(renderer) for a in figure.axes]
    for k, box in enumerate(boxes):
        assert box.x0 >= -1 and box.y0 >= -1
        assert box.x1 <= figure.bbox.x1 + 1 and box.y1 <= figure.bbox.y1 + 1
        for other in boxes[:k]:
            across = min(box.x1, other.x1) - max(box.x0, other.x0)
            along = min(box.y1, other.y1) - max(box.y0, other.y0)
            assert min(across, along) <= 1


def test_signals() -> None:
    x = np.sin(np.arange(400) / 20)[None, None] * np.array([1.0, 2.0])[:, None]
    attribution = np.zeros((1, 2, 400))
    attribution[0, 1, 300:320] = 1
    figure = og.explain.show(attribution, x, title="beat", outlier_perc=0, alpha_overlay=1)
    upper, lower, _ = figure.axes
    assert close(colour_at(figure, lower, 310, 1.9), "YlOrRd", 1.0)
    assert close(colour_at(figure, upper, 310, 0.9), "YlOrRd", 0.0)
    np.testing.assert_array_equal(lower.lines[0].get_ydata(), x[0, 1])
    # The map of a layer, of fewer times, is that of every channel.
    figure = og.explain.show(np.array([[0, 0, 0, 1.0]]), x, alpha_overlay=1)
    for axes in figure.axes[:2]:
        low, high = axes.get_ylim()
        assert close(colour_at(figure, axes, 390, high - 0.05 * (high - low)), "YlOrRd", 1.0)
    # A peak of one sample among many is seen.
    long, peak = np.zeros(48000), np.zeros(48000)
    peak[24001] = -1
    figure = og.explain.show(peak, long, alpha_overlay=1)
    low, high = figure.axes[0].get_ylim()
    pixels = drawn(figure)
    blue = (pixels[..., 2].astype(int) - pixels[..., 0] > 60).sum()
    assert blue > 50
    many = og.explain.show(np.ones((1, 20, 400)), np.ones((1, 20, 400)), layout="NCT")
    assert len(many.axes) == 2


def test_spectrograms() -> None:
    x, attribution = RNG.random((1, 10, 50)), np.zeros((1, 10, 50))
    attribution[0, 8, 40] = 1  # a high frequency, so it lies above
    figure = og.explain.show(attribution, x)
    axes = panel(figure, "attribution")
    assert close(colour_at(figure, axes, 40, 8), "inferno", 1.0)
    assert axes.transData.transform((0, 8))[1] > axes.transData.transform((0, 1))[1]
    turned = og.explain.show(attribution.transpose(0, 2, 1), x.transpose(0, 2, 1), layout="NTF")
    assert close(colour_at(turned, panel(turned, "attribution"), 40, 8), "inferno", 1.0)


def test_what_files_hold() -> None:
    """Names that look like formulas, and data with gaps."""
    title = r"$5_bill \frac{$ (3): score 1"
    gaps = np.array([[0, np.nan, 2, np.inf, 1.0] * 4])
    for data in (gaps, np.full((1, 20), np.nan), gaps.reshape(1, 1, 4, 5), PHOTO):
        heat = np.ones((1, 4, 5)) if data is PHOTO else np.ones(data.shape)
        figure = og.explain.show(heat, data, title=title)
        assert figure.get_suptitle() == title and drawn(figure).size


def test_into_a_given_figure() -> None:
    whole = matplotlib.figure.Figure(figsize=(8, 6), layout="constrained")
    upper, lower = whole.subfigures(2, 1)
    assert og.explain.show(np.ones((1, 2, 2)), PHOTO, figure=upper, title="a") is upper
    og.explain.show(np.ones((1, 2, 2)), PHOTO, figure=lower, methods=["original_image"])
    assert len(upper.axes) == 4 and len(lower.axes) == 1


def test_captums_scale() -> None:
    captum = pytest.importorskip(
        "captum.attr._utils.visualization", reason="Captum is not installed: make explainers"
    )
    for seed in range(5):
        values = np.random.default_rng(seed).standard_cauchy((9, 7))
        for sign in ("positive", "absolute_value", "negative", "all"):
            for share in (2, 30, 55):
                np.testing.assert_allclose(
                    normalised(values, sign, share),  # type: ignore[arg-type]
                    captum._normalize_attr(values, sign, share),
                    rtol=1e-12,
                )


def test_scaling() -> None:
    np.testing.assert_array_equal(normalised(np.zeros((2, 2)), "all"), np.zeros((2, 2)))
    np.testing.assert_array_equal(normalised(-np.ones((2, 2)), "positive"), np.zeros((2, 2)))
    assert normalised(np.array([[1e-30, 2e-30]]), "all", 100).max() == 1
    up = resized(np.array([[0.0, 1.0]]), (1, 8))[0]
    assert (np.diff(up) >= 0).all() and up[0] == 0 and up[-1] == 1
    rows = np.zeros((2, 1000))
    rows[1, 501] = -5
    assert thinned(rows, 10).shape == (2, 10) and thinned(rows, 10)[1].min() == -5


def test_mistakes(monkeypatch: pytest.MonkeyPatch) -> None:
    ones = np.ones((1, 2, 2))
    for words, attribution, data, options in [
        ("not finite", np.full((1, 2, 2), np.nan), PHOTO, {}),
        ("is empty", np.ones((0, 2, 2)), PHOTO, {}),
        ("sign is one of", ones, PHOTO, {"sign": "both"}),
        ("methods are some of", ones, PHOTO, {"methods": ["masked"]}),
        ("outlier_perc", ones, PHOTO, {"outlier_perc": 101}),
        ("no example 1", ones, PHOTO, {"example": 1}),
        ("explain.html", ones, ones, {"layout": "NSC"}),
        ("is no layout", ones, ones, {"layout": "XYZ"}),
        ("with 5 axes", ones[None, None], PHOTO, {}),
        ("has not the layout", ones, np.ones((1, 3, 4, 4)), {"layout": "NHW"}),
    ]:
        with pytest.raises(og.ArgumentError, match=words):
            og.explain.show(attribution, data, **options)  # type: ignore[arg-type]

    def missing(name: str, *rest: Any) -> Any:
        if name.startswith("matplotlib"):
            raise ImportError("no matplotlib")
        return imported(name, *rest)

    imported = builtins.__import__
    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(og.RuntimeMissingError, match=r"Install onnxgrad\[plot\]"):
        og.explain.show(ones, PHOTO)


class Page(HTMLParser):
    """The tokens of a page, their attributes and texts; every element has to be closed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[tuple[str, dict[str, str | None]]] = []
        self.tokens: list[tuple[dict[str, str | None], str]] = []
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag != "meta":
            self.open.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1][1].get("role") == "listitem":
            self.tokens.append((self.open[-1][1], data))


def test_tokens() -> None:
    words = ["<b>", "&amp;", "good", '"quoted"', "bad", " "]
    values = np.array([[0, 0, 2.0, 1.0, -2.0, 0]])
    page = og.explain.html(words, values, title="a < b", outlier_perc=0)
    tokens = Page(page).tokens
    assert [text for _, text in tokens] == words
    assert [a["aria-label"] for a, _ in tokens][2:5] == ["good: +2", '"quoted": +1', "bad: -2"]
    assert [a.get("class") for a, _ in tokens] == [None, None, "for", "for", "against", None]
    much = [re.findall(r"[\d.]+", a.get("style") or "0")[0] for a, _ in tokens]
    assert [float(m) for m in much] == [0, 0, 0.6, 0.3, 0.6, 0]
    assert "<title>a &lt; b</title>" in page and "http" not in page
    assert "color-scheme: light dark" in page
    # Embeddings are added up, whichever axis they are.
    spread = np.repeat(values[..., None], 4, axis=2) / 4
    for array in (spread, spread.transpose(0, 2, 1), values[0], spread[0]):
        assert og.explain.html(words, array, title="a < b", outlier_perc=0) == page
    one_sign = og.explain.html(words, np.abs(values))
    assert '"against"' not in one_sign
    assert '"for"' not in og.explain.html(words, values, sign="negative")
    with pytest.raises(og.ArgumentError, match="6 tokens and 5"):
        og.explain.html(words, np.ones((1, 5)))
