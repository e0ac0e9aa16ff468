"""Every target's formulations give the same gradients; what each emits is what it is for."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import onnxgrad as og
from onnxgrad.emit import shapes, targets
from onnxgrad.emit.builder import Builder
from tests.oracle import runner
from tests.rules.test_rules import floats, sample_model, validate
from tests.samples import Sample, distinct, load_samples, normal, sample_id

# The operators whose rules, or the masks and sums in them, depend on the target.
CHOOSE = ("Conv", "ConvTranspose", "MatMul", "Gemm", "Relu", "Clip", "Add", "Mul", "Max")
CONV = Sample("Conv", [normal(2, 4, 3, 3), normal(4, 4, 3, 3)], {"pads": [1, 1, 1, 1]})
DEPTHWISE = Sample(
    "Conv",
    [normal(2, 4, 6, 5), normal(4, 1, 3, 2)],
    {"group": 4, "pads": [2, 1, 0, 1], "dilations": [1, 2]},
)
POOL = {"kernel_shape": [2, 2], "strides": [2, 2]}
LONG = {"strides": [64], "pads": [9, 5]}
STEPS = Sample(
    "Conv",
    [normal(2, 16, 7, 6), normal(16, 1, 3, 4)],
    {"group": 16, "pads": [1, 0, 0, 2], "strides": [2, 1], "dilations": [1, 2]},
)
SAMPLES = [s for s in load_samples() if s.op in CHOOSE and not s.single and not s.reference]


def results(model: onnx.ModelProto, sample: Sample, feeds, target) -> list[np.ndarray]:
    built = og.gradient(model, floats(sample), target=target)
    validate(built)
    return runner(built)(feeds)


@pytest.mark.parametrize("symbolic", [False, True], ids=["static", "symbolic"])
@pytest.mark.parametrize("sample", SAMPLES, ids=sample_id)
def test_targets_agree(sample, symbolic):
    if symbolic and not sample.symbolic:
        pytest.skip("the sample has no symbolic form")
    model, feeds = sample_model(sample, symbolic, fed=False)
    expected = results(model, sample, feeds, "cpu")
    for target in ("cuda", "portable"):
        for a, b in zip(results(model, sample, feeds, target), expected, strict=True):
            assert a.shape == b.shape and a.dtype == b.dtype
            np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)


def operators(model: onnx.ModelProto, **options) -> list[str]:
    return [n.op_type for n in og.gradient(model, forward=False, **options).graph.node]


def net() -> onnx.ModelProto:
    return onnx.parser.parse_model("""
        <ir_version: 10, opset_import: ["": 21]>
        net (float[2, 3, 8, 8] x, float[4, 3, 3, 3] w) => (float[2, 4, 8, 8] y) {
            c = Conv<pads = [1, 1, 1, 1]>(x, w)
            r = Relu(c)
            y = Mul(r, r)
        }""")


def test_formulations():
    cpu = operators(net(), wrt="x")
    assert "ConvTranspose" not in cpu and "Where" not in cpu
    for target in ("cuda", "portable"):
        chosen = operators(net(), wrt="x", target=target)
        assert "ConvTranspose" in chosen and "Where" in chosen


@pytest.mark.parametrize(
    ("field", "value", "sample"),
    [
        ("one_hot_taps", 8, CONV),
        ("flipped_filters", 1, Sample("Conv", [normal(1, 2, 5, 5), normal(4, 2, 3, 3)])),
        ("spread_steps", 1, STEPS),
        ("long_steps", 65, Sample("Conv", [normal(2, 1, 201), normal(2, 1, 128)], LONG)),
        ("windows_of_fewer", False, CONV),
        ("summed_taps", (0, 2**21), DEPTHWISE),
        ("transposed_batch", False, Sample("Conv", [normal(2, 8, 2, 1), normal(8, 8, 1, 1)])),
        ("resized_axes", 1, Sample("AveragePool", [normal(2, 3, 8, 8)], POOL)),
        ("searched_window", 3, Sample("MaxPool", [distinct(2, 3, 8, 8)], POOL)),
        ("searched_dtypes", {ir.DataType.DOUBLE}, Sample("MaxPool", [distinct(2, 3, 8, 8)], POOL)),
    ],
)
def test_rules_ask_the_target(field, value, sample, monkeypatch):
    """Another value of a field is another formulation, of the same gradient."""
    sample = dataclasses.replace(sample, single=field in ("searched_window", "spread_steps"))
    model, feeds = sample_model(sample, symbolic=False, fed=False)
    before = og.gradient(model, floats(sample))
    other = dataclasses.replace(targets.target_of("cpu"), **{field: value})
    monkeypatch.setitem(targets._TARGETS, "cpu", other)
    after = og.gradient(model, floats(sample))
    nodes = [[n.op_type for n in m.graph.node] for m in (before, after)]
    assert nodes[0] != nodes[1]
    for a, b in zip(runner(before)(feeds), runner(after)(feeds), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("places", "of_g"), [(2, False), (6, True)], ids=["few", "many"])
def test_the_columns_of_a_filter_move_the_fewest_elements(places, of_g):
    """With 8 channels on both sides, those of the cotangent from 8 places on."""
    arrays = [normal(1, 8, places, places), normal(8, 8, 3, 3)]
    model, feeds = sample_model(Sample("Conv", arrays, {"pads": [1, 1, 1, 1]}), False, fed=False)
    built = og.gradient(model, "x1", forward=False)
    perms = [[*a.ints] for n in built.graph.node for a in n.attribute if a.name == "perm"]
    assert ([0, 3, 1, 2] in perms) == of_g
    x = np.pad(arrays[0], [(0, 0), (0, 0), (1, 1), (1, 1)])
    seen = np.lib.stride_tricks.sliding_window_view(x, (places, places), (2, 3)).sum((0, -1, -2))
    (found,) = runner(built)(feeds)
    np.testing.assert_allclose(found, np.broadcast_to(seen, found.shape), rtol=1e-10)


@pytest.mark.parametrize("rows", ["4, 5", "N, 5", "N, K"])
@pytest.mark.parametrize("bias", ["3", "1, 1, 3"])
def test_sums_of_rows(rows, bias):
    """They are products on the CPU, whether the rows are counted when the graph is built or not."""
    model = onnx.parser.parse_model(f"""
        <ir_version: 10, opset_import: ["": 21]>
        net (float[{rows}, 3] x, float[{bias}] b) => (float[{rows}, 3] y) {{
            xb = Add(x, b)
            y = Mul(xb, xb)
        }}""")
    x = np.random.default_rng(0).standard_normal((4, 5, 3)).astype(np.float32)
    b = np.ones([int(d) for d in bias.split(",")], np.float32)
    for target, op_type in (("cpu", "MatMul"), ("portable", "ReduceSum")):
        built = og.gradient(model, "b", target=target)
        assert op_type in {n.op_type for n in built.graph.node}
        found = runner(built)({"x": x, "b": b})[1]
        assert found.shape == b.shape
        np.testing.assert_allclose(found.ravel(), 2 * (x + 1).sum((0, 1)), rtol=1e-5)


@pytest.mark.parametrize(
    "transform",
    [og.gradient, og.vjp, og.jvp, og.hvp, og.jacobian, og.hessian],
    ids=lambda f: f.__name__,
)
def test_every_transform_takes_a_target(transform):
    plain, portable = transform(net(), "x"), transform(net(), "x", target="portable")
    assert "Where" not in {n.op_type for n in plain.graph.node}
    inner = [a.g.node for n in portable.graph.node for a in n.attribute if a.HasField("g")]
    nodes = [*portable.graph.node, *(n for body in inner for n in body)]
    assert "Where" in {n.op_type for n in nodes}


def test_unknown_target():
    with pytest.raises(og.ArgumentError, match="target is one of 'cpu', 'cuda', 'portable'"):
        og.gradient(net(), target="gpu")


def test_a_sum_of_unknown_rank():
    """It stays a sum: which axes are rows cannot be told."""
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT))
    op = Builder(ir.Graph([x], [], nodes=[], opset_imports={"": 21}))
    assert shapes.reduce_sum(op.tensor(x), [0]).value.producer().op_type == "ReduceSum"
