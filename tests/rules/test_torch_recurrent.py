"""RNN, GRU and LSTM against PyTorch: directions, packed sequences, values beyond their ends."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import onnx
import pytest

import onnxgrad as og
from tests.oracle import Feeds, reference
from tests.rules.test_rules import sample_model
from tests.samples.recurrent import recurrent

torch = pytest.importorskip("torch", reason="PyTorch is what the rules are compared with")

Array = np.ndarray
# Where the standard's gates are among PyTorch's: LSTM i f g o, GRU r z n.
_ORDER = {"RNN": [0], "GRU": [1, 0, 2], "LSTM": [0, 3, 1, 2]}


def as_torch(array: Array, op: str, suffix: str, parts: int = 1) -> dict[str, Any]:
    """A weight of the node as PyTorch's parameters, one for each direction."""
    found = {}
    names = [["weight_ih"], ["weight_hh"], ["bias_ih", "bias_hh"]][("W", "R", "B").index(suffix)]
    for d, direction in enumerate(array):
        for name, part in zip(names, np.split(direction, parts), strict=True):
            gates = np.split(part, len(_ORDER[op]))
            rows = [gates[_ORDER[op].index(k)] for k in range(len(gates))]
            found[f"{name}_l0{'_reverse' * d}"] = torch.tensor(np.concatenate(rows))
    return found


def weights_of(op: str, W: Array, R: Array, B: Array) -> dict[str, Any]:
    """The three operands as PyTorch's parameters, or their gradients as its gradients."""
    return as_torch(W, op, "W") | as_torch(R, op, "R") | as_torch(B, op, "B", 2)


@pytest.mark.parametrize("lens", [None, [3, 1]], ids=["full", "packed"])
@pytest.mark.parametrize("direction", ["forward", "bidirectional"])
@pytest.mark.parametrize("op", list(_ORDER))
def test_like_torch(op: str, direction: str, lens: list[int] | None) -> None:
    """All cotangents of the operands, given those of all outputs."""
    more = {"linear_before_reset": 1} if op == "GRU" else {}
    sample = recurrent(op, lens, direction=direction, **more)
    model, feeds = sample_model(sample, symbolic=True, fed=True)
    seeds = {
        f"{o.name}_ograd": np.random.default_rng(k).standard_normal(y.shape)
        for k, (o, y) in enumerate(zip(model.graph.output, reference(model)(feeds), strict=True))
    }
    got = gradients(model, feeds | seeds)

    X, W, R, B, _, *start = sample.inputs
    module = getattr(torch.nn, op)(
        X.shape[2], R.shape[2], bidirectional=direction == "bidirectional", dtype=torch.float64
    )
    module.load_state_dict(weights_of(op, W, R, B))
    x, *states = (torch.tensor(a, requires_grad=True) for a in (X, *start))
    packed = x
    if lens is not None:
        packed = torch.nn.utils.rnn.pack_padded_sequence(x, lens, enforce_sorted=False)
    y, final = module(packed, tuple(states) if op == "LSTM" else states[0])
    if lens is not None:
        y, _ = torch.nn.utils.rnn.pad_packed_sequence(y, total_length=len(X))
    y = y.reshape(*y.shape[:2], len(W), -1).transpose(1, 2)  # [T, N, D H] as the standard's Y
    outputs = [y, *final] if op == "LSTM" else [y, final]
    torch.autograd.backward(outputs, [torch.tensor(s) for s in seeds.values()])

    close = {"rtol": 1e-10, "atol": 1e-12}
    np.testing.assert_allclose(got["x0"], x.grad, **close)
    for name, state in zip(["x5", "x6"], states, strict=False):
        np.testing.assert_allclose(got[name], state.grad, **close)
    for name, want in weights_of(op, got["x1"], got["x2"], got["x3"]).items():
        np.testing.assert_allclose(want, module.get_parameter(name).grad, **close, err_msg=name)


def gradients(model: onnx.ModelProto, feeds: Feeds) -> dict[str, Array]:
    """The gradients with respect to all floating-point operands."""
    wrt = [n for n in feeds if n.startswith("x") and feeds[n].dtype.kind == "f"]
    backward = og.gradient(model, wrt, ograd=True, forward=False)
    found = next(p.value for p in backward.metadata_props if p.key == "onnxgrad.gradients")
    values = reference(backward)(feeds)
    named = dict(zip([o.name for o in backward.graph.output], values, strict=True))
    return {name: named[g] for name, g in json.loads(found).items()}


@pytest.mark.parametrize("direction", ["forward", "reverse"])
@pytest.mark.parametrize("op", list(_ORDER))
def test_what_lies_beyond_an_end(op: str, direction: str) -> None:
    """It may be NaN: no gradient changes, and its own is zero."""
    model, feeds = sample_model(recurrent(op, [3, 1], direction=direction), False, True)
    feeds |= {
        f"{o.name}_ograd": np.ones_like(y)
        for o, y in zip(model.graph.output, reference(model)(feeds), strict=True)
    }
    want = gradients(model, feeds)
    feeds["x0"] = feeds["x0"].copy()
    feeds["x0"][1:, 1] = np.nan
    got = gradients(model, feeds)
    for name in want:
        np.testing.assert_array_equal(got[name], want[name], err_msg=name)
    assert not got["x0"][1:, 1].any()
