"""Optimizers: as torch.optim over 20 steps; Lion by its formula."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper

import onnxgrad as og
from onnxgrad import train

torch = pytest.importorskip("torch", reason="PyTorch is not installed: make torch")

RNG = np.random.default_rng(0)
X, LABELS = RNG.standard_normal((8, 4)), RNG.standard_normal((8, 3))
WEIGHTS = {"w": RNG.standard_normal((4, 3)), "b": RNG.standard_normal(3)}


def net(kind: str) -> onnx.ModelProto:
    model = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["" : 21]> g ({kind}[N,4] x) => ({kind}[N,3] y)'
        f" <{kind}[4,3] w = {{{','.join(['0'] * 12)}}}, {kind}[3] b = {{0,0,0}}>"
        " { h = MatMul(x, w) s = Add(h, b) y = Tanh(s) }"
    )
    for tensor in model.graph.initializer:
        dtype = numpy_helper.to_array(tensor).dtype
        tensor.CopyFrom(numpy_helper.from_array(WEIGHTS[tensor.name].astype(dtype), tensor.name))
    return model


def state_of(model: onnx.ModelProto) -> dict[str, str]:
    return json.loads({p.key: p.value for p in model.metadata_props}["onnxgrad.state"])


def trained(
    optimizer: train.Optimizer, dtype: Any, lr: float, steps: int = 20, **options: Any
) -> dict[str, np.ndarray]:
    """The weights after some steps of a file that a loop copies outputs to inputs of."""
    kind_name = {np.float32: "float", np.float64: "double"}[dtype]
    model = train.step(net(kind_name), og.losses.mse("y"), optimizer, **options)
    onnx.checker.check_model(model, full_check=True)
    session, state = ort.InferenceSession(model.SerializeToString()), state_of(model)
    feeds = {"x": X.astype(dtype), "labels": LABELS.astype(dtype)}
    feeds["learning_rate"] = np.array(lr, np.float32)
    initial = optimizer.state()
    for port in session.get_inputs():
        if port.name in WEIGHTS:
            feeds[port.name] = WEIGHTS[port.name].astype(dtype)
        elif port.name in state:
            number = initial.get(port.name.rpartition(".")[2], 0)
            feeds[port.name] = np.full(
                port.shape, number, np.int64 if port.name == "step" else dtype
            )
    names = [v.name for v in session.get_outputs()]
    assert names[0] == "loss"
    for _ in range(steps):
        found = dict(zip(names, session.run(None, feeds), strict=True))
        feeds.update({name: found[following] for name, following in state.items()})
    assert feeds["step"] == steps
    return {name: feeds[name] for name in WEIGHTS}


def by_torch(make: Any, dtype: Any, clip: Any = None, steps: int = 20) -> dict[str, np.ndarray]:
    params = {k: torch.nn.Parameter(torch.from_numpy(v.astype(dtype))) for k, v in WEIGHTS.items()}
    optimizer = make(params)
    x, labels = (torch.from_numpy(a.astype(dtype)) for a in (X, LABELS))
    for _ in range(steps):
        optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(torch.tanh(x @ params["w"] + params["b"]), labels)
        loss.backward()
        if clip:
            clip(list(params.values()))
        optimizer.step()
    return {k: p.detach().numpy() for k, p in params.items()}


CASES: list[tuple[str, dict[str, Any]]] = [
    ("SGD", {}),
    ("SGD", {"momentum": 0.9}),
    ("SGD", {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
    ("SGD", {"momentum": 0.9, "dampening": 0.5, "maximize": True}),
    ("Adam", {}),
    ("Adam", {"betas": (0.5, 0.8), "eps": 1e-3, "weight_decay": 0.1}),
    ("Adam", {"amsgrad": True, "maximize": True}),
    ("AdamW", {}),
    ("AdamW", {"weight_decay": 0.3, "amsgrad": True}),
    ("Adamax", {}),
    ("Adamax", {"weight_decay": 0.1, "betas": (0.5, 0.6)}),
    ("NAdam", {}),
    ("NAdam", {"momentum_decay": 0.1, "weight_decay": 0.1, "decoupled_weight_decay": True}),
    ("RAdam", {}),
    ("RAdam", {"betas": (0.9, 0.6)}),
    ("RAdam", {"betas": (0.8, 0.9), "weight_decay": 0.1, "decoupled_weight_decay": True}),
    ("RAdam", {"betas": (0.8, 0.9), "weight_decay": 0.1}),
    ("Adagrad", {}),
    ("Adagrad", {"lr_decay": 0.1, "initial_accumulator_value": 0.5, "weight_decay": 0.1}),
    ("RMSprop", {}),
    ("RMSprop", {"centered": True, "momentum": 0.9, "alpha": 0.8}),
    ("Adadelta", {}),
    ("Adadelta", {"rho": 0.5, "weight_decay": 0.1}),
]


@pytest.mark.parametrize("dtype, tolerance", [(np.float64, 1e-6), (np.float32, 1e-4)])
@pytest.mark.parametrize("name, options", CASES, ids=str)
def test_as_torch(name: str, options: dict[str, Any], dtype: Any, tolerance: float) -> None:
    lr = 0.5 if name == "Adadelta" else 0.05
    found = trained(getattr(train, name)(**options), dtype, lr)
    lr = float(np.float32(lr))
    expected = by_torch(lambda p: getattr(torch.optim, name)(p.values(), lr=lr, **options), dtype)
    for key, value in expected.items():
        assert np.abs(value - WEIGHTS[key]).max() > 1e-2  # it was trained
        np.testing.assert_allclose(found[key], value, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    "name", ["SGD", "Adam", "AdamW", "Adamax", "NAdam", "RAdam", "Adagrad", "RMSprop", "Adadelta"]
)
def test_defaults_are_those_of_torch(name: str) -> None:
    theirs = getattr(torch.optim, name)([torch.zeros(1, requires_grad=True)]).defaults
    mine = getattr(train, name)()
    for field in dataclasses.fields(mine):
        assert theirs[field.name] == getattr(mine, field.name), field.name


def test_lion() -> None:
    found = trained(train.Lion(weight_decay=0.1, betas=(0.9, 0.8)), np.float64, 0.01)
    w = {k: v.copy() for k, v in WEIGHTS.items()}
    m = {k: np.zeros_like(v) for k, v in WEIGHTS.items()}
    rate = float(np.float32(0.01))
    for _ in range(20):
        y = np.tanh(X @ w["w"] + w["b"])
        d = 2 * (y - LABELS) / y.size * (1 - y * y)
        g = {"w": X.T @ d, "b": d.sum(0)}
        for k in w:
            w[k] -= rate * (np.sign(0.9 * m[k] + 0.1 * g[k]) + 0.1 * w[k])
            m[k] = 0.8 * m[k] + 0.2 * g[k]
    for k in w:
        np.testing.assert_allclose(found[k], w[k], rtol=1e-6)


def test_groups_and_clipping() -> None:
    groups = [train.Group("b", lr_scale=0.1, weight_decay=0)]
    found = trained(
        train.SGD(weight_decay=0.1), np.float64, 0.5, groups=groups, clip_grad_norm=0.2,
        clip_grad_value=0.1,
    )  # fmt: skip

    def make(p: Any) -> Any:
        low = {"params": [p["b"]], "lr": 0.05, "weight_decay": 0}
        return torch.optim.SGD([{"params": [p["w"]]}, low], lr=0.5, weight_decay=0.1)

    def clip(params: list[Any]) -> None:
        torch.nn.utils.clip_grad_value_(params, 0.1)
        torch.nn.utils.clip_grad_norm_(params, 0.2)

    expected = by_torch(make, np.float64, clip)
    for k in expected:
        np.testing.assert_allclose(found[k], expected[k], rtol=1e-5, atol=1e-6)


def test_frozen() -> None:
    model = train.step(
        net("float"), og.losses.mse("y"), train.Adam(), groups=[train.Group("b*", frozen=True)]
    )
    assert set(state_of(model)) == {"step", "w", "w.exp_avg", "w.exp_avg_sq"}


@pytest.mark.parametrize(
    "make, says",
    [
        (lambda: train.Adam(lr=-1), "from 0 on, not -1"),
        (lambda: train.Adam(betas=(0.9, 1)), "below 1"),
        (lambda: train.SGD(nesterov=True), "momentum"),
        (lambda: train.step(net("float"), og.losses.mse("y"), "adam"), "optimizer"),
        (lambda: train.step(net("float"), og.losses.mse("y"), train.SGD(), ["x"]), "no weight"),
        (lambda: train.step(net("float"), "z", train.SGD()), "'z'"),
    ],
)
def test_mistakes(make: Any, says: str) -> None:
    with pytest.raises(og.ArgumentError, match=says):
        make()
