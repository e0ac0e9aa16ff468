"""Attributions as pictures: of an image, a signal or a spectrogram; matplotlib draws them."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import numpy as np

from onnxgrad.explain.images import ImageLike, opened, shown
from onnxgrad.explain.layouts import Kind, arranged, image_layout, kind_of, layout_of, map_layout
from onnxgrad.explain.scaling import Sign, normalised, resized, sign_of, thinned
from onnxgrad.graph.errors import ArgumentError, RuntimeMissingError
from onnxgrad.runtimes.ports import Array

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Method: TypeAlias = Literal["original_image", "heat_map", "blended_heat_map"]

METHODS: tuple[Method, ...] = get_args(Method)

_TITLES = {"original_image": "input", "heat_map": "attribution", "blended_heat_map": "both"}
# Colours that people who are colour-blind tell apart: of one sign, the same behind a line, of both.
_ONE_SIGN, _BEHIND, _BOTH_SIGNS = "inferno", "YlOrRd", "RdBu_r"
_SIGNAL = "0.15"
# The most pixels along a side, panels of a signal, and columns behind it.
_SIDE, _PANELS, _COLUMNS = 800, 8, 1000


def show(
    attribution: Any,
    data: ImageLike | Any = None,
    *,
    methods: Sequence[Method] = METHODS,
    sign: Sign | None = None,
    outlier_perc: float = 2,
    alpha_overlay: float = 0.5,
    cmap: Any = None,
    layout: str | None = None,
    example: int = 0,
    title: str | None = None,
    figure: Figure | None = None,
) -> Figure:
    """A figure of an attribution, beside and over what it belongs to.

    Methods, signs and scale are those of captum.attr.visualization. Channels are added up. An
    attribution of another size than the data, as that of a layer, is stretched to theirs.

    Args:
        attribution: An array as a method gives it: of the data's shape, or with a value for each
            place of a layer, as [N, H, W].
        data: What was explained: the path of an image, a Pillow image, or the array that was fed.
            None for the attribution alone.
        methods: What is drawn of an image or a spectrogram: "original_image", "heat_map" and
            "blended_heat_map", the map over the image in grey. A signal has its attribution behind
            it: each of up to 8 channels for itself.
        sign: "positive", "absolute_value", "negative" or "all". None for "all" where some values
            are negative, else for "positive".
        outlier_perc: The largest values, which make up so much of the sum of all (in per cent), all
            have the strongest colour.
        alpha_overlay: How opaque the map over the image is.
        cmap: The name of a colour map of matplotlib, or one. None for "inferno" of one sign and
            "RdBu_r" of both.
        layout: What the axes of the data are, such as "NCHW" and "NHWC" for images, "NCT" and "NT"
            for signals (T for times), "NFT" for spectrograms (F for frequencies); if the data are
            an image or its path, what those of the attribution are. None for a guess.
        example: Which example of the batch is drawn.
        title: A line above.
        figure: A figure or subfigure to draw into. None for a new one.

    Returns:
        The figure. ``figure.savefig(path)`` writes it.

    Raises:
        RuntimeMissingError: Matplotlib is not installed.
        ArgumentError: The arrays do not fit together, or an option has no such value.
        FeedError: The image cannot be read.

    Example:
        >>> net = og.Net(og.explain.saliency("models/digits.onnx", target=3))
        >>> x = np.load("models/digit.npy")
        >>> figure = og.explain.show(net(x)["image_attribution"], x)
        >>> figure.savefig("saliency.png")
    """
    if not methods or any(m not in METHODS for m in methods):
        raise ArgumentError(f"methods are some of {', '.join(map(repr, METHODS))}, not {methods!r}")
    if data is None:
        methods = ["heat_map"]
    array = np.asarray(attribution)
    if not array.size:
        raise ArgumentError(f"the attribution of shape {array.shape} is empty")
    values, background, kind = _fitting(array, data, layout, example)
    sign = sign_of(values, sign)
    values = normalised(values, sign, outlier_perc)
    draw = Drawing(matplotlib(), kind, sign, cmap, alpha_overlay)
    if kind == "signal":
        return draw.signal(values, background, title, figure)
    return draw.panels(values[0], background, methods, title, figure)


class Drawing:
    """How an attribution is drawn.

    Args:
        matplotlib: The module.
        kind: What the data are.
        sign, cmap, alpha: As for `show`.
    """

    def __init__(self, matplotlib: Any, kind: Kind, sign: Sign, cmap: Any, alpha: float) -> None:
        self.matplotlib, self.kind, self.sign, self.alpha = matplotlib, kind, sign, alpha
        one_sign = _BEHIND if kind == "signal" else _ONE_SIGN
        low, usual = (-1, _BOTH_SIGNS) if sign == "all" else (0, one_sign)
        self.colours: dict[str, Any] = {
            "cmap": usual if cmap is None else cmap,
            "vmin": low,
            "vmax": 1,
        }
        self.shape: dict[str, Any] = (
            {} if kind == "image" else {"aspect": "auto", "origin": "lower"}
        )

    def panels(
        self,
        values: Array,
        background: Array | None,
        methods: Sequence[Method],
        title: str | None,
        figure: Figure | None,
    ) -> Figure:
        """The data [H, W] or [H, W, 3], their map [H, W], and the map over the data."""
        height, width = values.shape
        ratio = height / width if self.kind == "image" else 0.3
        below = ratio < 0.6  # wide ones stand below each other
        count = len(methods)
        wide = 8.0 if below else 8.0 * min(1, max(0.6, 2.4 / ratio * count / 3))
        tall = min(0.85 * wide * ratio / (1 if below else count), 6.0)
        figure = figure or self._figure(wide, (tall + 0.35) * count if below else tall + 0.6, title)
        _titled(figure, title)
        grid = (count, 1) if below else (1, count)
        every = list(np.ravel(figure.subplots(*grid, squeeze=False)))
        for axes, method in zip(every, methods, strict=True):
            axes.set_title(_TITLES[method], fontsize=10)
            self._bare(axes)
            self._panel(axes, method, values, background)
        if self.kind == "spectrogram":
            every[-1].set_xlabel("time", fontsize=9)
        if list(methods) != ["original_image"]:
            self._bar(figure, every)
        return figure

    def _panel(self, axes: Axes, method: Method, values: Array, background: Array | None) -> None:
        if method != "heat_map":
            assert background is not None
            grey = method == "blended_heat_map" and background.ndim == 3
            under = background.mean(axis=2) if grey else background
            limits: dict[str, Any] = (
                {"vmin": 0, "vmax": 255} if background.dtype == np.uint8 else {}
            )
            axes.imshow(under, cmap="gray", **limits, **self.shape)
        if method != "original_image":
            alpha = self.alpha if method == "blended_heat_map" else None
            axes.imshow(values, alpha=alpha, **self.colours, **self.shape)

    def signal(
        self, values: Array, data: Array | None, title: str | None, figure: Figure | None
    ) -> Figure:
        """Each channel of a signal [C, T], before the colours of its attribution [C, T]."""
        count = len(values)
        figure = figure or self._figure(8.0, max(2.4, 1.2 * count + 0.9), title)
        _titled(figure, title)
        every = list(np.ravel(figure.subplots(count, 1, sharex=True, squeeze=False)))
        length = values.shape[1]
        for k, axes in enumerate(every):
            line = data[k] if data is not None else values[k]
            known = line[np.isfinite(line)]
            low, high = (known.min(), known.max()) if known.size else (0, 0)
            edge = 0.08 * (high - low) or 0.5
            extent = (-0.5, length - 0.5, low - edge, high + edge)
            behind = thinned(values[k : k + 1], _COLUMNS)
            axes.imshow(
                behind,
                extent=extent,
                aspect="auto",
                alpha=self.alpha,
                interpolation="nearest",
                **self.colours,
            )
            axes.plot(np.arange(length), line, color=_SIGNAL, linewidth=1.2)
            axes.tick_params(labelsize=8)
            if count > 1:
                axes.set_ylabel(f"channel {k}", fontsize=9)
        every[-1].set_xlabel("time", fontsize=9)
        self._bar(figure, every)
        return figure

    def _figure(self, width: float, height: float, title: str | None) -> Figure:
        lines = len(_wrapped(title, width).splitlines()) if title else 0
        size = (width, height + 0.25 * lines)
        layout = "compressed" if self.kind == "image" else "constrained"
        return self.matplotlib.figure.Figure(figsize=size, layout=layout, facecolor="white")

    def _bare(self, axes: Axes) -> None:
        """Of an image no ticks, of a spectrogram the names of its axes."""
        if self.kind == "image":
            axes.set_xticks([])
            axes.set_yticks([])
            axes.spines[:].set_color("0.8")
            return
        axes.tick_params(labelsize=8)
        axes.set_ylabel("frequency", fontsize=9)

    def _bar(self, figure: Figure, axes: list[Axes]) -> None:
        """The legend of the colours."""
        limits = self.matplotlib.colors.Normalize(self.colours["vmin"], 1)
        drawn = self.matplotlib.cm.ScalarMappable(limits, self.colours["cmap"])
        bar = figure.colorbar(drawn, ax=axes, fraction=0.05, pad=0.02, aspect=18)
        both = self.sign == "all"
        bar.set_ticks([-1, 0, 1] if both else [0, 1])
        most = "against" if self.sign == "negative" else "most"
        bar.set_ticklabels(["against", "0", "for"] if both else ["0", most])
        bar.ax.tick_params(length=0, labelsize=9)
        bar.outline.set_visible(False)


def _fitting(
    attribution: Array, data: Any, layout: str | None, example: int
) -> tuple[Array, Array | None, Kind]:
    """The attribution [C, ...] of one example, its data in the same size, and what they are.

    Only the attribution of a signal keeps channels.
    """
    if isinstance(data, str | os.PathLike) or hasattr(data, "getbands"):
        fits = layout is not None and len(layout) == attribution.ndim
        places = layout.upper() if layout and fits else _places(attribution.shape)
        values = arranged(attribution, places, example).astype(np.float64).sum(axis=0)
        picture = _picture(data)
        return resized(values, picture.shape[:2])[None], picture, "image"
    array = None if data is None else np.asarray(data)
    like = attribution if array is None else array
    layout = (layout or layout_of(like.shape)).upper()
    kind = kind_of(layout)
    if kind == "text":
        raise ArgumentError("tokens are shown as a page: explain.html(tokens, attribution)")
    places = layout if attribution.shape == like.shape else map_layout(kind, attribution.ndim)
    values = arranged(attribution, places, example).astype(np.float64)
    if kind == "signal":
        return *_signal(values, None if array is None else arranged(array, layout, example)), kind
    values = values.sum(axis=0)
    if array is None:
        return values[None], None, kind
    if kind == "image":
        background = shown(arranged(array, layout, example).transpose(1, 2, 0))
    else:
        background = arranged(array, layout, example).sum(axis=0)
    return resized(values, background.shape[:2])[None], background, kind


def _places(shape: Sequence[int]) -> str:
    """The layout of an attribution of an image."""
    colours = len(shape) == 3 and (shape[0] in (3, 4) or shape[2] in (3, 4))
    if len(shape) == 4 or colours:
        return image_layout(shape) or "NCHW"
    return map_layout("image", len(shape))


def _signal(values: Array, data: Array | None) -> tuple[Array, Array | None]:
    """The attribution and the data of a signal, both [C, T]; many channels are put together."""
    if data is None:
        return (values if len(values) <= _PANELS else values.sum(axis=0)[None]), None
    if values.shape != data.shape:
        values = resized(values.sum(axis=0)[None], (1, data.shape[1]))
        values = np.repeat(values, len(data), axis=0)
    if len(data) > _PANELS:
        return values.sum(axis=0)[None], data.sum(axis=0)[None]
    return values, data


def _picture(source: ImageLike) -> Array:
    """An image as it is drawn, [H, W, 3], not larger than can be seen."""
    picture = opened(source).convert("RGB")
    picture.thumbnail((_SIDE, _SIDE))
    return np.asarray(picture)


def _wrapped(title: str, width: float) -> str:
    return textwrap.fill(title, max(20, int(width * 11)))


def _titled(figure: Figure, title: str | None) -> None:
    if title:
        width = figure.get_figwidth() if hasattr(figure, "get_figwidth") else 8.0
        figure.suptitle(_wrapped(title, width), fontsize=12, parse_math=False)


def matplotlib() -> Any:
    """The module matplotlib.

    Raises:
        RuntimeMissingError: It is not installed.
    """
    try:
        import matplotlib
        import matplotlib.cm
        import matplotlib.colors
        import matplotlib.figure
    except ImportError as error:
        raise RuntimeMissingError(
            f"A picture needs matplotlib. Install onnxgrad[plot]. ({error})"
        ) from error
    return matplotlib
