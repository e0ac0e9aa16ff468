"""Half precision where onnxruntime's CPU kernels differ from those of float32."""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil

import ml_dtypes
import numpy as np
import onnx
import onnx.reference
import pytest
from onnx.reference.op_run import OpRun
from onnx.reference.ops.op_lp_normalization import LpNormalization

import onnxgrad as og
from onnxgrad.runtimes import reference_ops
from tests import samples
from tests.oracle import runner
from tests.rules.test_rules import floats, sample_model
from tests.samples import Array, Sample, ints, normal

SAMPLES = [
    Sample("Gather", [normal(3, 4), ints(0, 0, 2)], note="rows taken twice are summed"),
    Sample("GatherElements", [normal(3, 4), np.array([[0, 0, 2, 1]])]),
    Sample("LayerNormalization", [normal(3, 8), normal(8), normal(8)]),
    Sample("RMSNormalization", [normal(3, 8), normal(8)], opset=23),
    Sample("SoftmaxCrossEntropyLoss", [normal(4, 3), ints(0, 2, 1, 1)]),
    Sample("Attention", [normal(1, 2, 3, 4), normal(1, 2, 5, 4), normal(1, 2, 5, 4)], opset=23),
    Sample("MatMul", [normal(2, 3, 4), normal(4, 5)]),
    Sample("BatchNormalization", [normal(2, 3, 4), *(np.abs(normal(3)) + 0.5 for _ in range(4))]),
]


def run(sample: Sample, dtype: type) -> list[Array]:
    half = [
        a.astype(np.float16).astype(dtype) if np.issubdtype(a.dtype, np.floating) else a
        for a in sample.inputs
    ]
    model, feeds = sample_model(dataclasses.replace(sample, inputs=half), False, False)
    backward = og.gradient(model, floats(sample), of="y0", forward=False)
    onnx.checker.check_model(backward, full_check=True)
    return runner(backward)(feeds)


@pytest.mark.parametrize("sample", SAMPLES, ids=str)
def test_float16(sample: Sample) -> None:
    for got, want in zip(run(sample, np.float16), run(sample, np.float32), strict=True):
        assert got.dtype == np.float16
        np.testing.assert_allclose(got, want, rtol=2e-2, atol=2e-2)


FAMILIES = [module.name for module in pkgutil.iter_modules(samples.__path__)]
HALVES = {np.float16: onnx.TensorProto.FLOAT16, ml_dtypes.bfloat16: onnx.TensorProto.BFLOAT16}


def in_half(sample: Sample, dtype: type) -> tuple[onnx.ModelProto, dict[str, Array]] | None:
    """The sample in half precision where its operator takes it; None where it does not."""
    kind = f"tensor({np.dtype(dtype).name})"
    if not onnx.defs.has(sample.op, sample.opset, sample.domain):
        return None
    formal = onnx.defs.get_schema(sample.op, sample.opset, sample.domain).inputs
    singles = [
        a if a is None or not np.issubdtype(a.dtype, np.floating) else a.astype(np.float32)
        for a in sample.inputs
    ]
    model, feeds = sample_model(dataclasses.replace(sample, inputs=singles), False, False)
    declared, turned = {i.name: i.type.tensor_type for i in model.graph.input}, False
    for k, name in enumerate(model.graph.node[0].input):
        taken = name in declared and kind in formal[min(k, len(formal) - 1)].types
        if taken and declared[name].elem_type == onnx.TensorProto.FLOAT:
            declared[name].elem_type, turned = HALVES[dtype], True
            feeds[name] = feeds[name].astype(dtype)
    shapes = [o.type for o in model.graph.output]
    for o in model.graph.output:
        o.ClearField("type")
    model = onnx.shape_inference.infer_shapes(model, data_prop=True)
    for o, known in zip(model.graph.output, shapes, strict=True):
        if not o.type.tensor_type.HasField("shape"):
            o.type.tensor_type.shape.CopyFrom(known.tensor_type.shape)
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception:  # of operands that have to be alike one cannot be in half
        return None
    return (model, feeds) if turned else None


@pytest.mark.parametrize(
    ("dtype", "opset"), [(np.float16, 21), (ml_dtypes.bfloat16, 21), (ml_dtypes.bfloat16, 23)]
)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_sample_can_be_in_half(family: str, dtype: type, opset: int) -> None:
    """Also where a rule emits an operator that is not: EyeLike and Conv have no bfloat16."""
    for sample in importlib.import_module(f"tests.samples.{family}").SAMPLES:
        if sample.opset < opset and not sample.domain:
            sample = dataclasses.replace(sample, opset=opset)
        if sample.op == "BitCast" or (half := in_half(sample, dtype)) is None:
            continue
        backward = og.gradient(half[0], floats(sample), ograd=True, unreachable="zeros")
        onnx.checker.check_model(backward, full_check=True)
        kinds = {v.name: v.type for v in (*backward.graph.input, *backward.graph.output)}
        for name in floats(sample):
            assert kinds[f"{name}_grad"].tensor_type == kinds[name].tensor_type


@pytest.mark.parametrize("op", ["Resize", "Col2Im", "GatherElements"])
def test_bfloat16_where_an_operator_lacks_it(op: str) -> None:
    every = (importlib.import_module(f"tests.samples.{family}").SAMPLES for family in FAMILIES)
    chosen = [sample for family in every for sample in family if sample.op == op]
    for sample in chosen:
        model, feeds = in_half(sample, ml_dtypes.bfloat16)
        wide, _ = sample_model(dataclasses.replace(sample, single=True), False, False)
        grads = [
            onnx.reference.ReferenceEvaluator(og.gradient(m, floats(sample), forward=False)).run(
                None, {name: a.astype(np.float32) if m is wide else a for name, a in feeds.items()}
            )
            for m in (model, wide)
        ]
        for got, want in zip(*grads, strict=True):
            assert got.dtype in (ml_dtypes.bfloat16, np.float32)  # Resize has a crop in float32
            np.testing.assert_allclose(got.astype(np.float32), want, rtol=5e-2, atol=5e-2)
    assert chosen


# Where half precision has no room for a square, a count or a reciprocal, though it has for the
# result. onnxruntime's CPU calculates in float32 and hides it; onnx's evaluator does not.
LARGE = normal(2, 3, 8) * 300
TIGHT = [
    Sample("Div", [np.array([1.0, 2, 3]), np.array([1e-5, 2e-5, 1e-3])], wrt=[0]),
    Sample("Div", [np.array([1e-5, 2e-5, 1]), np.array([1e-5, 3e-5, 1])], wrt=[1]),
    Sample("Log", [np.array([1e-5, 3e-6, 1.0])]),
    Sample("Reciprocal", [np.array([2e-3, 1e-3, 1.0])]),
    Sample("Pow", [np.array([2e-3, 1e-3, 1.0]), np.array(-1.0)], wrt=[0]),
    Sample("Sqrt", [np.array([1e-6, 6e-8, 1.0])]),
    Sample("Asinh", [np.array([300.0, -4000, 1])]),
    Sample("Atan", [np.array([200.0, -260, 1])]),
    Sample("ReduceLogSum", [np.array([[1e-5, 2e-6, 3e-6]])], {"keepdims": 1}),
    Sample("ReduceL2", [normal(3, 40) * 10], {"keepdims": 0}),
    Sample("ReduceMean", [normal(1, 100_000)], {"keepdims": 1}),
    Sample("GlobalAveragePool", [normal(1, 1, 300, 300)]),
    Sample("ReduceMax", [np.ones((1, 70_000))], {"keepdims": 1}),
    Sample("ReduceMin", [np.ones((1, 3000))], {"keepdims": 0}),
    Sample("GlobalMaxPool", [np.ones((1, 1, 300, 300))]),
    Sample("InstanceNormalization", [LARGE, normal(3), normal(3)]),
    Sample("BatchNormalization", [LARGE, *(np.abs(normal(3)) + 0.5 for _ in range(4))],
           {"training_mode": 1}, outputs=3, of=[0], wrt=[0, 1, 2]),
    Sample("BatchNormalization", [LARGE, *(np.abs(normal(3)) + 0.5 for _ in range(3)),
           np.array([1e-7, 1e-6, 1])], wrt=[0, 1, 2, 3]),
    Sample("RMSNormalization", [LARGE, normal(8)], opset=23),
    Sample("LRN", [normal(1, 5, 4, 1) * 300], {"size": 3, "bias": 1.0}, single=True),
    Sample("LpNormalization", [normal(3, 8) * 300], {"p": 2}),
    Sample("LpPool", [np.abs(normal(1, 1, 4, 4)) * 30 + 5], {"kernel_shape": [2, 2], "p": 3}),
    Sample("GlobalLpPool", [np.abs(normal(1, 2, 4, 4)) * 4 + 5], {"p": 3}),
    Sample("SoftmaxCrossEntropyLoss", [normal(70_000, 2), np.zeros(70_000, np.int64)]),
    Sample("NegativeLogLikelihoodLoss", [normal(70_000, 2), np.zeros(70_000, np.int64)]),
    Sample("Softmax", [normal(3, 8)]),
    Sample("LogSoftmax", [normal(3, 8)]),
    Sample("ReduceLogSumExp", [normal(3, 8) * 5], {"keepdims": 0}),
]  # fmt: skip


def widened(base: type[OpRun]) -> type[OpRun]:
    """An operator of the evaluator that calculates in float32 what a rule needs of its output."""

    def run(self: OpRun, *inputs: Array, **attributes: object) -> tuple[Array, ...]:
        outputs = base._run(self, *(x.astype(np.float32) for x in inputs), **attributes)
        return tuple(y.astype(np.float16) for y in outputs)

    return type(base.__name__, (base,), {"_run": run})


OPERATORS = [*reference_ops.OPS, LpNormalization]
OPERATORS = [
    widened(op) if op.__name__ in ("GlobalLpPool", "LRN", "LpNormalization", "LpPool") else op
    for op in OPERATORS
]


def on_the_evaluator(model: onnx.ModelProto, feeds: dict[str, Array]) -> list[Array]:
    with np.errstate(all="ignore"):
        return onnx.reference.ReferenceEvaluator(model, new_ops=OPERATORS).run(None, feeds)


def compare(found: list[Array], wanted: list[Array]) -> None:
    for got, want in zip(found, wanted, strict=True):
        assert got.dtype == np.float16
        scale = np.abs(want).max()
        assert np.isfinite(got).all() and scale
        np.testing.assert_allclose(got, want, rtol=1e-2, atol=max(4e-3 * scale, 6e-8))


@pytest.mark.parametrize("sample", TIGHT, ids=str)
def test_half_precision_has_room(sample: Sample) -> None:
    """With seeds that keep the result within half precision, and above where that loses digits."""
    half = [
        a.astype(np.float16) if np.issubdtype(a.dtype, np.floating) else a for a in sample.inputs
    ]
    wide = np.float32 if sample.single else np.float64
    exact = [a.astype(wide) if a.dtype == np.float16 else a for a in half]
    results = {}
    for run, inputs in ((on_the_evaluator, half), (lambda m, feeds: runner(m)(feeds), exact)):
        sample = dataclasses.replace(sample, inputs=inputs, single=False)
        model, feeds = sample_model(sample, False, False)
        built = og.gradient(model, floats(sample), of="y0", ograd=True, forward=False)
        shape = [d.dim_value for d in built.graph.input[-1].type.tensor_type.shape.dim]
        seed = np.resize([1, 2, 3, 2], shape) * (512 if "Loss" in sample.op else 2**-6)
        feeds["y0_ograd"] = np.asarray(seed, inputs[0].dtype)
        results[run] = run(built, feeds)
    compare(*results.values())


def test_mean_variance_normalization_has_room() -> None:
    """The evaluator's own fails in half precision; its output is not needed."""
    x = (normal(2, 3, 4, 4) * 300).astype(np.float16)
    results = []
    for dtype, run in (("float16", on_the_evaluator), ("float", lambda m, feeds: runner(m)(feeds))):
        model = onnx.parser.parse_model(f"""
            <ir_version: 10, opset_import: ["": 21]>
            net ({dtype}[2, 3, 4, 4] x, {dtype}[2, 3, 4, 4] w) => ({dtype}[2, 3, 4, 4] y)
            {{ n = MeanVarianceNormalization(x)  y = Mul(n, w) }}""")
        kind = np.float16 if dtype == "float16" else np.float32
        w = (np.arange(96).reshape(x.shape) % 5).astype(kind)
        built = og.gradient(model, "x", forward=False)
        results.append(run(built, {"x": x.astype(kind), "w": w}))
    compare(*results)
