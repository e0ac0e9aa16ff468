"""The one body of checks over the table of samples: every rule against central differences."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator

import numpy as np
import onnx
import pytest

import onnxgrad as og
from onnxgrad.declare import registry
from tests.oracle import Feeds, Run, accept, close, directional, inner, reference, runner
from tests.samples import Sample, load_samples

SAMPLES = load_samples()


def sample_model(sample: Sample, symbolic: bool, fed: bool) -> tuple[onnx.ModelProto, Feeds]:
    """The sample as a model of one node; its floating-point operands are inputs x0, x1, ..."""
    names, inputs, initializers, feeds = [], [], [], {}
    for k, array in enumerate(sample.inputs):
        names.append("" if array is None else f"x{k}")
        if array is None:
            continue
        if sample.single and array.dtype == np.float64:
            array = array.astype(np.float32)
        if np.issubdtype(array.dtype, np.floating) or fed:
            feeds[f"x{k}"] = array
            shape = [f"d{k}_{a}" for a in range(array.ndim)] if symbolic else array.shape
            if not np.issubdtype(array.dtype, np.floating):
                shape = array.shape  # axes and shapes: how many there are is known
            dtype = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
            inputs.append(onnx.helper.make_tensor_value_info(f"x{k}", dtype, shape))
        else:
            initializers.append(onnx.numpy_helper.from_array(array, f"x{k}"))
    outputs = [f"y{k}" for k in range(sample.outputs)]
    node = onnx.helper.make_node(
        sample.op, names, outputs, name="node", domain=sample.domain, **sample.attributes
    )
    infos = [onnx.ValueInfoProto(name=o) for o in outputs]
    graph = onnx.helper.make_graph([node], "sample", inputs, infos, initializers)
    opsets = [onnx.helper.make_opsetid("", sample.opset)]
    if sample.domain:
        opsets.append(onnx.helper.make_opsetid(sample.domain, 1))
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10)
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    sizes = {n for a in sample.inputs if a is not None for n in a.shape}
    for info, found in zip(model.graph.output, inferred.graph.output, strict=True):
        info.CopyFrom(found)
    # A model has to declare what inference lacks: a rank, where axes are fed at run time, anything
    # at all of GroupNormalization; and sizes that it takes for 0, of Attention.
    lacking = [
        k
        for k, shape in enumerate(o.type.tensor_type.shape for o in model.graph.output)
        if not model.graph.output[k].type.tensor_type.HasField("shape")
        or (any(d.HasField("dim_value") and not d.dim_value for d in shape.dim) and 0 not in sizes)
    ]
    if lacking:
        values = runner_of(sample)(model)(feeds)
        for k in lacking:
            o = model.graph.output[k]
            dtype = onnx.helper.np_dtype_to_tensor_dtype(values[k].dtype)
            shape = [f"{o.name}_{a}" for a in range(values[k].ndim)]
            o.CopyFrom(onnx.helper.make_tensor_value_info(o.name, dtype, shape))
    return model, feeds


def floats(sample: Sample) -> list[str]:
    """The operands to differentiate."""
    return [
        f"x{k}"
        for k, a in enumerate(sample.inputs)
        if a is not None
        and np.issubdtype(a.dtype, np.floating)
        and (sample.wrt is None or k in sample.wrt)
    ]


def subsets(names: list[str]) -> Iterator[list[str]]:
    """Every subset that is not empty, for many operands each one and all."""
    if len(names) <= 3:
        for size in range(1, len(names) + 1):
            yield from map(list, itertools.combinations(names, size))
    else:
        yield from ([n] for n in names)
        yield names


def float_outputs(model: onnx.ModelProto, sample: Sample) -> list[str]:
    floating = {onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE}
    return [
        o.name
        for k, o in enumerate(model.graph.output)
        if o.type.tensor_type.elem_type in floating and (sample.of is None or k in sample.of)
    ]


def validate(model: onnx.ModelProto) -> None:
    """The checker accepts the model, and its operators are the standard's."""
    accept(model)
    assert all(n.domain in ("", "ai.onnx") for n in model.graph.node)
    assert {o.domain for o in model.opset_import} == {""}


def vjp_error(
    forward: onnx.ModelProto,
    backward: onnx.ModelProto,
    feeds: Feeds,
    rng: np.random.Generator,
    runner: Callable[[onnx.ModelProto], Run],
) -> tuple[float, float]:
    """The two sides of <seed, J v> = <J' seed, v> for a random direction v and random seeds."""
    properties = {p.key: json.loads(p.value) for p in backward.metadata_props}
    gradients = properties["onnxgrad.gradients"]
    ograds = properties["onnxgrad.ograds"]
    run = runner(forward)
    values = dict(zip([o.name for o in forward.graph.output], run(feeds), strict=True))
    seeds = {n: rng.standard_normal(values[n].shape).astype(values[n].dtype) for n in ograds}
    results = dict(
        zip(
            [o.name for o in backward.graph.output],
            runner(backward)(feeds | {ograds[n]: s for n, s in seeds.items()}),
            strict=True,
        )
    )
    directions = {n: rng.standard_normal(feeds[n].shape).astype(feeds[n].dtype) for n in gradients}
    for n, g in gradients.items():
        assert results[g].shape == feeds[n].shape, (n, results[g].shape, feeds[n].shape)
        assert results[g].dtype == feeds[n].dtype
    step = 1e-3 if next(iter(feeds.values())).dtype == np.float64 else 1e-2
    names = list(directions)
    moved = directional(run, feeds, names, list(directions.values()), step)
    floating = [n for n, v in values.items() if np.issubdtype(v.dtype, np.floating)]
    numeric = inner([seeds[n] for n in ograds], [moved[floating.index(n)] for n in ograds])
    analytic = inner([results[gradients[n]] for n in names], [directions[n] for n in names])
    return analytic, numeric


def runner_of(sample: Sample) -> Callable[[onnx.ModelProto], Run]:
    return reference if sample.reference else runner


def variants(sample: Sample) -> Iterator[tuple[bool, bool]]:
    integral = any(a is not None and not np.issubdtype(a.dtype, np.floating) for a in sample.inputs)
    for symbolic in (False, True) if sample.symbolic else (False,):
        for fed in (False, True) if integral and sample.fed else (False,):
            yield symbolic, fed


CASES = [
    pytest.param(
        s,
        symbolic,
        fed,
        id=f"{s}-{'symbolic' if symbolic else 'static'}-{'fed' if fed else 'const'}",
    )
    for s in SAMPLES
    for symbolic, fed in variants(s)
]


@pytest.mark.parametrize(("sample", "symbolic", "fed"), CASES)
def test_first_order(sample: Sample, symbolic: bool, fed: bool) -> None:
    rng = np.random.default_rng(0)
    model, feeds = sample_model(sample, symbolic, fed)
    for wrt in subsets(floats(sample)):
        backward = og.gradient(model, wrt, of=float_outputs(model, sample), ograd=True)
        validate(backward)
        analytic, numeric = vjp_error(model, backward, feeds, rng, runner_of(sample))
        assert close(analytic, numeric, sample.tolerance), (wrt, analytic, numeric)


@pytest.mark.parametrize(("sample", "symbolic", "fed"), [c for c in CASES if c.values[0].smooth])
def test_second_order(sample: Sample, symbolic: bool, fed: bool) -> None:
    """The gradient model is differentiated like any other: with respect to operands and seeds."""
    rng = np.random.default_rng(1)
    model, feeds = sample_model(sample, symbolic, fed)
    wrt = floats(sample)
    first = og.gradient(model, wrt, of=float_outputs(model, sample), ograd=True, forward=False)
    run = runner_of(sample)(model)
    values = dict(zip([o.name for o in model.graph.output], run(feeds), strict=True))
    seeds = {
        f"{n}_ograd": rng.standard_normal(values[n].shape).astype(values[n].dtype)
        for n in float_outputs(model, sample)
    }
    second = og.gradient(first, [*wrt, *seeds], ograd=True, unreachable="zeros")
    validate(second)
    analytic, numeric = vjp_error(first, second, feeds | seeds, rng, runner_of(sample))
    assert close(analytic, numeric, sample.tolerance * 10), (analytic, numeric)


def test_planted_error() -> None:
    """The tester is tested: a derivative wrong by 0.1 % is caught."""
    sample = next(s for s in SAMPLES if s.op == "Tanh")
    entry = registry._TABLE["", "Tanh"]
    og.forget("Tanh")
    og.elementwise("Tanh", lambda output: (1 - output * output) * 1.001)
    try:
        with pytest.raises(AssertionError):
            test_first_order(sample, False, False)
    finally:
        registry._TABLE["", "Tanh"] = entry
