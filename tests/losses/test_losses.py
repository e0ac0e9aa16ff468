"""Losses: values and gradients of both orders are PyTorch's, in every setting of real files."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx.reference import ReferenceEvaluator

import onnxgrad as og

torch = pytest.importorskip("torch", reason="PyTorch defines the losses")
pytestmark = pytest.mark.filterwarnings("ignore:reduction. 'mean' divides:UserWarning")
F = torch.nn.functional

RANDOM = np.random.default_rng(0)
TYPES = {np.float16: "float16", np.float32: "float", np.float64: "double"}


class Case(NamedTuple):
    """A loss, PyTorch's, the tensors that it is of, and labels."""

    loss: Callable[..., og.heads.Head]
    torch: Callable[..., Any]
    tensors: Sequence[np.ndarray]
    labels: np.ndarray
    options: Mapping[str, Any] = MappingProxyType({})

    def head(self, **more: Any) -> og.heads.Head:
        return self.loss(*"xz"[: len(self.tensors)], **self.options, **more)

    def ours(self, dtype: Any) -> dict[str, np.ndarray]:
        feeds = dict(zip("xz", self.tensors, strict=False)) | {"labels": self.labels}
        return {k: a.astype(dtype) if a.dtype.kind == "f" else a for k, a in feeds.items()}

    def theirs(self, dtype: Any, **more: Any) -> tuple[Any, list[Any]]:
        """PyTorch's loss, and the tensors that it is of."""
        feeds = {k: torch.tensor(a) for k, a in self.ours(dtype).items()}
        options = {
            k: torch.tensor(np.asarray(v, dtype)) if "weight" in k else v
            for k, v in self.options.items()
            if k != "probabilities"
        }
        leaves = [feeds[k].requires_grad_() for k in "xz"[: len(self.tensors)]]
        return self.torch(*leaves, feeds["labels"], **options, **more), leaves


def normal(*shape: int) -> np.ndarray:
    return np.asarray(2 * RANDOM.standard_normal(shape))


def uniform(*shape: int) -> np.ndarray:
    return RANDOM.uniform(0.05, 0.95, shape)


def logarithms(*shape: int) -> np.ndarray:
    x = normal(*shape)
    return x - np.log(np.exp(x).sum(1, keepdims=True))


def signs(*shape: int) -> np.ndarray:
    return RANDOM.choice([-1.0, 1.0], shape)


LABELS = np.array([2, 0, 1, 1, 2])
MAPS = RANDOM.integers(0, 3, (2, 4, 5))
WEIGHT = {"weight": [0.5, 2.0, 0.0]}


def ce(x: np.ndarray, labels: Any, **options: Any) -> Case:
    return Case(og.losses.cross_entropy, F.cross_entropy, [x], np.asarray(labels), options)


def nll(x: np.ndarray, labels: Any, **options: Any) -> Case:
    return Case(og.losses.nll, F.nll_loss, [x], np.asarray(labels), options)


def of_pairs(loss: Any, theirs: Any, *shape: int, **options: Any) -> Case:
    return Case(loss, theirs, [normal(*shape)], normal(*shape), options)


BCE, LOGITS = F.binary_cross_entropy, F.binary_cross_entropy_with_logits
CASES = {
    "ce": ce(normal(5, 3), LABELS),
    "ce-weight": ce(normal(5, 3), LABELS, **WEIGHT),
    "ce-ignored": ce(normal(5, 3), LABELS, ignore_index=1),
    "ce-ignored-beyond": ce(normal(5, 3), [255, 1, 255, 0, 2], ignore_index=255, **WEIGHT),
    "ce-ignored-default": ce(normal(5, 3), [-100, 1, -100, 0, 2], label_smoothing=0.3),
    "ce-smoothing": ce(normal(5, 3), LABELS, label_smoothing=0.2, ignore_index=2, **WEIGHT),
    "ce-places": ce(normal(2, 3, 4, 5), MAPS, label_smoothing=0.1, ignore_index=2, **WEIGHT),
    "ce-alone": ce(normal(3), 1, label_smoothing=0.1, **WEIGHT),
    "ce-probabilities": ce(normal(5, 3), uniform(5, 3), probabilities=True),
    "ce-probabilities-places": ce(
        normal(2, 3, 4, 5), uniform(2, 3, 4, 5), probabilities=True, label_smoothing=0.2, **WEIGHT
    ),
    "ce-probabilities-alone": ce(normal(3), uniform(3), probabilities=True, **WEIGHT),
    "ce-large": ce(100 * normal(5, 3), LABELS),
    "nll": nll(logarithms(5, 3), LABELS),
    "nll-weight": nll(logarithms(5, 3), LABELS, ignore_index=2, **WEIGHT),
    "nll-places": nll(logarithms(2, 3, 4, 5), MAPS, ignore_index=0),
    "nll-alone": nll(normal(3), 1),
    "mse": of_pairs(og.losses.mse, F.mse_loss, 5, 3),
    "mse-scalar": of_pairs(og.losses.mse, F.mse_loss),
    "l1": of_pairs(og.losses.l1, F.l1_loss, 5, 3),
    "huber": of_pairs(og.losses.huber, F.huber_loss, 5, 3, 2),
    "huber-delta": of_pairs(og.losses.huber, F.huber_loss, 5, 3, delta=2.5),
    "smooth_l1": of_pairs(og.losses.smooth_l1, F.smooth_l1_loss, 5, 3),
    "smooth_l1-beta": of_pairs(og.losses.smooth_l1, F.smooth_l1_loss, 5, 3, beta=2.5),
    "smooth_l1-0": of_pairs(og.losses.smooth_l1, F.smooth_l1_loss, 5, 3, beta=0.0),
    "bce": Case(og.losses.bce, BCE, [uniform(5, 3)], uniform(5, 3)),
    "bce-weight": Case(og.losses.bce, BCE, [uniform(5, 3)], uniform(5, 3), WEIGHT),
    "bce_with_logits": Case(og.losses.bce_with_logits, LOGITS, [normal(5, 3)], uniform(5, 3)),
    "bce_with_logits-weight": Case(
        og.losses.bce_with_logits,
        LOGITS,
        [30 * normal(5, 3)],
        uniform(5, 3),
        {"weight": [[0.5], [1], [2], [0], [3]], "pos_weight": [0.5, 3, 0]},
    ),
    "kl_div": Case(og.losses.kl_div, F.kl_div, [logarithms(5, 3)], uniform(5, 3)),
    "kl_div-log": Case(
        og.losses.kl_div, F.kl_div, [logarithms(5, 3)], logarithms(5, 3), {"log_target": True}
    ),
    "hinge": Case(og.losses.hinge, F.hinge_embedding_loss, [normal(5, 3)], signs(5, 3)),
    "hinge-margin": Case(
        og.losses.hinge, F.hinge_embedding_loss, [normal(5, 3)], signs(5, 3), {"margin": 2.0}
    ),
    "cosine_embedding": Case(
        og.losses.cosine_embedding,
        F.cosine_embedding_loss,
        [normal(5, 3), normal(5, 3)],
        signs(5),
        {"margin": -0.2},
    ),
    "cosine_embedding-alone": Case(
        og.losses.cosine_embedding, F.cosine_embedding_loss, [normal(3), normal(3)], signs()
    ),
}
SETTINGS: dict[str, Callable[[np.ndarray], list[str]]] = {
    "static": lambda a: [str(d) for d in a.shape],
    "batch": lambda a: [str(d) if k else "N" for k, d in enumerate(a.shape)],
    "named": lambda a: ["NCHW"[k] for k in range(a.ndim)],
    "unnamed": lambda a: ["?"] * a.ndim,
    "no rank": lambda a: [],
}
WITH_RANK = [
    *itertools.product(["batch"], [np.float32, np.float64], ["mean", "sum", "none"]),
    ("static", np.float32, "mean"),
    ("named", np.float64, "mean"),
    ("unnamed", np.float32, "mean"),
]


def net(tensors: Sequence[np.ndarray], setting: str, dtype: Any) -> onnx.ModelProto:
    """A net whose tensors x and z are its inputs, each by way of a node."""
    names = "xz"[: len(tensors)]
    types = [f"{TYPES[dtype]}[{','.join(SETTINGS[setting](a))}]" for a in tensors]
    if setting != "no rank":
        types = [t.replace("[]", "") for t in types]
    ins = ", ".join(f"{t} {n}0" for t, n in zip(types, names, strict=True))
    outs = ", ".join(f"{t} {n}" for t, n in zip(types, names, strict=True))
    nodes = "".join(f"{n} = Identity({n}0)" for n in names)
    return onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 17]> g ({ins}) => ({outs}) {{ {nodes} }}'
    )


def run(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(model.SerializeToString(), options)
    feeds = {f"{k}0" if k in "xz" else k: a for k, a in feeds.items()}
    names = [v.name for v in session.get_outputs()]
    return dict(zip(names, session.run(None, feeds), strict=True))


def compare(
    case: Case,
    dtype: Any,
    setting: str = "batch",
    *,
    within: float = 1e-6,
    planted: float = 0,
    only: str = "",
    **more: Any,
) -> None:
    """Values and gradients are PyTorch's; those of `only`, or all; an error can be planted."""
    head = case.head(**more)
    if planted:
        right = head.formula
        head = dataclasses.replace(head, formula=lambda *a, **k: right(*a, **k) * (1 + planted))
    model = og.gradient(net(case.tensors, setting, dtype), of=head, values=head)
    found = run(model, case.ours(dtype))
    loss, leaves = case.theirs(dtype, **more)
    loss.sum().backward()
    want = {"loss": loss.detach()}
    want |= {f"{k}0_grad": t.grad for k, t in zip("xz", leaves, strict=False)}
    for name, numbers in want.items():
        if only in name:
            assert found[name].dtype == dtype
            assert found[name].shape == tuple(numbers.shape), name
            np.testing.assert_allclose(found[name], numbers, rtol=within, atol=within, err_msg=name)


@pytest.mark.parametrize("setting, dtype, reduction", WITH_RANK)
@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients(name: str, setting: str, dtype: Any, reduction: str) -> None:
    compare(CASES[name], dtype, setting, reduction=reduction)


@pytest.mark.parametrize("name", ["mse", "smooth_l1", "bce", "bce_with_logits", "kl_div", "hinge"])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_rank_that_is_not_known(name: str, reduction: str) -> None:
    """A loss of elements asks for no example."""
    compare(CASES[name], np.float32, "no rank", reduction=reduction)


def test_batchmean() -> None:
    for name in ("kl_div", "kl_div-log"):
        compare(CASES[name], np.float64, reduction="batchmean")


@pytest.mark.parametrize("name", CASES)
def test_second_order(name: str) -> None:
    case, names = CASES[name], ["x0", "z0"][: len(CASES[name].tensors)]
    tangents = [normal(*a.shape) for a in case.tensors]
    feeds = {f"{n}_tangent": t for n, t in zip(names, tangents, strict=True)}
    model = og.hvp(net(case.tensors, "batch", np.float64), names, of=case.head())
    found = run(model, case.ours(np.float64) | feeds)
    loss, leaves = case.theirs(np.float64)
    grads = torch.autograd.grad(loss, leaves, create_graph=True)
    product = sum((g * torch.tensor(t)).sum() for g, t in zip(grads, tangents, strict=True))
    want: Any = [None] * len(leaves)
    if product.requires_grad:
        want = torch.autograd.grad(product, leaves, allow_unused=True)
    for n, leaf, numbers in zip(names, leaves, want, strict=True):
        numbers = torch.zeros_like(leaf) if numbers is None else numbers
        np.testing.assert_allclose(
            found[f"{n}_hvp"], numbers.numpy(force=True), rtol=1e-6, atol=1e-9
        )


@pytest.mark.parametrize("only", ["loss", "x0_grad"])
@pytest.mark.parametrize("name", CASES)
def test_a_planted_error_is_found(name: str, only: str) -> None:
    with pytest.raises(AssertionError, match=only):
        compare(CASES[name], np.float64, planted=1e-3, only=only, reduction="sum")


INF = np.inf
P = np.array([0, 0, 0, 1, 1, 1, 1e-13, 1e-13, 1e-30, 1 - 1e-13, 1 - 1e-13, 0.5])
T = np.array([0, 0.3, 1, 0, 0.3, 1, 1, 0, 1, 1, 0, 0.5])
EDGES = {
    "ce-minus-infinity": ce(np.array([[1, -INF, 2], [0, 1, -INF]]), [0, 1]),
    "ce-picked-minus-infinity": ce(np.array([[1, -INF, 2], [0, 1, 2]]), [1, 1]),
    "ce-infinity": ce(np.array([[1, INF, 2], [0, 1, 2]]), [1, 1]),
    "ce-nan": ce(np.array([[1, np.nan, 2], [0, 1, 2]]), [1, 1]),
    "ce-ignored-nan": ce(np.array([[1, INF, 2], [0, 1, 2]]), [-100, 1]),
    "ce-smoothing-minus-infinity": ce(
        np.array([[1, -INF, 2], [0, 1, 2]]), [0, 1], label_smoothing=0.1
    ),
    "ce-probabilities-minus-infinity": ce(
        np.array([[1, -INF, 2], [0, 1, 2]]), np.eye(3)[:2], probabilities=True
    ),
    "ce-ignored-everywhere": ce(normal(3, 3), [-100, -100, -100]),
    "ce-ignored-everywhere-smoothing": ce(
        normal(3, 3), [1, 1, 1], ignore_index=1, label_smoothing=0.1, **WEIGHT
    ),
    "ce-empty": ce(normal(0, 3), np.zeros(0, np.int64), label_smoothing=0.1, **WEIGHT),
    "ce-probabilities-empty": ce(normal(0, 3), normal(0, 3), probabilities=True),
    "ce-places-empty": ce(normal(0, 3, 2, 2), np.zeros((0, 2, 2), np.int64)),
    "nll-minus-infinity": nll(np.array([[0, -INF, -INF], [-1, -2, -INF]]), [0, 2]),
    "nll-ignored-everywhere": nll(normal(3, 3), [-100, -100, -100]),
    "nll-empty": nll(normal(0, 3), np.zeros(0, np.int64)),
    "mse-infinity": Case(
        og.losses.mse, F.mse_loss, [np.array([INF, -INF, np.nan, 1])], np.array([0.0, 0, 0, INF])
    ),
    "mse-empty": of_pairs(og.losses.mse, F.mse_loss, 0, 3),
    "l1-kink": Case(
        og.losses.l1, F.l1_loss, [np.array([1, -1, INF, -INF])], np.array([1.0, -1, 0, 0])
    ),
    "huber-kink": Case(
        og.losses.huber, F.huber_loss, [np.array([1, -1, 0, INF, -INF, np.nan])], np.zeros(6)
    ),
    "smooth_l1-kink": Case(
        og.losses.smooth_l1, F.smooth_l1_loss, [np.array([1, -1, 0, INF, -INF])], np.zeros(5)
    ),
    "bce-ends": Case(og.losses.bce, BCE, [P], T),
    "bce_with_logits-0": Case(og.losses.bce_with_logits, LOGITS, [np.zeros(3)], P[1:4]),
    "bce_with_logits-large": Case(
        og.losses.bce_with_logits,
        LOGITS,
        [np.array([1e4, -1e4, 1e4, -1e4, INF, -INF, np.nan])],
        np.array([0, 0, 1, 1, 0, 1, 0.5]),
    ),
    "bce-empty": of_pairs(og.losses.bce, BCE, 0, 3),
    "kl_div-0": Case(
        og.losses.kl_div, F.kl_div, [np.array([[0, -1, -INF, -INF]])], np.array([[0, 1, 0.5, 0]])
    ),
    "kl_div-log-0": Case(
        og.losses.kl_div,
        F.kl_div,
        [np.array([[0, -1, -2.0]])],
        np.array([[-INF, 0, -1]]),
        {"log_target": True},
    ),
    "hinge-kink": Case(
        og.losses.hinge, F.hinge_embedding_loss, [np.array([1, 1, INF, INF])], signs(4)
    ),
    "cosine_embedding-0": Case(
        og.losses.cosine_embedding,
        F.cosine_embedding_loss,
        [np.array([[0, 0], [1.0, 0], [0, 0]]), np.array([[1, 1], [0, 1.0], [0, 0]])],
        np.array([1.0, -1, -1]),
    ),
}


# onnxruntime's LogSoftmax of float64 passes over a NaN or an infinity in other classes of a row.
SINGLE = ["ce-infinity", "ce-nan", "ce-ignored-nan"]


@pytest.mark.parametrize("name", EDGES)
def test_edges(name: str) -> None:
    """Kinks, numbers that are not finite, nothing that counts, an empty batch."""
    for dtype in (np.float32, np.float64):
        if dtype == np.float64 and name in SINGLE:
            continue
        for reduction in ("mean", "sum", "none"):
            compare(EDGES[name], dtype, reduction=reduction)


@pytest.mark.parametrize("name", CASES)
def test_half_precision(name: str) -> None:
    """It is computed in float32, so it is the rounded result of the rounded tensors."""
    case = CASES[name]
    half = [a.astype(np.float16).astype(np.float64) for a in case.tensors]
    labels = case.labels
    if labels.dtype.kind == "f":
        labels = labels.astype(np.float16).astype(np.float64)
    head = case.head()
    model = og.gradient(net(half, "batch", np.float16), of=head, values=head)
    found = run(model, case._replace(tensors=half, labels=labels).ours(np.float16))
    loss, leaves = case._replace(tensors=half, labels=labels).theirs(np.float64)
    loss.backward()
    np.testing.assert_allclose(found["loss"], loss.detach(), rtol=1e-3, atol=1e-7)
    for k, t in zip("xz", leaves, strict=False):
        np.testing.assert_allclose(found[f"{k}0_grad"], t.grad, rtol=2e-3, atol=1e-5)


@pytest.mark.parametrize("setting", ["static", "batch", "named", "unnamed"])
@pytest.mark.parametrize("options", [{}, {"weight": [1, 2, 3]}, {"label_smoothing": 0.1}], ids=str)
@pytest.mark.parametrize("loss", ["cross_entropy", "nll"])
def test_labels_that_there_are_not(loss: str, options: dict[str, Any], setting: str) -> None:
    """Each runtime refuses them, whether the loss or its gradient is run."""
    if loss == "nll" and "label_smoothing" in options:
        return
    head = getattr(og.losses, loss)(**options)
    x = normal(4, 3).astype(np.float32)
    model = net([x], setting, np.float32)
    for result in (og.attach(model, head), og.gradient(model, of=head, forward=False)):
        session = ort.InferenceSession(result.SerializeToString())
        reference = ReferenceEvaluator(result)
        good = {"x0": x, "labels": np.array([0, 1, 2, -100])}
        for found, expected in zip(session.run(None, good), reference.run(None, good), strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-5)
        for labels in ([0, 1, 2, 3], [0, -1, 2, 1], [0, 1, 2, 2**40], [0, 1, 2], [0, 1, 2, 1, 1]):
            feeds = {"x0": x, "labels": np.array(labels)}
            with pytest.raises(Exception, match=r"."):
                session.run(None, feeds)
            with pytest.raises((IndexError, ValueError)):
                reference.run(None, feeds)
            with pytest.raises(og.FeedError):
                og.Net(result)(feeds)


FINITE = {
    "cross_entropy": og.losses.cross_entropy(),
    "cross_entropy of weights": og.losses.cross_entropy(weight=[1.0, 2.0, 3.0]),
    "smoothed": og.losses.cross_entropy(label_smoothing=0.1),
    "mse": og.losses.mse(),
    "bce_with_logits": og.losses.bce_with_logits(),
}


@pytest.mark.parametrize("batch", ["2", "N"])
@pytest.mark.parametrize("name", FINITE)
def test_masks_of_the_net_stay_products(name: str, batch: str) -> None:
    """No loss makes the backward pass guard against gradients that are not finite.

    A Where takes ten times as long as a product.
    """
    net = onnx.parser.parse_model(f"""
        <ir_version: 10, opset_import: ["": 21]>
        net (float[{batch}, 3] x, float[3, 3] w) => (float[{batch}, 3] y) {{
            h = Relu(x)
            y = MatMul(h, w)
        }}""")
    built = og.gradient(net, ["x", "w"], of=FINITE[name], forward=False)
    behind = [n for n in built.graph.node if not n.name.startswith("loss/") or "Relu" in n.name]
    assert any(n.op_type == "Mul" for n in behind)
    assert not any(n.op_type == "Where" for n in behind)


def test_too_few_labels() -> None:
    """Labels of elements are not broadcast."""
    x = normal(4, 3).astype(np.float32)
    model = og.attach(net([x], "unnamed", np.float32), og.losses.mse())
    for shape in ([1, 3], [4, 1], [1]):
        with pytest.raises(og.FeedError):
            og.Net(model)({"x0": x, "labels": np.zeros(shape, np.float32)})


def test_labels_of_pairs() -> None:
    """A label other than 1 and -1 gives NaN, in the gradient too."""
    x = normal(3, 2).astype(np.float32)
    labels = np.array([[1, -1], [0, 1], [-1, 2]], np.float32)
    head = og.losses.hinge(reduction="none")
    found = run(og.gradient(net([x], "batch", np.float32), of=head, values=head),
                {"x": x, "labels": labels})  # fmt: skip
    for name in ("loss", "x0_grad"):
        np.testing.assert_array_equal(np.isnan(found[name]), abs(labels) != 1)


@pytest.mark.parametrize("axis", [-1, 2])
@pytest.mark.parametrize("setting", ["static", "batch", "named", "unnamed"])
@pytest.mark.parametrize("loss", ["cross_entropy", "cross_entropy of probabilities", "nll"])
def test_classes_along_the_last_axis(loss: str, setting: str, axis: int) -> None:
    """As of the logits [N, S, V] of a language model: torch's of the transposed ones."""
    name, of, rest = loss.partition(" of ")
    x = normal(4, 5, 3).astype(np.float32)
    labels = RANDOM.integers(0, 3, (4, 5))
    labels[1, 2] = -100
    options: dict[str, Any] = {"weight": np.array([0.5, 2, 1], np.float32)}
    if of:
        labels, options["label_smoothing"] = uniform(4, 5, 3).astype(np.float32), 0.1
    head = getattr(og.losses, name)(axis=axis, **options, **({rest: True} if of else {}))
    found = run(
        og.gradient(net([x], setting, np.float32), of=head, values=head),
        {"x": x, "labels": labels},
    )
    leaf = torch.tensor(x, requires_grad=True)
    theirs = {"cross_entropy": F.cross_entropy, "nll": F.nll_loss}[name]
    options["weight"] = torch.tensor(options["weight"])
    given = torch.tensor(labels).movedim(-1, 1) if of else torch.tensor(labels)
    wanted = theirs(leaf.movedim(-1, 1), given, **options)
    wanted.backward()  # type: ignore[no-untyped-call]
    assert leaf.grad is not None
    np.testing.assert_allclose(found["loss"], wanted.detach(), rtol=1e-5)
    np.testing.assert_allclose(found["x0_grad"], leaf.grad, rtol=1e-4, atol=1e-6)


LABELLED = {"cross_entropy": LABELS, "mse": normal(5, 3).astype(np.float32)}


@pytest.mark.parametrize("loss", LABELLED)
def test_transforms(loss: str) -> None:
    """By example, Jacobian, Hessian and their products are those of gradients."""
    head = getattr(og.losses, loss)(reduction="none")
    mean = getattr(og.losses, loss)(reduction="mean")
    x = normal(5, 4).astype(np.float32)
    feeds = {"input": x, "labels": LABELLED[loss]}

    def results(model: onnx.ModelProto, **more: Any) -> dict[str, np.ndarray]:
        session = ort.InferenceSession(model.SerializeToString())
        names = [v.name for v in session.get_outputs()]
        return dict(zip(names, session.run(None, feeds | more), strict=True))

    mlp = "models/mlp.onnx"
    whole = results(og.gradient(mlp, "fc1.weight", of=head))["fc1.weight_grad"]
    each = results(og.per_example_gradient(mlp, "fc1.weight", of=head))["fc1.weight_grad"]
    assert each.shape == (5, *whole.shape)
    np.testing.assert_allclose(each.sum(0), whole, rtol=1e-4, atol=1e-5)
    jacobian = results(og.jacobian(mlp, "fc1.weight", of=head))["loss_fc1.weight_jacobian"]
    np.testing.assert_allclose(
        jacobian.reshape(-1, *whole.shape).sum(0), whole, rtol=1e-4, atol=1e-5
    )
    v = normal(5, 4).astype(np.float32)
    hessian = results(og.hessian(mlp, "input", of=mean))["input_input_hessian"]
    product = results(og.hvp(mlp, "input", of=mean), input_tangent=v)["input_hvp"]
    assert np.abs(product).max() > 1e-3
    np.testing.assert_allclose(np.einsum("abcd,cd->ab", hessian, v), product, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "head, says",
    [
        (lambda: og.losses.mse(reduction="average"), "'mean', 'sum', 'none'"),
        (lambda: og.losses.mse(reduction="batchmean"), "'mean', 'sum', 'none'"),  # type: ignore
        (lambda: og.losses.kl_div(reduction="all"), "'batchmean'"),
        (lambda: og.losses.cross_entropy(label_smoothing=1.5), "from 0 to 1"),
        (lambda: og.losses.cross_entropy(probabilities=True, ignore_index=2), "ignore_index"),
        (lambda: og.losses.cross_entropy(weight=[1, 2]), r"the shape \[3\], not \[2\]"),
        (lambda: og.losses.nll(weight=2), r"not \[\]"),
        (lambda: og.losses.huber(delta=0), "greater than 0"),
        (lambda: og.losses.smooth_l1(beta=-1), "at least 0"),
        (lambda: og.losses.mse(labels="input"), "another name with labels='NAME'"),
        (lambda: og.losses.cross_entropy(labels="logits"), "another name with labels='NAME'"),
        (lambda: og.losses.nll(axis=0), "the first is that of the examples"),
        (lambda: og.losses.cross_entropy(axis=2), "axis 2: 'logits' has 2 axes"),
        (lambda: og.losses.bce(weight=[1, 2]), "does not fit 'logits'"),
    ],
)
def test_mistakes(head: Any, says: str) -> None:
    with pytest.raises(og.ArgumentError, match=says):
        og.gradient("models/mlp.onnx", of=head())


def test_equal_losses() -> None:
    """Losses can be keys, those with many weights too."""
    weight = np.linspace(0, 1, 30_000)
    first, second = (og.losses.cross_entropy(weight=weight) for _ in range(2))
    assert {first: 1}[second] == 1
    assert first != og.losses.cross_entropy(weight=weight[::-1])
    assert len(repr(first)) < 1000
