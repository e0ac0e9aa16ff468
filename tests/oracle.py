"""Numbers that no rule can have come from: central differences along a direction, in float64."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence

import numpy as np
import onnx
import onnx.reference
from onnx.reference.op_run import OpRun

from tests import reference_ops

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
    return functools.partial(session.run, None)


class Erf(OpRun):
    """The reference evaluator's own rounds to float32."""

    def _run(self, x: Array) -> tuple[Array]:
        return (np.vectorize(math.erf, otypes=[x.dtype])(x),)


class Gelu(OpRun):
    """The reference evaluator goes through a function body, with its own Erf."""

    def _run(self, x: Array, approximate: str) -> tuple[Array]:
        if approximate == "tanh":
            return (x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2,)
        return (x * (1 + np.vectorize(math.erf, otypes=[x.dtype])(x * math.sqrt(0.5))) / 2,)


def reference(model: onnx.ModelProto) -> Run:
    """Runs `model` on onnx's ReferenceEvaluator."""
    own = [Erf, Gelu, *reference_ops.OPS]
    return functools.partial(onnx.reference.ReferenceEvaluator(model, new_ops=own).run, None)


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
