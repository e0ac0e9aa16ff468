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

import onnxgrad as og
from tests import samples
from tests.oracle import runner
from tests.samples import Array, Sample, ints, normal
from tests.test_rules import floats, sample_model

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
