"""Jacobians and Hessians by example, against derivatives by hand and against batches of one."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

import onnxgrad as og
from tests.transforms.test_transforms import NET, RNG, W, X, parse, run, static

FEEDS = {"x": X, "w": W}
# dy/dx and dy/dw of y = sin(x) @ w.
DY_DX = np.cos(X)[:, None, :] * W.T
DY_DW = np.sin(X)[:, None, :, None] * np.eye(2)[:, None, :]


@pytest.mark.parametrize("mode", ["auto", "reverse", "forward"])
@pytest.mark.parametrize("fixed", [False, True])
def test_jacobian(mode: str, fixed: bool) -> None:
    net = static(parse(NET), 4) if fixed else parse(NET)
    model = og.jacobian(net, of="y", mode=mode, batched="x", forward=False)
    got = run(model, **FEEDS)
    np.testing.assert_allclose(got["y_x_jacobian"], DY_DX, rtol=1e-12)
    np.testing.assert_allclose(got["y_w_jacobian"], DY_DW, rtol=1e-12, atol=1e-15)


def test_one_step_for_each_element_of_one_example() -> None:
    """Their number is known, though the batch is not; so no branch for a batch of none."""
    model = og.jacobian(parse(NET), "x", of="y", batched="x", forward=False)
    (scan,) = (n for n in model.graph.node if n.op_type == "Scan")
    steps = onnx.helper.make_tensor_value_info(scan.input[0], onnx.TensorProto.INT64, ["K"])
    model.graph.output.append(steps)
    assert run(model, **FEEDS)[steps.name].tolist() == [0, 1]


def of_one(net: onnx.ModelProto, feeds: dict[str, Any], wrt: list[str], **options: Any) -> Any:
    """The Hessians of batches of one, without their axes of size 1."""
    model = og.hessian(net, wrt, forward=False, **options)
    rows = [
        run(model, **{k: v if k == "w" else v[n : n + 1] for k, v in feeds.items()})
        for n in range(4)
    ]
    shapes = {"x": (3,), "w": (3, 2)}
    return {
        f"{a}_{b}_hessian": np.stack(
            [row[f"{a}_{b}_hessian"].reshape(*shapes[a], *shapes[b]) for row in rows]
        )
        for a in wrt
        for b in wrt
    }


@pytest.mark.parametrize("wrt", [["x"], ["w"], ["x", "w"]])
@pytest.mark.parametrize("ograd", [False, True])
def test_hessian(wrt: list[str], ograd: bool) -> None:
    """Of parameters too, whose Hessian is a sum over the batch."""
    options = {"of": "z", "ograd": ograd}
    feeds = FEEDS | ({"z_ograd": RNG.standard_normal(4)} if ograd else {})
    got = run(og.hessian(parse(NET), wrt, batched="x", forward=False, **options), **feeds)
    want = of_one(parse(NET), feeds, wrt, **options)
    assert list(got) == list(want)
    for name, blocks in want.items():
        np.testing.assert_allclose(got[name], blocks, rtol=1e-10, atol=1e-12)


CONV = """g (float[N,1,4,4] x) => (float[N,2,4,4] y)
<float[2,1,3,3] w = {1,2,3,4,5,6,7,8,9,-1,-2,-3,-4,-5,-6,-7,-8,-9}> {
  h = Tanh(x)
  s = Conv <pads = [1, 1, 1, 1]> (h, w)
  y = Mul(s, s)
}"""


def test_what_is_made_of_a_parameter_outside_of_the_examples() -> None:
    """The filters are turned round once for all examples; the way to them leads through that."""
    x = np.random.default_rng(0).standard_normal((2, 1, 4, 4)).astype(np.float32) / 10
    net = parse(CONV)
    got = run(og.hessian(net, ["x", "w"], batched=True, forward=False), x=x)
    turned = got["w_x_hessian"].transpose(0, 5, 6, 7, 1, 2, 3, 4)
    np.testing.assert_allclose(got["x_w_hessian"], turned, rtol=1e-4, atol=1e-4)
    assert abs(turned).max() > 1


def test_an_inner_tensor_has_the_batch_if_it_depends_on_an_input_that_has() -> None:
    got = run(og.jacobian(parse(NET), "s", of="z", batched="x", forward=False), **FEEDS)
    want = 2 * (np.sin(X) @ W) @ W.T
    np.testing.assert_allclose(got["z_s_jacobian"], want, rtol=1e-12)


def test_no_example() -> None:
    none = {"x": X[:0], "w": W}
    for mode in ("reverse", "forward"):
        got = run(og.jacobian(parse(NET), of="y", mode=mode, batched="x", forward=False), **none)
        assert [v.shape for v in got.values()] == [(0, 2, 3), (0, 2, 3, 2)]
    got = run(og.hessian(parse(NET), of="z", batched="x", forward=False), **none)
    assert got["x_x_hessian"].shape == (0, 3, 3) and got["w_x_hessian"].shape == (0, 3, 2, 3)


def test_the_size_is_that_of_the_blocks() -> None:
    net = static(parse(NET), 4)
    full = 4 * 2 * 3 * 8  # [N, 2, 3] doubles
    og.jacobian(net, "x", of="y", batched="x", max_bytes=full)
    with pytest.raises(og.ArgumentError, match=f"takes {full} bytes"):
        og.jacobian(net, "x", of="y", batched="x", max_bytes=full - 1)
    og.hessian(net, "x", of="z", batched="x", max_bytes=4 * 3 * 3 * 8)
    with pytest.raises(og.ArgumentError, match="takes 288 bytes"):
        og.hessian(net, "x", of="z", batched="x", max_bytes=4 * 3 * 3 * 8 - 1)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"batched": "u"}, "'u' is no graph input"),
        ({"batched": 5}, "a name or a sequence"),
        ({"of": "total"}, "'total' is a scalar"),
        ({"of": "turned"}, r"first axis of 'turned' \[3,N\] is not the batch, of size N"),
        ({"of": "alone", "wrt": "c"}, "'alone' depends on no input with the batch"),
    ],
)
def test_what_has_no_batch(options: dict[str, Any], words: str) -> None:
    net = parse(
        """g (double[N,3] x, double[3] c)
        => (double[N,3] y, double total, double[3,N] turned, double[3] alone) {
          y = Mul(x, c)
          total = ReduceSum <keepdims = 0> (y)
          turned = Transpose <perm = [1, 0]> (y)
          alone = Sin(c)
        }"""
    )
    with pytest.raises(og.ArgumentError, match=words):
        og.jacobian(net, **({"wrt": "x", "of": "y", "batched": "x"} | options))


def test_net() -> None:
    net = og.Net(parse(NET.replace(", double[3,2] w)", ")").replace(
        "<int64", f"<double[3,2] w = {{{', '.join(map(repr, W.ravel().tolist()))}}}, int64"
    )))  # fmt: skip
    np.testing.assert_allclose(net.jacobian(X, of="y", batched=True), DY_DX)
    np.testing.assert_allclose(net.jacobian(X, "w", of="y", batched="x"), DY_DW, atol=1e-15)
    blocks = net.hessian(X, ["x", "w"], of="z", batched=True)
    assert blocks["x"]["x"].shape == (4, 3, 3) and blocks["w"]["w"].shape == (4, 3, 2, 3, 2)
    np.testing.assert_allclose(blocks["w"]["w"].sum(0), net.hessian(X, "w", of="z"))
    with pytest.raises(og.ArgumentError, match="48,000 bytes"):
        net.jacobian(np.zeros((1000, 3)), of="y", batched=True, max_bytes=47_999)
    net.jacobian(np.zeros((1000, 3)), of="y", batched=True, max_bytes=48_000)


# By name: y of x where it or what it is differentiated by has not one row for each row of x.
ROWS = {
    "Concat": ("y = Concat<axis = 0>(x, x)", "x"),
    "Reshape": ("y = Reshape(x, flat)", "x"),
    "one row": ("y = Slice(x, zero, one)", "x"),
    "of a parameter": ("p = MatMul(x, w) y = Concat<axis = 0>(p, p)", "w"),
    "by an inner tensor": (
        "c = Concat<axis = 0>(x, x) h = Mul(c, c) r = Shape<end = 1>(x) y = Slice(h, zero, r)",
        "h",
    ),
}


def rows_net(body: str) -> onnx.ModelProto:
    return parse(f"""g (float[N, 4] x) => (float[M, K] y)
    <float[4, 2] w = {{1, 2, 3, 4, 5, 6, 7, 8}}, int64[2] flat = {{-1, 2}},
     int64[2] same = {{-1, 4}}, int64[1] zero = {{0}}, int64[1] one = {{1}}> {{ {body} }}""")


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("mode", ["reverse", "forward", "hessian"])
@pytest.mark.parametrize(("body", "wrt"), ROWS.values(), ids=list(ROWS))
def test_rows_that_are_not_the_batch(body: str, wrt: str, mode: str, named: bool) -> None:
    """They are not summed: where no size tells it, the run fails, and names the tensor."""
    net = rows_net(body)
    if not named:
        net.graph.input[0].type.tensor_type.shape.dim[0].Clear()
    feeds = {"x": np.ones((2, 4), np.float32)}
    if mode == "hessian" and wrt != "h":  # of a sum, to which each example may add several rows
        assert len(run(og.hessian(net, wrt, batched="x", forward=False), **feeds))
        return
    with pytest.raises(Exception, match=r"first axis of .+ is|Reshape"):
        if mode == "hessian":
            run(og.hessian(net, wrt, batched="x", forward=False), **feeds)
        else:
            run(og.jacobian(net, wrt, mode=mode, batched="x", forward=False), **feeds)


@pytest.mark.parametrize("mode", ["reverse", "forward"])
@pytest.mark.parametrize("wrt", ["x", "w", "h"])
def test_rows_of_unknown_number_that_are_the_batch(wrt: str, mode: str) -> None:
    net = rows_net("h = Reshape(x, same) p = MatMul(h, w) y = Tanh(p)")
    x = np.arange(12, dtype=np.float32).reshape(3, 4) / 12
    got = run(og.jacobian(net, wrt, mode=mode, batched="x", forward=False), x=x)[
        f"y_{wrt}_jacobian"
    ]
    w = np.arange(1, 9, dtype=np.float32).reshape(4, 2)
    slope = 1 - np.tanh(x @ w) ** 2
    by_w = slope[:, :, None, None] * x[:, None, :, None] * np.eye(2)[:, None, :]
    want = by_w if wrt == "w" else slope[:, :, None] * w.T
    np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-6)
