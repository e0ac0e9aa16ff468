"""The settings that a sample is checked in: what real files do with a node that plain ones do not.

A setting makes nets of a sample. Each has the sample's node, with its operands `x0`, `x1`, ... and
outputs `y0`, ..., and says what the gradients are to be. These are central differences of the plain
node in float64, element by element: numbers that no rule and no engine can have come from.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.reference.op_run import RuntimeImplementationError

from tests.oracle import Array, Feeds, Run, directional, inner, reference
from tests.rules.test_rules import float_outputs, floats, runner_of, sample_model
from tests.samples import Sample

NEWEST = onnx.defs.onnx_opset_version()

MOST = 60  # elements of an operand that are moved
RANDOM = {"Dropout"}  # refused in inner graphs: they are computed again

Start = Callable[[onnx.ModelProto], Run]


@dataclass(frozen=True)
class Net:
    """A model with what its gradients are to be.

    Attributes:
        model: The forward net.
        feeds: By input name.
        wrt: The tensors to differentiate with respect to.
        seeds: The gradient imposed at each output that is differentiated.
        want: The gradient of each of `wrt`.
        tolerance: Of each element, relative to the largest of them and to 1.
        starts: The runtimes to run the gradient on.
        ograd: Whether the seeds are fed; else they are ones, and the gradient is of the sum.
    """

    model: onnx.ModelProto
    feeds: Feeds
    wrt: list[str]
    seeds: Feeds
    want: Feeds
    tolerance: float
    starts: Sequence[Start]
    ograd: bool = True


Setting = Callable[[Sample], Iterator[Net]]


@functools.lru_cache(maxsize=8)  # one setting after another asks for the same
def plain(sample: Sample, ones: bool = False, symbolic: bool = False, fed: bool = False) -> Net:
    """The sample as tests/rules/test_rules.py has it."""
    model, feeds = sample_model(sample, symbolic, fed)
    start = runner_of(sample)
    seeds, want = slopes(model, feeds, floats(sample), float_outputs(model, sample), start, ones)
    tolerance = max(sample.tolerance, 3e-3 if sample.single else 0)
    return Net(model, feeds, floats(sample), seeds, want, tolerance, [start], not ones)


def slopes(
    model: onnx.ModelProto,
    feeds: Feeds,
    wrt: Sequence[str],
    of: Sequence[str],
    start: Start,
    ones: bool,
) -> tuple[Feeds, Feeds]:
    """Seeds for the outputs `of`, and the derivatives of what they pick, by central differences.

    Of a large operand some elements are moved, and the others are NaN.
    """
    run = start(model)
    values = dict(zip([o.name for o in model.graph.output], run(feeds), strict=True))
    rng = np.random.default_rng(0)
    seeds = {n: (np.ones if ones else rng.standard_normal)(values[n].shape) for n in of}
    floating = [n for n, v in values.items() if np.issubdtype(v.dtype, np.floating)]
    want = {}
    for name in wrt:
        x = feeds[name]
        step = 1e-3 if x.dtype == np.float64 else 1e-2
        want[name] = np.full(x.shape, np.nan)
        places = list(np.ndindex(x.shape))
        for place in (places[k] for k in rng.permutation(len(places))[:MOST]):
            unit = np.zeros(x.shape)
            unit[place] = 1
            moved = dict(zip(floating, directional(run, feeds, [name], [unit], step), strict=True))
            want[name][place] = inner(list(seeds.values()), [moved[n] for n in seeds])
    return {n: np.asarray(s, values[n].dtype) for n, s in seeds.items()}, want


def base(sample: Sample, ones: bool = False, fed: bool = False) -> Net:
    """The plain net, whose model is the caller's own to change."""
    net = plain(sample, ones, fed=fed)
    return replace(net, model=copy.deepcopy(net.model))


def _tensors(model: onnx.ModelProto) -> Iterator[tuple[str, onnx.TypeProto.Tensor]]:
    for value in (*model.graph.input, *model.graph.output):
        yield value.name, value.type.tensor_type


def _fed(sample: Sample) -> Iterator[bool]:
    yield False
    if sample.fed and any(
        a is not None and not np.issubdtype(a.dtype, np.floating) for a in sample.inputs
    ):
        yield True


def _without_sizes(net: Net) -> Net:
    for name, tensor in _tensors(net.model):
        # Axes and shapes: how many there are is known.
        if name not in net.feeds or np.issubdtype(net.feeds[name].dtype, np.floating):
            for dim in tensor.shape.dim:
                dim.Clear()
    return net


def nameless(sample: Sample, ones: bool = False) -> Iterator[Net]:
    """No dimension has a size or a name; integer operands are constants, then fed."""
    for fed in _fed(sample) if sample.symbolic else ():
        yield _without_sizes(base(sample, ones, fed))


def named_alike(sample: Sample) -> Iterator[Net]:
    """Equal sizes have one name, in operands and outputs, as exporters write them."""
    if sample.symbolic:
        net = base(sample)
        for _, tensor in _tensors(net.model):
            for dim in tensor.shape.dim:
                if dim.HasField("dim_value"):
                    dim.dim_param = f"n{dim.dim_value}"
        yield net


def ones(sample: Sample) -> Iterator[Net]:
    """The gradient of the sum: no seed is fed. With static sizes, then with nameless ones."""
    yield base(sample, ones=True)
    yield from nameless(sample, ones=True)


def opset(version: int, sample: Sample) -> Iterator[Net]:
    """The model is of another opset."""
    if sample.opset < version and not sample.domain:
        net = base(sample)
        start = runner_of(sample)
        before = start(net.model)(net.feeds)
        net.model.opset_import[0].version = version
        try:
            after = start(net.model)(net.feeds)
        except RuntimeImplementationError:
            return  # no runtime has it
        if all(map(functools.partial(near, tolerance=net.tolerance), after, before)):
            yield net  # else onnx's evaluator, which stands in for a missing kernel, is wrong


def _apart(sample: Sample) -> Iterator[list[str]]:
    """Which operands are weights of the inner graph: none, then all but the first."""
    yield []
    weights = [f"x{k}" for k, a in enumerate(sample.inputs) if a is not None][1:]
    if weights:
        yield weights


def _inside(net: Net, weights: list[str]) -> tuple[onnx.GraphProto, onnx.GraphProto]:
    """The graph of the net without its node and `weights`, and one with them alone.

    The outputs of the inner graph are called `y0_inside`, ...; they have no shape.
    """
    outer, graph = net.model.graph, onnx.GraphProto(name="inside")
    node = copy.deepcopy(outer.node[0])
    node.output[:] = [f"{n}_inside" for n in node.output]
    graph.node.append(node)
    del outer.node[:]
    for o in outer.output:
        graph.output.append(copy.deepcopy(o))
        graph.output[-1].name += "_inside"
    graph.initializer.extend(
        numpy_helper.from_array(net.feeds[w], w) for w in weights if w in net.feeds
    )
    graph.initializer.extend(i for i in outer.initializer if i.name in weights)
    for field in (outer.input, outer.initializer):
        kept = [v for v in field if v.name not in weights]
        del field[:]
        field.extend(kept)
    return outer, graph


def in_branch(sample: Sample) -> Iterator[Net]:
    """The node is in a branch of an If. The other branch gives zeros."""
    if sample.op in RANDOM:
        return
    for weights in _apart(sample):
        net = base(sample)
        values = runner_of(sample)(net.model)(net.feeds)
        outer, then = _inside(net, weights)
        names = [o.name for o in outer.output]
        zeros = [
            helper.make_node(
                "Constant", [], [f"{n}_zero"], value=numpy_helper.from_array(np.zeros_like(v))
            )
            for n, v in zip(names, values, strict=True)
        ]
        infos = [
            helper.make_tensor_value_info(
                f"{n}_zero", helper.np_dtype_to_tensor_dtype(v.dtype), v.shape
            )
            for n, v in zip(names, values, strict=True)
        ]
        other = helper.make_graph(zeros, "other", [], infos)
        outer.input.append(helper.make_tensor_value_info("c", TensorProto.BOOL, []))
        outer.node.append(helper.make_node("If", ["c"], names, then_branch=then, else_branch=other))
        feeds = {n: a for n, a in net.feeds.items() if n not in weights}
        yield replace(net, feeds=feeds | {"c": np.array(True)})
        still = {n: np.zeros_like(w) for n, w in net.want.items()}
        yield replace(net, feeds=feeds | {"c": np.array(False)}, want=still)


def in_loop(sample: Sample) -> Iterator[Net]:
    """The node is in the body of a Loop of two steps, which give the same; seeds differ."""
    if sample.op in RANDOM:
        return
    for weights in _apart(sample):
        net = base(sample)
        outer, body = _inside(net, weights)
        names = [o.name for o in outer.output]
        body.input.append(helper.make_tensor_value_info("step", TensorProto.INT64, []))
        body.input.append(helper.make_tensor_value_info("go", TensorProto.BOOL, []))
        body.node.append(helper.make_node("Identity", ["go"], ["on"]))
        given = list(body.output)
        del body.output[:]
        body.output.append(helper.make_tensor_value_info("on", TensorProto.BOOL, []))
        body.output.extend(given)
        for o in outer.output:
            first = onnx.TensorShapeProto.Dimension(dim_value=2)
            dims = [first, *map(copy.deepcopy, o.type.tensor_type.shape.dim)]
            del o.type.tensor_type.shape.dim[:]
            o.type.tensor_type.shape.dim.extend(dims)
        outer.initializer.append(numpy_helper.from_array(np.array(2), "steps"))
        outer.node.append(helper.make_node("Loop", ["steps", ""], names, body=body))
        feeds = {n: a for n, a in net.feeds.items() if n not in weights}
        seeds = {n: np.stack([s / 4, s * 3 / 4]).astype(s.dtype) for n, s in net.seeds.items()}
        yield replace(net, feeds=feeds, seeds=seeds)


def half(dtype: type, sample: Sample) -> Iterator[Net]:
    """The model is in half precision, on onnx's evaluator, which calculates in it.

    What it is compared with is in float64, at the numbers that half precision rounds operands to.
    """
    rounds = [a is not None and a.dtype == np.float64 for a in sample.inputs]
    if sample.domain or not any(rounds):
        return
    inputs = [
        a.astype(dtype).astype(np.float64) if a is not None and r else a
        for a, r in zip(sample.inputs, rounds, strict=True)
    ]
    net = plain(replace(sample, inputs=inputs))
    names = {f"x{k}" for k, r in enumerate(rounds) if r}
    model = _retyped(
        copy.deepcopy(net.model), names, helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    )
    if model is None:
        return
    feeds = {n: a.astype(dtype) if n in names else a for n, a in net.feeds.items()}
    try:
        values = dict(
            zip([o.name for o in model.graph.output], reference(model)(feeds), strict=True)
        )
    except Exception:
        return  # no evaluator has it
    tolerance = max(16 * float(ml_dtypes.finfo(dtype).eps), net.tolerance)
    exact = dict(zip(values, runner_of(sample)(net.model)(net.feeds), strict=True))
    if not all(
        values[n].dtype == np.dtype(dtype) and near(values[n], exact[n], tolerance)
        for n in net.seeds
    ):
        return  # or not rightly
    seeds = {n: s.astype(dtype) for n, s in net.seeds.items()}
    yield replace(
        net, model=model, feeds=feeds, seeds=seeds, tolerance=tolerance, starts=[reference]
    )


def near(got: Array, want: Array, tolerance: float) -> bool:
    """Whether each element agrees, relative to the largest and to 1; NaN in `want` is anything."""
    if got.shape != want.shape:
        return False
    known = ~np.isnan(want)
    scale = max(1.0, *np.abs(want[known]), 0.0)
    return np.allclose(got[known].astype(np.float64), want[known], 0, tolerance * scale)


def _retyped(model: onnx.ModelProto, names: set[str], dtype: int) -> onnx.ModelProto | None:
    """The model with inputs of another dtype, at the first opset that has it; or None."""
    for i in model.graph.input:
        if i.name in names:
            i.type.tensor_type.elem_type = dtype
    outputs = [o.name for o in model.graph.output]
    shapes = {o.name: copy.deepcopy(o.type.tensor_type.shape) for o in model.graph.output}
    del model.graph.output[:]
    model.graph.output.extend(onnx.ValueInfoProto(name=o) for o in outputs)
    for attribute in model.graph.node[0].attribute:
        if attribute.name in ("to", "dtype", "output_dtype") and attribute.i == TensorProto.DOUBLE:
            attribute.i = dtype
    for version in range(model.opset_import[0].version, NEWEST + 1):
        model.opset_import[0].version = version
        try:
            found = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
            for o in found.graph.output:
                if not o.type.tensor_type.HasField("shape"):
                    o.type.tensor_type.shape.CopyFrom(shapes[o.name])
            onnx.checker.check_model(found, full_check=True)
        except Exception:
            continue
        return found
    return None


# Which operands have the batch, and along which axis; others where the first alone has it, or all
# that have as many as it.
_RECURRENT = {0: 1, 4: 0, 5: 1, 6: 1}
BATCHED: Mapping[str, dict[int, int]] = {
    "DeformConv": {0: 0, 2: 0, 4: 0},
    "GRU": _RECURRENT,
    "GridSample": {0: 0, 1: 0},
    "LSTM": _RECURRENT,
    "MaxUnpool": {0: 0, 1: 0},
    "RNN": _RECURRENT,
    "RoiAlign": {1: 0, 2: 0},
    "Squeeze": {0: 0},
}


def empty(sample: Sample) -> Iterator[Net]:
    """The batch is empty, where the operator allows it: of a size that is named, then known."""
    for inputs in _emptied(sample):
        # Over an empty batch onnxruntime's product with a transposed operand stops the process.
        none = replace(sample, inputs=inputs, reference=sample.reference or sample.op == "Einsum")
        if sample.op == "Resize":  # which onnx's evaluator cannot put together of no samples
            none = replace(none, reference=False, single=True)
        try:
            net = plain(none)
            onnx.checker.check_model(net.model, full_check=True)
            values = runner_of(none)(net.model)(net.feeds)
        except Exception:
            continue  # the operator does not allow it
        if all(np.isfinite(v).all() for v in values):
            yield from ([plain(none, symbolic=True)] if sample.symbolic else [])
            yield replace(net, starts=[*net.starts, *_others(net)])
            return


def _emptied(sample: Sample) -> Iterator[list[Array | None]]:
    """Operands without a batch, in the ways that there may be."""
    first = sample.inputs[0]
    if first is None or not first.ndim or not first.size:
        return
    if sample.op == "MaxUnpool" and len(sample.inputs) == 3:
        return  # it is told the size of its output
    choices = [{0: 0}]
    held = [k for k, a in enumerate(sample.inputs) if np.shape(a)[:1] == first.shape[:1]]
    choices.append({k: 0 for k in held if np.ndim(sample.inputs[k]) == first.ndim})
    choices.append(dict.fromkeys(held, 0))
    if sample.op in BATCHED:
        choices = [BATCHED[sample.op]]
    if sample.attributes.get("layout"):
        choices = [dict.fromkeys(choices[0], 0)]
    for axes in choices:
        yield [
            np.take(a, [], axes[k]) if a is not None and k in axes else a
            for k, a in enumerate(sample.inputs)
        ]


def _others(net: Net) -> Iterator[Start]:
    """The reference, where it is another runtime and can run the forward net."""
    if reference in net.starts or net.model.graph.node[0].op_type == "Resize":
        return  # onnx's evaluator cannot put samples of nothing together
    try:
        reference(net.model)(net.feeds)
    except Exception:
        return
    yield reference


SETTINGS: Mapping[str, Setting] = {
    "nameless": nameless,
    "named-alike": named_alike,
    "ones": ones,
    **{f"opset-{v}": functools.partial(opset, v) for v in range(22, NEWEST + 1)},
    "float16": functools.partial(half, np.float16),
    "bfloat16": functools.partial(half, ml_dtypes.bfloat16),
    "in-branch": in_branch,
    "in-loop": in_loop,
    "empty": empty,
}
