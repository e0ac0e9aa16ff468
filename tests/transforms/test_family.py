"""The files for solvers: against derivatives by hand, and against the files that onnx-ad writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.reference
import onnxruntime as ort
import pytest

import onnxgrad as og
from tests.oracle import Array

HEAD = '<ir_version: 10, opset_import: ["" : 21]>\n'
RNG = np.random.default_rng(11)

# Nets that both support: by name the text, and a feed.
NETS = {
    "vector": (
        """vector (double[3] x, double[3] p) => (double[3] y) {
          s = Sin(x)
          q = Mul(s, p)
          y = Mul(q, x)
        }""",
        {"x": [3], "p": [3]},
    ),
    "matrix": (
        """matrix (double[4,3] x) => (double[4,2] y)
          <double[3,2] w = {0.5, -1.0, 0.25, 2.0, 1.5, -0.75}> {
          t = Tanh(x)
          m = MatMul(t, w)
          y = Sigmoid(m)
        }""",
        {"x": [4, 3]},
    ),
    "scalar": (
        """scalar (double x, double[2] v) => (double y, double[2] z) {
          q = Mul(x, v)
          z = Exp(q)
          s = Sin(x)
          y = Mul(s, x)
        }""",
        {"x": [], "v": [2]},
    ),
    "column": (
        "column (double[3,1] x) => (double[3,1] y) { s = Cos(x) y = Mul(s, s) }",
        {"x": [3, 1]},
    ),
    "image": (
        """image (double[1,2,3,3] x) => (double[1,2,3,3] y) {
          t = Tanh(x)
          y = Mul(t, x)
        }""",
        {"x": [1, 2, 3, 3]},
    ),
    "linear": (
        # The adjoint does not depend on x, nor y on the second input.
        "linear (double[2] x, double[2] c) => (double[2] y, double[2] z) { y = Neg(x) z = Exp(c) }",
        {"x": [2], "c": [2]},
    ),
    "batch": (
        # onnx-ad's second order takes no operator that broadcasts sizes it does not know.
        "batch (double[N,3] x) => (double[N,3] y) { s = Sin(x) y = Tanh(s) }",
        {"x": [4, 3]},
    ),
}


def parse(text: str) -> onnx.ModelProto:
    model = onnx.parser.parse_model(HEAD + text)
    onnx.checker.check_model(model, full_check=True)
    return model


def run(path: str | Path, feeds: dict[str, Array]) -> dict[str, Array]:
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [o.name for o in session.get_outputs()]
    wanted = {i.name for i in session.get_inputs()}
    return dict(zip(names, session.run(None, {k: feeds[k] for k in wanted}), strict=True))


def size(shape: list[int]) -> tuple[int, int]:
    """The rows and columns that a tensor is read as."""
    return (shape[0], shape[1]) if len(shape) == 2 else (int(np.prod(shape)), 1)


def feeds_of(
    model: onnx.ModelProto, shapes: dict[str, list[int]], nadj: int, nfwd: int
) -> dict[str, Array]:
    """Random inputs, and seeds of all kinds."""
    feeds = {k: RNG.standard_normal(s) for k, s in shapes.items()}
    outs = onnx.reference.ReferenceEvaluator(model).run(None, feeds)
    for out, value in zip(model.graph.output, outs, strict=True):
        r, c = size(list(value.shape))
        feeds[f"adj_{out.name}"] = RNG.standard_normal((r, nadj * c))
        feeds[f"fwd_adj_{out.name}"] = RNG.standard_normal((r, nfwd * nadj * c))
    for k, s in shapes.items():
        r, c = size(s)
        feeds[f"fwd_{k}"] = RNG.standard_normal((r, nfwd * c))
    return feeds


def ports(values: Any) -> list[tuple[str, list[Any]]]:
    return [
        (v.name, [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim]) for v in values
    ]


def test_by_hand(tmp_path: Path) -> None:
    """y = sin(x) p x: two seeds, and three directions for each of them."""
    text, shapes = NETS["vector"]
    model = parse(text)
    paths = og.family(model, tmp_path / "new" / "folder")
    assert [Path(p).name for p in paths] == [
        "vector.onnx",
        "adj_vector.onnx",
        "fwd_adj_vector.onnx",
    ]
    feeds = feeds_of(model, shapes, 2, 3)
    x, p = feeds["x"][:, None], feeds["p"][:, None]
    got = run(paths[1], feeds)
    assert list(got) == ["y", "adj_x", "adj_p"]
    first = p * (np.cos(x) * x + np.sin(x))
    np.testing.assert_allclose(got["adj_x"], feeds["adj_y"] * first, rtol=1e-12)
    np.testing.assert_allclose(got["adj_p"], feeds["adj_y"] * np.sin(x) * x, rtol=1e-12)
    moved = run(paths[2], feeds)
    assert list(moved) == ["y", "adj_x", "adj_p", "fwd_adj_x", "fwd_adj_p"]
    second = p * (2 * np.cos(x) - np.sin(x) * x)
    for k in range(3):
        dx, dp = feeds["fwd_x"][:, [k]], feeds["fwd_p"][:, [k]]
        du = feeds["fwd_adj_y"].reshape(3, 3, 2)[:, k]
        along = feeds["adj_y"] * (second * dx + first / p * dp) + du * first
        np.testing.assert_allclose(moved["fwd_adj_x"].reshape(3, 3, 2)[:, k], along, rtol=1e-10)


@pytest.mark.parametrize("name", NETS)
def test_a_switch_from_onnx_ad(name: str, tmp_path: Path) -> None:
    """The same files, inputs, outputs, declared shapes and values, for several seeds at once."""
    onnx_ad = pytest.importorskip("onnx_ad", reason="onnx-ad is not installed")
    text, shapes = NETS[name]
    model = parse(text)
    theirs = onnx_ad.family(model, str(tmp_path / "theirs" / f"{name}.onnx"))
    ours = og.family(model, tmp_path / "ours")
    assert [Path(p).name for p in ours] == [Path(p).name for p in theirs]
    for nadj, nfwd in ((1, 1), (2, 3)):
        feeds = feeds_of(model, shapes, nadj, nfwd)
        for a, b in zip(ours, theirs, strict=True):
            got, want = run(a, feeds), run(b, feeds)
            assert list(got) == list(want)
            for key in want:
                assert got[key].shape == want[key].shape, key
                np.testing.assert_allclose(got[key], want[key], rtol=1e-9, atol=1e-12)
    for a, b in zip(ours, theirs, strict=True):
        mine, other = onnx.load(a), onnx.load(b)
        onnx.checker.check_model(mine, full_check=True)
        assert ports(mine.graph.input) == ports(other.graph.input)
        assert ports(mine.graph.output) == ports(other.graph.output)


def test_what_is_not_floating_has_no_seeds(tmp_path: Path) -> None:
    text = """f (double[4] x, int64[N] i) => (double[N] y, int64[1] n) {
      s = Mul(x, x)
      y = Gather(s, i)
      n = Shape(y)
    }"""
    _, adjoint, second = og.family(parse(text), tmp_path)
    assert [i.name for i in onnx.load(adjoint).graph.input] == ["x", "i", "adj_y"]
    feeds = {"x": np.arange(4.0), "i": np.array([1, 1, 3])}
    feeds |= {"adj_y": np.eye(3), "fwd_x": np.ones((4, 1)), "fwd_adj_y": np.zeros((3, 3))}
    got = run(second, feeds)
    assert list(got) == ["y", "n", "adj_x", "fwd_adj_x"]
    want = np.array([[0, 0, 0], [2, 2, 0], [0, 0, 0], [0, 0, 6.0]])
    np.testing.assert_allclose(got["adj_x"], want)
    np.testing.assert_allclose(got["fwd_adj_x"], np.sign(want) * 2)


def test_names(tmp_path: Path) -> None:
    """The file's name, the graph's or the one that is given; prefixes that are not taken."""
    text, _ = NETS["vector"]
    path = tmp_path / "some.model.onnx"
    onnx.save(parse(text), path)
    assert Path(og.family(path, tmp_path / "a")[1]).name == "adj_some.model.onnx"
    assert Path(og.family(path, tmp_path / "b", name="g")[2]).name == "fwd_adj_g.onnx"
    text = "f (double[2] x, double[2] adj_a) => (double[2] y) { y = Mul(x, adj_a) }"
    _, adjoint, second = og.family(parse(text), tmp_path / "c")
    assert [o.name for o in onnx.load(adjoint).graph.output] == ["y", "adj2_x", "adj2_adj_a"]
    assert ports(onnx.load(second).graph.input)[-1] == ("fwd_adj2_y", [2, "nfwd_nadj2"])


def test_of_a_model_with_gradients_all_outputs_have_seeds(tmp_path: Path) -> None:
    text = "f (double[2] x) => (double[2] y) { y = Sin(x) }"
    _, adjoint, _ = og.family(og.gradient(parse(text)), tmp_path)
    assert [i.name for i in onnx.load(adjoint).graph.input] == ["x", "adj_y", "adj_x_grad"]


def test_refusals(tmp_path: Path) -> None:
    text, _ = NETS["vector"]
    for name in ("", "a/b", "../f"):
        with pytest.raises(og.ArgumentError, match="no name of a file"):
            og.family(parse(text), tmp_path, name=name)
    inner = "f (double[2] x) => (double[2] y) { adj_x = Sin(x) y = Cos(adj_x) }"
    with pytest.raises(og.ArgumentError, match="'adj_x' is the name of a tensor"):
        og.family(parse(inner), tmp_path)
    with pytest.raises(og.ArgumentError, match="no floating-point output"):
        og.family(parse("f (int64[2] x) => (int64[2] y) { y = Neg(x) }"), tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(og.SaveError):
        og.family(parse(text), tmp_path / "file" / "folder")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
