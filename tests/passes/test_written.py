"""The opset that is written: old where the operators allow it, and what stands in the way."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import onnxgrad as og
from tests.oracle import runner

X = np.random.default_rng(0).standard_normal((2, 3, 4, 6)).astype(np.float32)
ANY = "float[A, B, C, D] y"


def parse(body: str, opset: int) -> onnx.ModelProto:
    head = f'<ir_version: 10, opset_import: ["" : {opset}]>'
    return onnx.parser.parse_model(f"{head} net (float[N, 3, 4, 6] x) => ({ANY}) {{ {body} }}")


def versions(model: onnx.ModelProto) -> tuple[int, int]:
    return model.opset_import[0].version, model.ir_version


def test_the_opset_of_a_result():
    """The net's own, but at least 18, and the IR version of that opset."""
    for own, written in (
        (9, (18, 8)),
        (17, (18, 8)),
        (19, (19, 9)),
        (21, (21, 10)),
        (23, (23, 11)),
    ):
        for made in (og.gradient(parse("y = Exp(x)", own)), og.lower(parse("y = Exp(x)", own))):
            assert versions(made) == written
    assert versions(og.jacobian(og.gradient(parse("y = Exp(x)", 9)), of="y")) == (18, 8)
    # An operator that an older net cannot have, as an attached formula can:
    gelu = og.attach(parse("y = Exp(x)", 17), lambda op, y: {"z": op.Gelu(y)})
    assert versions(gelu) == (20, 9)


def test_what_draws_numbers_is_written_for_the_kernels_that_there_are():
    """onnxruntime has none for the random operators of opset 22 and later."""
    net = parse("y = Exp(x)", 23)
    made = og.explain.noise_tunnel(net, og.explain.saliency, target=None, stdevs=1e-6, seed=0)
    assert versions(made) == (21, 10)
    assert versions(og.gradient(net, opset=23)) == (23, 11)
    y, slope = runner(made)({"x": X})
    np.testing.assert_allclose(slope, y, rtol=1e-4)


CASES = {
    "reductions": (
        17,
        13,
        "a = ReduceMean<axes = [2, -1], keepdims = 1>(x) b = ReduceL2<axes = [1]>(x) "
        "c = ReduceMax(x) d = Add(a, b) y = Add(d, c)",
    ),
    "Split": (13, 13, "a, b = Split<axis = 3>(x) c = Exp(a) y = Mul(b, c)"),
    "GridSample": (
        17,
        16,
        "t = Constant<value = float[1, 2, 3] {1, 0.2, 0, 0.1, 1, 0}>() n = Shape<end = 1>(x) "
        "k = Constant<value = int64[2] {1, 1}>() r = Concat<axis = 0>(n, k) th = Tile(t, r) "
        "s = Constant<value = int64[3] {5, 5, 2}>() q = Concat<axis = 0>(n, s) "
        'z = ConstantOfShape(q) y = GridSample<mode = "bilinear">(x, z)',
    ),
    "Shape": (
        17,
        15,
        "n = Shape<end = 1>(x) r = Shape<start = 1>(x) s = Concat<axis = 0>(n, r) "
        "f = Flatten(x) e = Exp(f) y = Reshape(e, s)",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_an_older_opset(name):
    """What is asked for is written, and gives the same numbers."""
    own, oldest, body = CASES[name]
    net = parse(body, own)
    expected = og.gradient(net)
    for opset in {oldest, 17}:
        made = og.gradient(net, opset=opset)
        onnx.checker.check_model(made, full_check=True)
        assert made.opset_import[0].version == opset
        for a, b in zip(runner(made)({"x": X}), runner(expected)({"x": X}), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    if oldest > 13:
        with pytest.raises(
            og.ArgumentError, match=rf"opset={oldest - 1}: .*, needs opset {oldest}"
        ):
            og.gradient(net, opset=oldest - 1)


def test_what_stands_in_the_way():
    gelu = parse("y = Gelu(x)", 20)
    assert versions(og.gradient(gelu)) == (20, 9)
    with pytest.raises(og.ArgumentError, match=r"opset=18: Gelu, node '.*', needs opset 20"):
        og.gradient(gelu, opset=18)
    wrapped = parse(
        'p = Constant<value = int64[8] {0, 0, 1, 0, 0, 0, 1, 0}>() y = Pad<mode = "wrap">(x, p)', 19
    )
    with pytest.raises(og.ArgumentError, match="Pad, node"):
        og.lower(wrapped) and og.gradient(wrapped, opset=18)
    groups = (
        "s = Constant<value = float[3] {1, 2, 3}>() y = GroupNormalization<num_groups = 3>(x, s, s)"
    )
    assert versions(og.gradient(parse(groups, 18)))[0] == 21  # of another meaning before
    assert versions(og.gradient(parse("y = Exp(x)", 17), opset=23)) == (23, 11)
    for wrong in (12, 99, True, "18"):
        with pytest.raises(og.ArgumentError, match="opset is a number from 13 to"):
            og.gradient(gelu, opset=wrong)


def test_dtypes_of_newer_opsets():
    """A bfloat16 that an operator takes since opset 22 keeps the opset."""
    net = onnx.parser.parse_model("""
        <ir_version: 10, opset_import: ["" : 22]>
        net (bfloat16[N, 3] x) => (bfloat16[N, 3] y) { a = Sin(x) y = Mul(a, a) }""")
    with pytest.raises(og.ArgumentError, match=r"Sin|Cos"):
        og.gradient(net, opset=18)
