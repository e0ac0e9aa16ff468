"""What mixes values of a graph and of one inside of it is emitted to the one inside."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest

import onnxgrad as og
from onnxgrad.emit import shapes
from onnxgrad.emit.builder import Builder
from onnxgrad.emit.subgraphs import loop
from onnxgrad.emit.tensor import Tensor
from tests.oracle import runner

NET = onnx.parser.parse_model("""<ir_version: 10, opset_import: ["" : 21]>
    g (float[N, M] x) => (float[N, M] y) { y = Sin(x) }""")
X = np.array([[3, -1, 2], [-4, 5, 6]], np.float32)
N, POSITIVE = len(X), int((X > 0).sum())

# By formula, of the size `outer`, that of a tensor `x` of the outer graph, and `inner`, which a
# step reads of a tensor of its own: the number that it gives.
FORMULAS: dict[str, tuple[Callable[[Tensor, Any, Any], Any], float]] = {
    "product": (lambda x, outer, inner: shapes.product([inner, outer]), N * POSITIVE),
    "in the other order": (lambda x, outer, inner: shapes.product([outer, inner]), N * POSITIVE),
    "arithmetic": (lambda x, outer, inner: (outer + inner) * outer, (N + POSITIVE) * N),
    "vector": (lambda x, outer, inner: shapes.vector(x, [outer, inner, 1]), N + POSITIVE + 1),
    "from_front": (lambda x, outer, inner: shapes.from_front(outer - 3, inner), POSITIVE - 1),
    "clamp": (lambda x, outer, inner: shapes.clamp(x.op, inner, 1, outer), min(POSITIVE, N)),
    "divided": (lambda x, outer, inner: shapes.divided(x, inner), X.sum() / POSITIVE),
    "full": (lambda x, outer, inner: shapes.full(x, [outer, inner], 2), 2 * N * POSITIVE),
    "part": (lambda x, outer, inner: shapes.part(x, outer - 1, inner), X[1:].sum()),
    "pad": (lambda x, outer, inner: shapes.pad(x, {0: (outer, inner)}, 1), 3 * N + 3 * POSITIVE),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_sizes_of_two_graphs(name: str) -> None:
    formula, number = FORMULAS[name]
    number = number + (X.sum() if name == "pad" else 0)

    def attached(op: Builder, x: Tensor) -> dict[str, Tensor]:
        outer = shapes.dim(x, 0)

        def step(inner: Builder, total: Tensor) -> list[Tensor]:
            moved = inner.tensor(x.value) + total * 0
            some = inner.Compress(shapes.reshape(moved, [-1]), inner.Greater(*_flat(inner, moved)))
            found = formula(x, outer, shapes.dim(some, 0))
            whole = inner.Cast(inner.tensor(found.value), to=onnx.TensorProto.FLOAT)
            return [total + inner.ReduceSum(whole, keepdims=0)]

        return {"z": loop(op, 2, step, [op.const(0, like=x)])[0]}

    model = og.attach(NET, attached, "x")
    onnx.checker.check_model(model, full_check=True)
    assert runner(model)({"x": X})[1] == pytest.approx(2 * number, rel=1e-6)


def _flat(op: Builder, x: Tensor) -> tuple[Tensor, Tensor]:
    return shapes.reshape(x, [-1]), op.const(0, like=x)
