"""The command explain: pictures, pages, arrays and models, of every method, and its refusals."""

from __future__ import annotations

import inspect
import json
import os
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper, numpy_helper
from PIL import Image
from typing_extensions import Unpack

import onnxgrad as og
from onnxgrad.cli.files import read_names
from onnxgrad.explain.method import METHODS, Explaining, ExplainOptions, Explanation
from onnxgrad.transforms.options import published
from tests.cli.test_cli import Run, caller, refused

pytest.importorskip("matplotlib")

MODELS = Path(__file__).parents[2] / "models"
DIGITS, DIGIT = str(MODELS / "digits.onnx"), str(MODELS / "digit.npy")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    monkeypatch.chdir(tmp_path)
    return caller(monkeypatch, capsys, "explain")


def layer_map(net: ir.Model, layer: str, *, power: int = 1, **options: Unpack[Explaining]) -> None:
    """A map [N, H, W] of a layer, as the family of Grad-CAM gives it."""
    explanation = Explanation(net, layer, **options)
    op, found = explanation.op, explanation.gradients()
    maps = {}
    for x, g in found.items():
        maps[x] = op.ReduceSum(op.Abs(op.tensor(x) * g), op.const([1]), keepdims=0)
        for _ in range(power - 1):
            maps[x] = maps[x] * maps[x]
    explanation.finish(maps)


@pytest.fixture
def with_map(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, "layer_map", published(layer_map, ExplainOptions))


def model(
    path: str,
    nodes: list[onnx.NodeProto],
    dtypes: dict[str, int],
    shapes: dict[str, list],
    **weights: np.ndarray,
) -> None:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(n, dtypes.get(n, 1), s) for n, s in shapes.items()],
        [helper.make_tensor_value_info("y", dtypes.get("x", 1), None)],
        [numpy_helper.from_array(w, n) for n, w in weights.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    Path(path).write_bytes(made.SerializeToString())


def size_of(path: str) -> tuple[int, int]:
    with Image.open(path) as picture:
        picture.load()
        return picture.size


def test_pictures(run: Run) -> None:
    for suffix in ("png", "jpg", "webp"):
        result = run(DIGITS, DIGIT, "-o", f"heat.{suffix}")
        assert (result.code, result.err) == (0, "")
        assert result.out.splitlines()[-2].startswith("class 3: score ")
        assert size_of(f"heat.{suffix}")[0] > 600
    with Image.open("heat.png") as picture:
        assert picture.info["Title"].startswith("class 3: score ")
    for suffix, start in (("pdf", b"%PDF"), ("svg", b"<?xml")):
        assert run(DIGITS, DIGIT, "-o", f"heat.{suffix}", "--method", "input-x-gradient").code == 0
        assert Path(f"heat.{suffix}").read_bytes().startswith(start)


def test_the_class(run: Run) -> None:
    Path("names.txt").write_text("zero\none\ntwo\nthree\nfour\n")
    named = [DIGITS, DIGIT, "--labels", "names.txt", "-o", "a.npz"]
    scores = og.Net(DIGITS)(np.load(DIGIT))[0]
    assert f"three (3): score {scores[3]:.3g}\n" in run(*named).out
    assert f"two (2): score {scores[2]:.3g}\n" in run(*named, "--target", "2").out
    assert f"two (2): score {scores[2]:.3g}\n" in run(*named, "--target", "TWO").out
    assert f"class 7: score {scores[7]:.3g}\n" in run(*named, "--target", "7").out
    assert "--labels has no name for class 7.\n" in run(*named, "--target", "7").out
    refused(run(*named, "--target", "tree"), "no class 'tree'", "Nearest: 'three'")
    refused(run(*named, "--target", "12"), "there are 10 classes")
    refused(run(*named, "--target", "input"), "--target input is for a model")
    refused(run(DIGITS, DIGIT, "-o", "a.npz", "--target", "two"), "--labels")
    assert f"Sum of scores {scores.sum():.3g}" in run(*named, "--target", "none").out


def test_chances_and_inner_scores(run: Run) -> None:
    net = og.attach(DIGITS, lambda op, y: {"p": op.Softmax(y, axis=1)}, "logits")
    del net.graph.output[0]
    og.save(net, "chances.onnx")
    result = run("chances.onnx", DIGIT, "-o", "a.npz")
    assert len(result.err.splitlines()) == 1 and "'logits'" in result.err
    p = og.Net("chances.onnx")(np.load(DIGIT))[0]
    assert f"class 3: {p[3]:.1%}\n" in result.out
    result = run("chances.onnx", DIGIT, "-o", "b.npz", "--of", "logits")
    assert f"class 3: score {og.Net(DIGITS)(np.load(DIGIT))[0, 3]:.3g}\n" in result.out
    with np.load("a.npz") as before, np.load("b.npz") as inner:
        assert list(before) == list(inner) == ["p", "image_attribution"]
        np.testing.assert_array_equal(before["image_attribution"], inner["image_attribution"])


def test_scores_with_places(run: Run) -> None:
    """Of a map of classes the score is the sum over the places."""
    model("map.onnx", [helper.make_node("Identity", ["x"], ["y"])], {}, {"x": ["N", 3, 4, 5]})
    x = (
        np.random.default_rng(0).random((1, 3, 4, 5), np.float32)
        * np.float32([1, 3, 2])[:, None, None]
    )
    np.save("x.npy", x)
    assert f"class 1: score {x[0, 1].sum():.3g}\n" in run("map.onnx", "x.npy", "-o", "a.npz").out
    second = run("map.onnx", "x.npy", "-o", "a.png", "--target", "2")
    assert f"class 2: score {x[0, 2].sum():.3g}\n" in second.out


def test_through_a_link(run: Run) -> None:
    Path("there").mkdir()
    Path("a.npz").symlink_to("there/b.npz")
    assert run(DIGITS, DIGIT, "-o", "a.npz").code == 0
    assert Path("a.npz").is_symlink() and Path("there/b.npz").exists()


def test_arrays_and_models(run: Run) -> None:
    assert run(DIGITS, DIGIT, "--target", "5", "-o", "a.npz", "--option", "abs=false").code == 0
    assert run(DIGITS, "--target", "5", "-o", "a.onnx", "--option", "abs=false").code == 0
    expected = og.Net("a.onnx")(np.load(DIGIT))
    with np.load("a.npz") as found:
        assert set(found) == {"logits", "image_attribution"}
        np.testing.assert_allclose(
            found["image_attribution"], expected["image_attribution"], rtol=1e-5, atol=1e-6
        )
        assert (found["image_attribution"] < 0).any()
    result = run(DIGITS, "--target", "input", "-o", "b.onnx")
    assert "new input  target" in result.out
    assert [i.name for i in onnx.load("b.onnx").graph.input] == ["image", "target"]


@pytest.mark.usefixtures("with_map")
def test_a_map_of_a_layer_and_options_of_a_method(run: Run) -> None:
    layer = ["--option", "layer=v_Relu_3"]
    assert run(DIGITS, DIGIT, "-o", "a.png", "--method", "layer-map", *layer).code == 0
    assert run(DIGITS, DIGIT, "-o", "a.npz", "--method", "layer_map", *layer).code == 0
    squared = [*layer, "--option", "power=2"]
    assert run(DIGITS, DIGIT, "-o", "b.npz", "--method", "layer-map", *squared).code == 0
    with np.load("a.npz") as one, np.load("b.npz") as two:
        a, b = one["v_Relu_3_attribution"], two["v_Relu_3_attribution"]
        assert a.ndim == 3
        np.testing.assert_allclose(b, a * a, rtol=1e-5)
    method = [DIGITS, DIGIT, "-o", "c.npz", "--method", "layer-map"]
    refused(run(*method), "needs --option layer=")
    refused(run(*method, "--option", "lair=x"), "has no such option", "Nearest: 'layer'")
    refused(run(*method, "--option", "layer"), "has no such option")
    refused(run(*method, "--option", "layer=v_Relu_33"), "v_Relu_3")
    refused(run(*method, *layer, "--wrt", "image"), "--wrt: layer-map does not take it")
    refused(run(*method[:-1], "layer-mop"), "no 'layer-mop'", "layer-map")


@pytest.mark.parametrize("name", sorted(METHODS))
def test_every_method(run: Run, name: str) -> None:
    """Each is served by its signature; what it cannot do without is given."""
    np.save("zeros.npy", np.zeros((2, 1, 8, 8), np.float32))
    given = {"layer": "v_Relu_3", "baselines": "zeros.npy", "method": "input-x-gradient"}
    _, *parameters = inspect.signature(METHODS[name]).parameters.values()
    needed = [p.name for p in parameters if p.default is p.empty]
    options = [text for n in needed for text in ("--option", f"{n}={given[n]}")]
    result = run(DIGITS, DIGIT, "-o", "a.png", "--method", name.replace("_", "-"), *options)
    assert (result.code, result.err) == (0, "")
    assert "class 3: score " in result.out and size_of("a.png")[0] > 600


def test_what_is_repeated(run: Run) -> None:
    noisy = [DIGITS, DIGIT, "-o", "a.npz", "--method", "noise-tunnel", "--option"]
    assert run(*noisy, "method=saliency", "--option", "stdevs=0", "--option", "seed=1").code == 0
    want = og.Net(og.explain.saliency(DIGITS))(np.load(DIGIT))["image_attribution"]
    with np.load("a.npz") as found:
        np.testing.assert_allclose(found["image_attribution"], want, rtol=1e-5, atol=1e-6)
    refused(run(*noisy, "method=salience"), "no 'salience'", "saliency")
    refused(run(*noisy, "method=gradient-shap"), "it needs baselines")
    refused(run(*noisy[:-1]), "needs --option method=")
    steps = [DIGITS, DIGIT, "-o", "a.npz", "--method", "integrated-gradients", "--option"]
    assert run(*steps, "method=riemann_left").code == 0


def test_what_the_net_expects(run: Run) -> None:
    colours = np.random.default_rng(0).integers(0, 256, (12, 18, 3), np.uint8)
    Image.fromarray(colours).save("photo.png")
    for shape, axes in (["N", 3, "H", "W"], [2, 3]), (["N", "H", "W", 3], [1, 2]):
        model(
            "net.onnx",
            [
                helper.make_node("Mul", ["x", "x"], ["s"]),
                helper.make_node("ReduceMean", ["s", "axes"], ["y"], keepdims=0),
            ],
            {},
            {"x": shape},
            axes=np.array(axes),
        )
        result = run("net.onnx", "photo.png", "--mean", "1,2,3", "--std", "2", "-o", "a.npz")
        layout = "NCHW" if axes[0] == 2 else "NHWC"
        assert f"{layout}, RGB, (pixel - (1, 2, 3)) / 2" in result.out
        x = (colours - np.array([1, 2, 3])) / 2
        expected = (x * x).mean((0, 1))
        with np.load("a.npz") as found:
            np.testing.assert_allclose(found["y"][0], expected, rtol=1e-5)
        bgr = ["--bgr", "--scale", "1/255", "--size", "9x6", "-o", "b.npz"]
        result = run("net.onnx", "photo.png", *bgr)
        assert f"{layout}, BGR, pixel / 255" in result.out
        small = Image.fromarray(colours).resize((9, 6), Image.Resampling.BILINEAR)
        expected = ((np.asarray(small)[..., ::-1] / 255) ** 2).mean((0, 1))
        with np.load("b.npz") as found:
            np.testing.assert_allclose(found["y"][0], expected, rtol=1e-5)
        assert run("net.onnx", "photo.png", "-o", "a.png").code == 0
        assert run("net.onnx", "photo.png", "-o", "a.png", "--layout", layout.lower()).code == 0
    for option, value in ("--mean", "a"), ("--size", "1x"), ("--scale", "1/0"), ("--std", "1,"):
        refused(run("net.onnx", "photo.png", option, value, "-o", "c.png"), f"{option}: '{value}'")
    refused(run("net.onnx", "photo.png", "--layout", "CHW", "-o", "c.png"), "is not CHW")
    assert run("net.onnx", "photo.png", "--sign", "both", "-o", "c.png").code == 2
    assert run("net.onnx", "photo.png", "--sign", "negative", "-o", "c.png").code == 0


@pytest.mark.parametrize("dtype", [1, 10, 11])
@pytest.mark.parametrize("shape", [[2, 3, 5, 6], [None, 3, None, None], ["N", 3, 5, "W"]])
def test_ports_of_all_kinds(run: Run, dtype: int, shape: list[int | str | None]) -> None:
    """A fixed batch, sizes without a name, half and double precision."""
    colours = np.random.default_rng(0).integers(0, 256, (5, 6, 3), np.uint8)
    Image.fromarray(colours).save("photo.png")
    mean = helper.make_node("ReduceMean", ["x", "axes"], ["y"], keepdims=0)
    model("net.onnx", [mean], {"x": dtype}, {"x": shape}, axes=np.array([2, 3]))
    assert run("net.onnx", "photo.png", "-o", "a.png").code == 0
    assert run("net.onnx", "photo.png", "-o", "a.npz", "--target", "1").code == 0
    examples = 2 if shape[0] == 2 else 1
    with np.load("a.npz") as found:
        expected = np.tile(colours.mean((0, 1)) / 255, (examples, 1))
        np.testing.assert_allclose(found["y"], expected, rtol=2e-3)
        expected = np.tile(np.array([0, 1, 0])[:, None, None] / 30, (examples, 1, 5, 6))
        np.testing.assert_allclose(found["x_attribution"], expected, rtol=2e-3)


def test_signals_and_several_inputs(run: Run) -> None:
    add = [
        helper.make_node("Mul", ["a", "b"], ["s"]),
        helper.make_node("ReduceSum", ["s", "axes"], ["y"], keepdims=0),
    ]
    model("two.onnx", add, {}, {"a": ["N", 2, "T"], "b": ["N", 2, "T"]}, axes=np.array([2]))
    a, b = np.random.default_rng(0).standard_normal((2, 1, 2, 90)).astype(np.float32)
    np.savez("ab.npz", a=a, b=b)
    np.savez("tall.npz", a=a[:, :, :2], b=b[:, :, :2])
    assert run("two.onnx", "ab.npz", "--wrt", "a", "-o", "a.png").code == 0
    assert run("two.onnx", "ab.npz", "--wrt", "a", "--layout", "NFT", "-o", "a.png").code == 0
    refused(run("two.onnx", "ab.npz", "-o", "c.png"), "one tensor of 'a', 'b': give --wrt")
    assert run("two.onnx", "ab.npz", "-o", "both.npz").code == 0
    with np.load("both.npz") as found:
        np.testing.assert_allclose(
            found["a_attribution"],
            np.abs(b) * (np.arange(2)[:, None] == found["y"].argmax()),
            rtol=1e-5,
        )


def test_tokens(run: Run) -> None:
    embed = [
        helper.make_node("Gather", ["table", "ids"], ["e"]),
        helper.make_node("ReduceSum", ["e", "axes"], ["y"], keepdims=0),
    ]
    table = np.array([[0, 0], [3, -1], [-2, 1]], np.float32)
    model("text.onnx", embed, {"ids": 7}, {"ids": ["N", "S"]}, table=table, axes=np.array([1]))
    np.save("ids.npy", np.array([[1, 2, 0]]))
    Path("vocab.json").write_text(json.dumps({"<pad>": 0, "good": 1, "bad": 2}))
    Path("tokens.txt").write_text("Gut\nSchlecht\n<>\n")
    command = [
        "text.onnx",
        "ids.npy",
        "--wrt",
        "e",
        "--method",
        "input-x-gradient",
        "--target",
        "0",
    ]
    assert run(*command, "--vocabulary", "vocab.json", "-o", "a.html").code == 0
    page = Path("a.html").read_text()
    assert 'aria-label="good: +3"' in page and 'aria-label="bad: -2"' in page
    assert "&lt;pad&gt;" in page
    assert run(*command, "--tokens", "tokens.txt", "-o", "b.html").code == 0
    assert 'aria-label="Schlecht: -2"' in Path("b.html").read_text()
    assert run(*command, "-o", "c.html").code == 0
    assert 'aria-label="2: -2"' in Path("c.html").read_text()
    Path("tokens.txt").write_text("Gut\n")
    refused(run(*command, "--tokens", "tokens.txt", "-o", "d.html"), "1 tokens and 3")
    refused(run(DIGITS, DIGIT, "-o", "d.html"), "give --tokens")


def test_an_empty_batch(run: Run) -> None:
    np.save("none.npy", np.load(DIGIT)[:0])
    refused(run(DIGITS, "none.npy", "-o", "out.png"), "nothing to draw: 'image' has no example")
    result = run(DIGITS, "none.npy", "-o", "out.npz")
    assert result.code == 0 and "No example\n" in result.out
    assert np.load("out.npz")["image_attribution"].shape[0] == 0


def test_a_score_for_each_example(run: Run) -> None:
    """Of a regression: a vector of the size of the batch holds no classes."""
    sums = [helper.make_node("ReduceSum", ["x", "a"], ["y"], keepdims=0)]
    model("sum.onnx", sums, {}, {"x": ["N", 3]}, a=np.array([1]))
    np.save("x.npy", np.arange(6, dtype=np.float32).reshape(2, 3))
    assert "Score 3\n" in run("sum.onnx", "x.npy", "-o", "a.npz").out


def test_refusals_leave_no_file(run: Run) -> None:
    Path("broken.png").write_bytes(b"no image")
    before = sorted(os.listdir())
    refused(run(DIGITS, "broken.png", "-o", "out.png"), "broken.png")
    refused(run(DIGITS, "none.png", "-o", "out.png"), "No such file")
    refused(run(DIGITS, "-o", "out.png"), "No value for the input 'image'")
    refused(run(DIGITS, DIGIT, "-o", "out.bmp"), "it ends in one of .png", "'.bmp'")
    refused(run(DIGITS, DIGIT, "-o", "no/out.png"), "no folder")
    refused(run(DIGITS, DIGIT, "--labels", "none.txt", "-o", "out.png"), "none.txt")
    refused(run("none.onnx", DIGIT, "-o", "out.png"), "none.onnx")
    again = ["image=" + DIGIT, "image=" + DIGIT]
    refused(run(DIGITS, *again, "-o", "out.png"), "'image' is given twice")
    refused(run(DIGITS, DIGIT, "--wrt", "imagee", "-o", "out.png"), "Nearest: 'image'")
    assert sorted(os.listdir()) == before


def test_a_full_disk_leaves_no_file(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.figure import Figure

    Path("heat.png").write_bytes(b"old")

    def full(figure: Figure, path: Path, **options: object) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Figure, "savefig", full)
    refused(run(DIGITS, DIGIT, "-o", "heat.png"), "No space left")
    assert os.listdir() == ["heat.png"] and Path("heat.png").read_bytes() == b"old"


@pytest.mark.parametrize(
    "content, names",
    [
        ("a\nb\n", {0: "a", 1: "b"}),
        ('["a", "b"]', {0: "a", 1: "b"}),
        ('{"0": "a", "7": "b"}', {0: "a", 7: "b"}),
        ('{"a": 0, "b": 7}', {0: "a", 7: "b"}),
        ('{"0": ["n01440764", "tench"]}', {0: "tench"}),
        ("[PAD]\n[UNK]\n", {0: "[PAD]", 1: "[UNK]"}),
        ("\ufeffKäse\n", {0: "Käse"}),
    ],
)
def test_names(tmp_path: Path, content: str, names: dict[int, str]) -> None:
    (tmp_path / "names").write_text(content, "utf-8")
    assert read_names(str(tmp_path / "names")) == names


def test_names_that_are_none(tmp_path: Path) -> None:
    for content in (b"[]", b"{}", b"", b'{"a": [1]}', b'{"a": "b"}', b"\xff\xfe\x00"):
        (tmp_path / "names").write_bytes(content)
        with pytest.raises(og.FeedError, match="names"):
            read_names(str(tmp_path / "names"))
