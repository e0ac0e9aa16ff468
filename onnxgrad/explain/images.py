"""Images as a net expects them: read from files, and guessed from its ports what it expects."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from onnxgrad.explain.layouts import image_layout, kind_of
from onnxgrad.graph.arrays import require_file, unreadable
from onnxgrad.graph.counts import counted
from onnxgrad.graph.errors import ArgumentError, FeedError, RuntimeMissingError
from onnxgrad.run.net import Net
from onnxgrad.runtimes.ports import Array, Port

if TYPE_CHECKING:
    from PIL.Image import Image

ImageLike: TypeAlias = "str | os.PathLike[str] | Image"
PerChannel: TypeAlias = float | Sequence[float]

# An image with more pixels is made smaller for an input of any size: its shorter side is _USUAL.
_MANY, _USUAL = 1024 * 1024, 224
# What an image is stretched to has no more pixels, as one side may follow from the other.
_MOST = 2**26
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


def image(
    picture: ImageLike,
    like: Port | Net,
    *,
    mean: PerChannel | None = None,
    std: PerChannel | None = None,
    scale: float | None = None,
    layout: str | None = None,
    bgr: bool = False,
    size: int | tuple[int, int] | None = None,
) -> Array:
    """An image as an input of a net takes it: ``(pixel * scale - mean) / std``.

    The image is turned upright as its EXIF data say and stretched to the size (bilinear). What is
    transparent becomes white, unless the net takes four channels. Grey values of 16 bits keep them.

    Args:
        picture: A path, or a Pillow image.
        like: The port of the input, as in `Net.ports`; or a net with one input.
        mean, std: A number, or one for each channel in the order of the net. None for 0 and 1.
        scale: What pixels, 0 to 255, are multiplied with first. None for 1 / 255; for 1 where the
            input takes integers, or mean or std is above 1 and so meant for 0 to 255.
        layout: The order of the axes, "NCHW", "NHWC", "CHW", "HWC", "NHW" or "HW". None for that
            which the port's sizes tell.
        bgr: The net takes blue first.
        size: (height, width), or one number for both. None for that of the port; where the port
            leaves it open, for that of the image. If that has more than a million pixels, its
            shorter side becomes 224.

    Returns:
        An array of the port's dtype and shape. Of a port with a fixed batch it holds copies.

    Raises:
        FeedError: The file cannot be read, or the input takes no image.
        ArgumentError: An option makes no sense for the input.
        RuntimeMissingError: Pillow is not installed.

    Example:
        >>> net = og.Net("models/cnn.onnx")
        >>> og.explain.image("models/cat.jpg", net, mean=0.5, std=0.5).shape
        (1, 3, 16, 16)
    """
    if isinstance(like, Net):
        if len(like.inputs) != 1:
            raise ArgumentError(f"the net has {len(like.inputs)} inputs: give one of Net.ports")
        like = like.ports[like.inputs[0]]
    expected = Expected.of(like, mean=mean, std=std, scale=scale, layout=layout, bgr=bgr, size=size)
    return expected.array(opened(picture))


@dataclass(frozen=True)
class Expected:
    """What an input expects of an image.

    Attributes:
        port: The input.
        layout: The order of its axes.
        batch, channels: How many of them there are.
        size: Height and width, each None where the port leaves it open.
        mean, std, scale, bgr: As for `image`.
    """

    port: Port
    layout: str
    batch: int
    channels: int
    size: tuple[int | None, int | None]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    scale: float
    bgr: bool

    @classmethod
    def of(
        cls,
        port: Port,
        *,
        mean: PerChannel | None = None,
        std: PerChannel | None = None,
        scale: float | None = None,
        layout: str | None = None,
        bgr: bool = False,
        size: int | tuple[int, int] | None = None,
    ) -> Expected:
        """What an input expects, guessed where it is not given.

        Raises:
            FeedError, ArgumentError: As for `image`.
        """
        if port.dtype is None or port.dtype.kind not in "fViu":
            raise FeedError(f"{port.name!r} takes no image.")
        layout = _layout(port, layout)
        sizes = dict(zip(layout, port.shape or (None,) * len(layout), strict=True))
        count = sizes.get("C", 1)
        channels = count if isinstance(count, int) else 3
        if channels not in _MODES:
            raise FeedError(f"{port.name!r} takes {channels} channels, and an image has 1, 3 or 4.")
        if bgr and channels == 1:
            raise ArgumentError(f"bgr: {port.name!r} takes a single channel")
        mean, std = _per_channel("mean", mean, 0, channels), _per_channel("std", std, 1, channels)
        if 0 in std:
            raise ArgumentError("std: a standard deviation of 0 divides by zero")
        if scale is None:
            whole = port.dtype.kind in "iu" or max(*mean, *std) > 1
            scale = 1 if whole else 1 / 255
        batch = sizes.get("N", 1)
        return cls(
            port,
            layout,
            batch if isinstance(batch, int) else 1,
            channels,
            (_side("H", sizes, size), _side("W", sizes, size)),
            mean,
            std,
            scale,
            bgr,
        )

    def array(self, picture: Image) -> Array:
        """The image as the input takes it.

        Raises:
            ArgumentError: Its numbers do not fit into the input's integers.
        """
        pixels = _pixels(picture, self.channels, self._measure(picture))
        if self.bgr:
            pixels = pixels[..., [2, 1, 0, *range(3, self.channels)]]
        values = (pixels * self.scale - np.array(self.mean)) / np.array(self.std)
        dtype = self.port.dtype
        assert dtype is not None
        if dtype.kind in "iu":
            values, limits = np.rint(values), np.iinfo(dtype)
            if values.min() < limits.min or values.max() > limits.max:
                raise ArgumentError(
                    f"{self.port.name!r} takes {dtype.name}, into which values from "
                    f"{values.min():g} to {values.max():g} do not fit: give mean, std or scale"
                )
        values = values if "C" in self.layout else values[..., 0]
        axes = "HWC" if "C" in self.layout else "HW"
        values = values.transpose([axes.index(a) for a in self.layout if a != "N"]).astype(dtype)
        return np.repeat(values[None], self.batch, axis=0) if "N" in self.layout else values

    def _measure(self, picture: Image) -> tuple[int, int]:
        """Width and height to stretch an image to.

        Raises:
            FeedError: They are too large.
        """
        height, width = self.size
        if height is None and width is None:
            small = picture.width * picture.height <= _MANY
            ratio = 1 if small else _USUAL / min(picture.size)
        else:
            ratio = height / picture.height if height else (width or 1) / picture.width
        width = width or max(1, round(picture.width * ratio))
        height = height or max(1, round(picture.height * ratio))
        if width * height > _MOST:
            raise FeedError(
                f"An image of {picture.width} x {picture.height} would become {width} x {height} "
                f"for {self.port.name!r}, more than {_MOST:,} pixels: give a size."
            )
        return width, height

    def __str__(self) -> str:
        pixel = "pixel" if self.scale == 1 else f"pixel * {self.scale:g}"
        pixel = "pixel / 255" if self.scale == 1 / 255 else pixel
        if set(self.mean) != {0.0}:
            pixel = f"({pixel} - {_text(self.mean)})"
        if set(self.std) != {1.0}:
            pixel = f"{pixel} / {_text(self.std)}"
        mode = _MODES[self.channels]
        colours = {"L": "grey", "RGB": "BGR" if self.bgr else "RGB"}.get(mode, mode)
        return f"{self.layout}, {colours}, {pixel}"


def opened(picture: ImageLike) -> Image:
    """An image, upright.

    Raises:
        FeedError: It cannot be read, or has too many pixels.
        RuntimeMissingError: Pillow, which reads it, is not installed.
    """
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise RuntimeMissingError(
            f"An image needs Pillow. Install onnxgrad[plot] or onnxgrad[cli]. ({error})"
        ) from error
    if isinstance(picture, Image.Image):
        return ImageOps.exif_transpose(picture)
    path = os.fspath(picture)
    require_file(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as file:
                file.load()
                return ImageOps.exif_transpose(file)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise FeedError(
            f"{path!r} has more than {Image.MAX_IMAGE_PIXELS:,} pixels, the limit of Pillow "
            "(PIL.Image.MAX_IMAGE_PIXELS): make it smaller."
        ) from error
    except Exception as error:  # Pillow's decoders have their own
        raise unreadable(path, error) from error


def shown(values: Array) -> Array:
    """Numbers [H, W, C] as an image to look at: uint8, [H, W] or [H, W, 3].

    They are of 0 to 255 or of 0 to 1 where they lie there, else stretched from least to largest.
    """
    values = np.nan_to_num(np.asarray(values, np.float64), posinf=0, neginf=0)
    low, high = float(values.min()), float(values.max())
    if low >= -1e-6 and high <= 255 + 1e-3:
        low, high = 0, (1 if high <= 1 + 1e-6 else 255)
    pixels = np.rint((values - low) / ((high - low) or 1) * 255).clip(0, 255).astype(np.uint8)
    return pixels[..., :3] if pixels.shape[-1] > 2 else pixels[..., 0]


def _layout(port: Port, given: str | None) -> str:
    if given is not None:
        layout = given.upper()
        if kind_of(layout) != "image":
            raise ArgumentError(f"{given!r} is not the layout of an image, such as NCHW")
        if port.shape is not None and len(port.shape) != len(layout):
            raise ArgumentError(f"{port.name!r} of shape {port.shape_text()} is not {layout}")
        return layout
    layout_found = image_layout(port.shape) if port.shape is not None else None
    if layout_found is None:
        advice = " Give its layout, such as NCHW." if port.shape is None else ""
        raise FeedError(
            f"{port.name!r} of shape {port.shape_text()} does not take an image.{advice}"
        )
    return layout_found


def _per_channel(
    name: str, given: PerChannel | None, default: float, channels: int
) -> tuple[float, ...]:
    if given is None:
        return (float(default),)
    numbers = tuple(float(n) for n in np.ravel(np.asarray(given, np.float64)))
    if len(numbers) not in (1, channels):
        raise ArgumentError(f"{name} has {len(numbers)} numbers for {channels} channels")
    return numbers


def _side(axis: str, sizes: dict[str, Any], size: int | tuple[int, int] | None) -> int | None:
    """The height or width that is given, or that the port has."""
    own = sizes[axis] if isinstance(sizes[axis], int) else None
    if size is None:
        return own
    side = counted("size", size["HW".index(axis)] if isinstance(size, tuple) else size, 1)
    if own not in (None, side):
        raise ArgumentError(f"size {side}: the net takes {own}")
    return side


def _pixels(picture: Image, channels: int, size: tuple[int, int]) -> Array:
    """The image in a size, [H, W, C] from 0 to 255."""
    from PIL import Image

    if picture.mode == "F":
        raise FeedError("An image of floating-point numbers has no known range: give a .npy file.")
    if picture.mode.startswith("I"):  # 16 bits and 32
        grey = np.asarray(picture, np.float32)
        deep = picture.mode.startswith("I;16") or grey.max(initial=0) > 255
        picture = Image.fromarray(grey / 257 if deep else grey)
        grey = np.asarray(picture.resize(size, Image.Resampling.BILINEAR))[..., None]
        opaque = [np.full_like(grey, 255)] if channels == 4 else []
        return np.concatenate([*[grey] * min(channels, 3), *opaque], axis=-1)
    if channels < 4 and ("A" in picture.getbands() or "transparency" in picture.info):
        over = picture.convert("RGBA")
        picture = Image.new("RGBA", over.size, "white")
        picture.alpha_composite(over)
    picture = picture.convert(_MODES[channels]).resize(size, Image.Resampling.BILINEAR)
    return np.asarray(picture).reshape(size[1], size[0], channels)


def _text(numbers: tuple[float, ...]) -> str:
    texts = [f"{n:g}" for n in numbers]
    return texts[0] if len(set(texts)) == 1 else f"({', '.join(texts)})"
