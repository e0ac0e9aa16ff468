"""Images as nets expect them: of every kind of file, in every layout."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import onnxgrad as og
from onnxgrad.explain.images import Expected, opened, shown
from onnxgrad.runtimes.ports import Port

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 6, 3), np.uint8)


def port(*shape: int | str | None, dtype: str = "float32") -> Port:
    return Port("x", np.dtype(dtype), shape)


def test_layouts() -> None:
    picture, expected = Image.fromarray(PIXELS), np.float32(PIXELS / 255)
    for shape in (("N", 3, 5, 6), (1, 3, None, None), (None,) * 4):
        found = og.explain.image(picture, port(*shape))
        np.testing.assert_allclose(found, expected.transpose(2, 0, 1)[None], rtol=1e-6)
        assert found.dtype == np.float32
    np.testing.assert_allclose(
        og.explain.image(picture, port("N", 5, 6, 3)), expected[None], rtol=1e-6
    )
    np.testing.assert_allclose(og.explain.image(picture, port(5, 6, 3)), expected, rtol=1e-6)
    grey = np.asarray(picture.convert("L")) / 255
    np.testing.assert_allclose(og.explain.image(picture, port("N", 5, 6)), grey[None], rtol=1e-6)
    two = og.explain.image(picture, Port("x", np.dtype("float32"), None), layout="hw")
    np.testing.assert_allclose(two, grey, rtol=1e-6)
    batch = og.explain.image(picture, port(3, 3, 5, 6))
    assert batch.shape == (3, 3, 5, 6)
    np.testing.assert_array_equal(batch[0], batch[2])


def test_numbers() -> None:
    """``(pixel * scale - mean) / std``, per channel of the net's order."""
    picture = Image.fromarray(PIXELS)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    found = og.explain.image(picture, port("N", 5, 6, 3), mean=mean, std=std)
    np.testing.assert_allclose(found[0], (PIXELS / 255 - mean) / std, rtol=1e-4)
    found = og.explain.image(picture, port("N", 5, 6, 3), mean=mean, std=std, bgr=True)
    np.testing.assert_allclose(found[0], (PIXELS[..., ::-1] / 255 - mean) / std, rtol=1e-4)
    found = og.explain.image(picture, port("N", 5, 6, 3), mean=127, std=128)  # of 0 to 255
    np.testing.assert_allclose(found[0], (PIXELS - 127.0) / 128, rtol=1e-4)
    found = og.explain.image(picture, port("N", 5, 6, 3), std=2, scale=1 / 255)
    np.testing.assert_allclose(found[0], PIXELS / 510, rtol=1e-4)
    for dtype in ("float16", "float64", "uint8", "int32"):
        found = og.explain.image(picture, port("N", 5, 6, 3, dtype=dtype))
        assert found.dtype == dtype
        expected = PIXELS / 255 if dtype.startswith("float") else PIXELS
        np.testing.assert_allclose(found[0].astype(float), expected, atol=1e-3)
    signed = og.explain.image(picture, port("N", 5, 6, 3, dtype="int8"), mean=128)
    np.testing.assert_array_equal(signed[0], PIXELS.astype(int) - 128)
    with pytest.raises(og.ArgumentError, match="do not fit"):
        og.explain.image(picture, port("N", 5, 6, 3, dtype="int8"))


@pytest.mark.parametrize(
    "port_size, given, size",
    [
        ((224, 320), None, (224, 320)),
        ((None, "W"), None, (300, 450)),
        ((48, "W"), None, (48, 72)),
        ((None, 30), None, (20, 30)),
        ((None, None), 64, (64, 64)),
        ((None, "W"), (32, 16), (32, 16)),
        ((32, "W"), (32, 16), (32, 16)),
    ],
)
def test_sizes(port_size: tuple[int | str | None, ...], given: int | None, size: object) -> None:
    picture = Image.new("RGB", (450, 300))
    found = og.explain.image(picture, port("N", 3, *port_size), size=given)
    assert found.shape[2:] == size


def test_a_large_image_of_any_size_is_made_smaller() -> None:
    found = og.explain.image(Image.new("RGB", (3000, 2000)), port("N", 3, None, None))
    assert found.shape == (1, 3, 224, 336)


def test_what_is_expected_in_words() -> None:
    given = {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.3, 0.4), "bgr": True}
    expected = Expected.of(port(3, 5, 6), **given)  # type: ignore[arg-type]
    assert str(expected) == "CHW, BGR, (pixel / 255 - (0.4, 0.5, 0.6)) / (0.2, 0.3, 0.4)"
    assert str(Expected.of(port("N", 1, 8, 8), scale=2)) == "NCHW, grey, pixel * 2"
    assert str(Expected.of(port("N", 8, 8, 4, dtype="uint8"))) == "NHWC, RGBA, pixel"


def test_an_array_as_an_image() -> None:
    """Of 0 to 1 or 0 to 255 as it is, anything else stretched."""
    pixels = PIXELS.copy()
    pixels[0, 0] = 0, 255, 7
    for values in (pixels / 255, pixels, (pixels / 255 - 0.5) / 0.2):
        np.testing.assert_array_equal(shown(values), pixels)
    assert shown(PIXELS[..., :1]).shape == (5, 6)
    assert (shown(np.zeros((2, 2, 3))) == 0).all() and (shown(np.full((2, 2, 1), 7.5)) == 8).all()


def saved(folder: Path, picture: Image.Image, name: str, **options: object) -> str:
    path = str(folder / name)
    picture.save(path, **options)
    return path


def test_kinds_of_files(tmp_path: Path) -> None:
    colours = Image.fromarray(PIXELS)
    rgb, one = port("N", 3, 5, 6), port("N", 1, 5, 6)
    exact = og.explain.image(colours, rgb)
    # Turned by its EXIF data.
    turned = Image.fromarray(np.rot90(PIXELS))  # to the left; 6 says: turn it to the right
    exif = Image.Exif()
    exif[0x0112] = 6
    path = saved(tmp_path, turned, "exif.png", exif=exif)
    np.testing.assert_array_equal(og.explain.image(path, rgb), exact)
    # Transparent pixels are white, for a net of three channels or one; four keep them.
    alpha = np.full((5, 6), 255, np.uint8)
    alpha[1, 2] = 0
    rgba = saved(tmp_path, Image.fromarray(np.dstack([PIXELS, alpha])), "rgba.png")
    over = og.explain.image(rgba, rgb)
    assert (over[0, :, 1, 2] == 1).all()
    np.testing.assert_array_equal(np.delete(over[0, :, 1], 2, 1), np.delete(exact[0, :, 1], 2, 1))
    assert og.explain.image(rgba, one)[0, 0, 1, 2] == 1
    np.testing.assert_allclose(og.explain.image(rgba, port("N", 4, 5, 6))[0, 3], alpha / 255)
    # A palette, with one colour transparent.
    palette = colours.quantize(24)
    plain = og.explain.image(palette, rgb)
    np.testing.assert_allclose(
        plain, np.float32(palette.convert("RGB")).transpose(2, 0, 1)[None] / 255
    )
    index = int(np.asarray(palette)[3, 4])
    path = saved(tmp_path, palette, "palette.png", transparency=index)
    assert (og.explain.image(path, rgb)[0, :, 3, 4] == 1).all()
    # Grey, of 8 bits, 16 bits and 1 bit, and CMYK.
    deep = np.arange(30, dtype=np.uint16).reshape(5, 6) * 2200 + 7
    path = saved(tmp_path, Image.fromarray(deep), "deep.png")
    np.testing.assert_allclose(og.explain.image(path, one)[0, 0], deep / 65535, atol=1e-6)
    np.testing.assert_allclose(og.explain.image(path, rgb)[0, 2], deep / 65535, atol=1e-6)
    assert (og.explain.image(path, port("N", 4, 5, 6))[0, 3] == 1).all()
    for mode in ("L", "1", "CMYK", "LA"):
        path = saved(tmp_path, colours.convert(mode), f"{mode}.tif")
        expected = np.asarray(colours.convert(mode).convert("L")) / 255
        np.testing.assert_allclose(og.explain.image(path, one)[0, 0], expected, atol=1e-6)


def test_mistakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path, Image.fromarray(PIXELS), "image.png")
    with monkeypatch.context() as patch:
        for limit in (20, 3):  # Pillow warns of the first, and raises for the second
            patch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
            with pytest.raises(og.FeedError, match=f"more than {limit} pixels"):
                opened(path)
    whole = Path(path).read_bytes()
    for name, content in [("cut.png", whole[:-40]), ("none.png", b""), ("text.png", b"text")]:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(og.FeedError, match=name):
            opened(tmp_path / name)
    with pytest.raises(og.FeedError, match="No such file"):
        opened(tmp_path / "missing.png")
    with pytest.raises(og.FeedError, match="floating-point"):
        og.explain.image(Image.new("F", (6, 4)), port("N", 3, 5, 6))
    for shape in [("N", 16, 5, 6), (8, 5, 6), ("N", 4)]:
        with pytest.raises(og.FeedError, match="take"):
            og.explain.image(path, port(*shape))
    for words, options in [
        ("mean has 2", {"mean": (1, 2)}),
        ("std", {"std": 0}),
        ("size 9", {"size": 9}),
        ("not NHW", {"layout": "NHW"}),
        ("not the layout of an image", {"layout": "NCT"}),
    ]:
        with pytest.raises(og.ArgumentError, match=words):
            og.explain.image(path, port("N", 3, 5, 6), **options)  # type: ignore[arg-type]
    with pytest.raises(og.ArgumentError, match="single channel"):
        og.explain.image(path, port("N", 1, 5, 6), bgr=True)
    with pytest.raises(og.ArgumentError, match="2 inputs"):
        og.explain.image(path, og.Net("models/two_in_two_out.onnx"))
    assert og.explain.image(path, og.Net("models/cnn.onnx")).shape == (1, 3, 16, 16)
