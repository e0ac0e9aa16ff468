"""Numbers that no rule can have come from: central differences along a direction, in float64."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import numpy as np
import onnx
import onnx.reference

from onnxgrad.runtimes.reference_ops import OPS

Array = np.ndarray
Feeds = dict[str, Array]
Run = Callable[[Feeds], list[Array]]


def runner(model: onnx.ModelProto) -> Run:
    """Runs `model` on onnxruntime if that has kernels for its dtypes, else on the reference."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    try:
        session = ort.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    except Exception as e:
        if "NOT_IMPLEMENTED" not in str(e) and "Could not find an implementation" not in str(e):
            raise
        return reference(model)
    instead = functools.cache(lambda: reference(model))

    def run(feeds: Feeds) -> list[Array]:
        try:
            return session.run(None, feeds)
        except Exception as e:
            if "does not support double yet" not in str(e):  # kernels that say so only now
                raise
            return instead()(feeds)

    return run


def reference(model: onnx.ModelProto) -> Run:
    """Runs `model` on onnx's ReferenceEvaluator."""
    return functools.partial(onnx.reference.ReferenceEvaluator(model, new_ops=list(OPS)).run, None)


def directional(
    run: Run, feeds: Feeds, names: Sequence[str], directions: Sequence[Array], step: float
) -> list[Array]:
    """The derivative of every output along a direction in the inputs `names`, to fourth order."""

    def at(t: float) -> list[Array]:
        moved = {
            n: np.asarray(feeds[n] + t * d, feeds[n].dtype)
            for n, d in zip(names, directions, strict=True)
        }
        return run(feeds | moved)

    p2, p1, m1, m2 = at(2 * step), at(step), at(-step), at(-2 * step)
    return [
        (-a.astype(np.float64) + 8 * b - 8 * c + d) / (12 * step)
        for a, b, c, d in zip(p2, p1, m1, m2, strict=True)
        if np.issubdtype(b.dtype, np.floating)
    ]


def inner(a: Sequence[Array], b: Sequence[Array]) -> float:
    """The inner product of two lists of arrays."""
    return float(sum(np.vdot(x, y) for x, y in zip(a, b, strict=True)))


def close(got: float, want: float, tolerance: float, scale: float = 1.0) -> bool:
    """Whether two numbers agree, relative to the larger of them and `scale`."""
    return abs(got - want) <= tolerance * max(abs(got), abs(want), scale)


def accept(model: onnx.ModelProto) -> None:
    """Raise unless onnx's checker accepts the model.

    It wants a shape, so a rank, of every tensor that goes in or out, which runtimes do not. Those
    whose rank is open go in and out as the elements of sequences here.
    """
    whole = onnx.ModelProto()
    whole.CopyFrom(model)
    graph, before, behind = whole.graph, [], []
    for k, port in enumerate([*graph.input, *graph.output]):
        kind = port.type.tensor_type
        if port.type.HasField("tensor_type") and not kind.HasField("shape"):
            name, listed, elem = port.name, f"{port.name}/listed", kind.elem_type
            port.CopyFrom(onnx.helper.make_tensor_sequence_value_info(listed, elem, None))
            if k < len(graph.input):
                zero = onnx.helper.make_node("Constant", [], [f"{name}/0"], value_int=0)
                first = onnx.helper.make_node("SequenceAt", [listed, f"{name}/0"], [name])
                before += [zero, first]
            else:
                behind.append(onnx.helper.make_node("SequenceConstruct", [name], [listed]))
    nodes = [*before, *graph.node, *behind]
    del graph.node[:]
    graph.node.extend(nodes)
    onnx.checker.check_model(whole, full_check=True)
