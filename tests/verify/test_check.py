"""The checker is checked: right gradients pass, an error of 0.1 % does not, kinks show."""

from __future__ import annotations

import builtins
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import onnxgrad as og
from onnxgrad.declare import registry
from onnxgrad.passes.inference import infer
from onnxgrad.passes.precision import promote
from onnxgrad.verify.check import check

RNG = np.random.default_rng(1)
X = RNG.standard_normal((2, 3)).astype(np.float32)


def model(text: str, opset: int = 21) -> onnx.ModelProto:
    return onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": {opset}]> {text}')


DENSE = model(
    """g (float[N,3] x) => (float[N,2] y)
       <float[3,2] w = {0.5, -1.0, 0.25, 2.0, -0.75, 1.5}, float[2] b = {0.1, -0.2}> {
         h = MatMul(x, w)
         k = Add(h, b)
         y = Sigmoid(k) }"""
)
CONV = model(
    """g (float[N,1,5,5] x) => (float[N,2,3,3] y)
       <float[2,1,3,3] w = {1,2,3,4,5,6,7,8,9,-1,-2,-3,-4,5,4,3,2,1}> {
         h = Conv(x, w)
         y = Tanh(h) }"""
)
SIGMOID = model("g (float[N,3] x) => (float[N,3] y) { y = Sigmoid(x) }")


@pytest.fixture
def wrong() -> Iterator[Callable[[str, Any], None]]:
    """Replaces an operator's rule for the length of a test."""
    registry.entries()  # loads the package's own
    kept = dict(registry._TABLE)

    def replace(name: str, derivative: Any) -> None:
        og.forget(name)
        og.elementwise(name)(derivative)

    yield replace
    registry._TABLE.clear()
    registry._TABLE.update(kept)


def test_right_gradients_pass() -> None:
    report = check(DENSE, X, og.ALL)
    assert report
    assert {row.name for row in report.rows} == {"x", "w", "b"}
    assert all(row.verdict == "ok" and row.error < 1e-8 for row in report.rows)
    assert report.method.count("float64 on onnxruntime") == 2


def test_numbers_are_slopes() -> None:
    """y = 3 x at 2, moved by its own size: 6 up or down."""
    net = model("g (float[1] x) => (float[1] y) <float[1] c = {3}> { y = Mul(x, c) }")
    (row,) = check(net, [2], ograd=False).rows
    assert abs(row.analytic) == pytest.approx(6)
    assert row.numeric == pytest.approx(row.analytic, rel=1e-8)


@pytest.mark.parametrize("precision", ["float64", "float32"])
@pytest.mark.parametrize("factor", [1.001, 0.999])
def test_an_error_of_a_thousandth_is_caught(
    wrong: Callable[[str, Any], None], factor: float, precision: Any
) -> None:
    assert check(SIGMOID, X, precision=precision)
    wrong("Sigmoid", lambda Y: Y * (1 - Y) * factor)
    report = check(SIGMOID, X, precision=precision)
    assert not report
    assert report.rows[0].verdict == "wrong"
    assert report.rows[0].error == pytest.approx(1e-3, rel=0.2)
    assert "WRONG" in str(report)


def test_an_error_in_one_element_of_many_is_caught(wrong: Callable[[str, Any], None]) -> None:
    x = np.linspace(-1, 1, 200, dtype=np.float32)[None]
    net = model("g (float[N,200] x) => (float[N,200] y) { y = Sigmoid(x) }")
    assert check(net, x)

    def slightly(X: Any, Y: Any, op: Any) -> Any:
        return Y * (1 - Y) + 0.02 * op.CastLike(X > 0.995, X)

    wrong("Sigmoid", slightly)
    assert not check(net, x)


def test_a_missing_term_is_caught(wrong: Callable[[str, Any], None]) -> None:
    wrong("Sigmoid", lambda Y: Y)
    report = check(DENSE, X, ["x", "b"])
    assert [row.verdict for row in report.rows] == ["wrong", "wrong"]


def test_numbers_in_constant_nodes() -> None:
    """They are moved, and calculated in double precision, as weights are, in a branch too."""
    net = model("""g (float[N,3] x, bool c) => (float[N,3] y) {
        k = Constant<value_float = 1.5>()  h = Mul(x, k)
        y = If(c)<
            then_branch = t () => (o) { two = Constant<value_float = 2.0>() o = Pow(h, two) },
            else_branch = e () => (o2) { o2 = Identity(h) }> }""")
    report = check(net, {"x": X, "c": True}, ["k", "two"])
    assert report.rows[0].ok and report.rows[1].name == "two"
    assert report.method.count("float64 on onnxruntime") == 2


def test_inner_tensors_and_seeds() -> None:
    assert check(DENSE, X, ["h", "y", "x"], ograd=True)
    assert check(DENSE, X, "x", of="h", ograd={"h": np.ones((2, 2), np.float32)})
    assert check(DENSE, X, ["h"], of=["y", "k"])
    with pytest.raises(og.FeedError, match=r"ograd 'y' has the shape \(2,\)"):
        check(DENSE, X, "x", ograd={"y": np.ones(2)})


def test_differences_on_the_reference_where_onnxruntime_has_no_double_kernel() -> None:
    x = RNG.standard_normal((2, 1, 5, 5)).astype(np.float32)
    report = check(CONV, 0.1 * x, og.ALL)
    assert report
    assert all(row.ok and row.error < 1e-5 for row in report.rows)
    assert "differences in float64 on onnx's reference" in report.method


def test_single_precision_says_when_it_cannot_tell() -> None:
    x = 0.1 * RNG.standard_normal((2, 1, 5, 5)).astype(np.float32)
    report = check(CONV, x, og.ALL, precision="float32")
    assert "differences in float32" in report.method
    assert all(row.verdict in ("ok", "noise") for row in report.rows)


def test_terms_that_swamp_the_difference(wrong: Callable[[str, Any], None]) -> None:
    head = "g (float[N,3] x) => (float[N,3] y) <float c = {1e38}, float[3] mask = {0, -3.4e38, 0}>"
    for formula in ("y = Add(x, c)", "a = Add(x, c) y = Sub(a, c)", "a = Add(x, c) y = Log(a)"):
        report = check(model(f"{head} {{ {formula} }}"), X)
        assert [row.verdict for row in report.rows] == ["noise"]
    net = model(f"{head} {{ s = Sigmoid(x) a = Add(s, mask) y = Softmax(a) }}")
    assert check(net, X)
    wrong("Sigmoid", lambda Y: Y)
    assert [row.verdict for row in check(net, X).rows] == ["wrong"]


def test_without_onnxruntime(monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def missing(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.partition(".")[0] == "onnxruntime":
            raise ImportError(name)
        return original(name, *args, **kwargs)

    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setattr(builtins, "__import__", missing)
    report = check(DENSE, X, og.ALL)
    assert report
    assert report.method.count("float64 on onnx's reference") == 2


def test_a_kink_is_neither_right_nor_wrong() -> None:
    relu = model("g (float[3] x) => (float[3] y) { y = Relu(x) }")
    report = check(relu, np.array([0, 0, 1], np.float32))
    assert [row.verdict for row in report.rows] == ["kink"]
    assert not report
    assert "kink" in str(report)
    assert check(relu, np.array([-1, 2, 1], np.float32))


def test_a_zero_gradient_passes() -> None:
    # A softmax adds up to one, wherever its input is.
    softmax = model("g (float[N,3] x) => (float[N,3] y) { y = Softmax(x) }")
    assert check(softmax, X)
    assert check(softmax, X, ograd=True)
    assert check(DENSE, np.zeros((2, 3), np.float32), og.ALL)


def test_mixed_nets_are_promoted() -> None:
    """Resize's scales stay single, a half stays in place between casts, Cast's target follows."""
    net = model(
        """g (float[1,1,2,2] x) => (float[1,1,4,4] y) <float[4] s = {1, 1, 2, 2}> {
             h = Cast<to = 10>(x)
             k = Mul(h, h)
             f = Cast<to = 1>(k)
             y = Resize<mode = "linear">(f, , s) }"""
    )
    promoted = ir.from_proto(net)
    infer(promoted)
    promote(promoted, ir.DataType.DOUBLE)
    proto = ir.to_proto(promoted)
    onnx.checker.check_model(proto, full_check=True)
    assert {i.type.tensor_type.elem_type for i in (*proto.graph.input, *proto.graph.output)} == {11}
    report = check(net, X[None, None, :2, :2], precision="float64")
    assert report


def test_a_half_precision_net() -> None:
    net = model("g (float16[3] x) => (float16[3] y) { z = Exp(x)\n y = Mul(z, x) }")
    report = check(net, np.array([0.5, -1, 2], np.float16))
    assert report
    assert report.rows[0].error < 1e-8


def test_feeds_and_arguments_are_checked() -> None:
    with pytest.raises(og.FeedError, match="takes float32"):
        check(DENSE, X.astype(np.float64))
    with pytest.raises(og.UnknownNameError, match="'w'"):
        check(DENSE, X, "W")
    with pytest.raises(og.ArgumentError, match="precision"):
        check(DENSE, X, precision="float16")  # type: ignore[arg-type]


def test_random_nets_and_infinite_values_are_refused() -> None:
    noisy = model(
        """g (float[3] x) => (float[3] y) { n = RandomNormalLike(x)
           y = Mul(x, n) }"""
    )
    with pytest.raises(og.ArgumentError, match="random"):
        check(noisy, X[0])
    log = model("g (float[3] x) => (float[3] y) { y = Log(x) }")
    with pytest.raises(og.ArgumentError, match="not finite"):
        check(log, np.array([1, 0, 2], np.float32))
    assert check(log, np.array([1, 0.5, 2], np.float32))


def test_an_operator_that_calculates_in_float32_by_default() -> None:
    net = model("""g (float[1,4,3] x, float[4] s, float[4] b) => (float[1,4,3] y) {
        y = GroupNormalization<num_groups = 2>(x, s, b)
    }""")
    x = np.arange(12, dtype=np.float32).reshape(1, 4, 3) % 5
    feeds = {"x": x, "s": [1, 2, 3, 4], "b": [0] * 4}
    assert all(row.verdict == "ok" and row.error < 1e-6 for row in check(net, feeds).rows)


def test_what_is_infinite_is_not_moved() -> None:
    """A mask of minus infinity: the others are confirmed, and those have the gradient 0."""
    net = model(
        """g (float[2,3] x, float[2,3] mask) => (float[2,3] y) {
             s = Add(x, mask)
             y = Softmax(s) }"""
    )
    mask = np.array([[0, -np.inf, 0.5], [-np.inf, 1, 2]], np.float32)
    report = check(net, {"x": X, "mask": mask})
    assert report
    assert all(row.ok and row.error < 1e-8 for row in report.rows)


def test_an_output_that_gets_another_shape() -> None:
    net = model("g (float[N] x) => (float[M] y) { u = Unique(x)\n y = Mul(u, u) }")
    assert check(net, np.array([3, 1, 2], np.float32))
    report = check(net, np.array([3, 1, 1], np.float32))
    assert [row.verdict for row in report.rows] == ["kink"]


def test_double_precision_on_both_sides_when_it_is_asked_for() -> None:
    """In float32 little is left of 1 - tanh(x)^2, and onnxruntime has no Conv in float64."""
    net = model(
        """g (float[1,1,2,2] x) => (float[1,1,2,2] z) <float[1,1,1,1] w = {8}> {
             y = Conv(x, w)
             z = Tanh(y) }"""
    )
    x = np.ones((1, 1, 2, 2), np.float32)
    assert not check(net, x)
    report = check(net, x, precision="float64")
    assert report
    assert report.method.count("float64 on onnx's reference") == 2


def test_heads_and_losses() -> None:
    """Their gradients are confirmed with random seeds, with given ones and as sums."""
    mlp = Path(__file__).parents[2] / "models" / "mlp.onnx"
    x = RNG.standard_normal((5, 4)).astype(np.float32)
    score = og.heads.class_score("logits", target="input")
    feeds = {"input": x, "target": np.array([2, 0, 1, 1, 2])}
    for ograd in (True, False, {score: np.ones(5, np.float32)}):
        report = og.check(mlp, feeds, og.ALL, of=score, ograd=ograd)
        assert report.ok and len(report.rows) == 7
    position = og.check(mlp, feeds, [["fc1", "weight"]], of=[score, "logits"])
    assert position.ok and position.rows[0].name == "fc1.weight"
    loss, labelled = og.losses.mse("logits"), {"input": x, "labels": x[:, :3]}
    assert [row.name for row in og.check(mlp, labelled, of=loss).rows] == ["input"]
    with pytest.raises(og.FeedError, match="The net has 2 inputs"):
        og.check(mlp, x, of=loss)
    with pytest.raises(og.FeedError, match="'target' takes int64"):
        og.check(mlp, feeds | {"target": x[:, 0]}, of=score)


def test_a_head_of_a_net_with_a_weight_that_nothing_uses() -> None:
    net = model(
        """g (float[N,3] x) => (float[N,3] y) <float[3] w = {1, 2, 3}> {
             spare = Constant<value = float[2] {1, 2}>()
             y = Mul(x, w) }"""
    )
    rows = og.check(net, X, og.ALL, of=og.heads.norm("y")).rows
    assert [row.name for row in rows] == ["x", "w", "spare"]


def test_a_wrong_rule_within_a_head_is_caught(wrong: Callable[[str, Any], None]) -> None:
    """Both sides see the head's own nodes."""
    head = og.heads.Head("squashed", (None,), lambda op, y: op.Sigmoid(y))
    net = model("g (float[N,3] x) => (float[N,3] y) { y = Neg(x) }")
    assert og.check(net, X, of=head)
    wrong("Sigmoid", lambda Y: Y * (1 - Y) * 1.001)
    assert og.check(net, X, of=head).rows[0].verdict == "wrong"
