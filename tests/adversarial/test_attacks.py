"""Attacks: against the same in PyTorch, and within their bounds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper

import onnxgrad as og

torch = pytest.importorskip("torch", reason="PyTorch is not installed: make torch")
from torch.nn import functional as F  # noqa: E402

from tests.adversarial.nets import classifier, exported, reference, run  # noqa: E402

fgsm, pgd = og.adversarial.fgsm, og.adversarial.pgd
RANDOM = np.random.default_rng(0)
X = RANDOM.random((4, 3, 6, 6)).astype(np.float32)
LABELS = np.array([3, 0, 4, 1])
BOUNDS = {"clip_min": 0, "clip_max": 1}


def norms(t: Any) -> Any:
    return t.flatten(1).norm(dim=1).view(-1, *[1] * (t.ndim - 1))


def attack(
    net: Callable[[Any], Any], x: np.ndarray, labels: np.ndarray, *, eps: Any, alpha: Any = None,
    steps: int = 1, norm: str = "Linf", noise: np.ndarray | None = None, targeted: bool = False,
    clip_min: Any = -np.inf, clip_max: Any = np.inf, loss: Any = None,
) -> np.ndarray:  # fmt: skip
    """The attack in PyTorch, step by step, as its papers define it."""
    clean, y = torch.tensor(x), torch.tensor(labels)
    eps, low, high = (torch.tensor(np.asarray(v, x.dtype)) for v in (eps, clip_min, clip_max))
    alpha = eps if alpha is None else torch.tensor(np.asarray(alpha, x.dtype))

    def project(t: Any) -> Any:
        away = t - clean
        if norm == "Linf":
            away = torch.maximum(torch.minimum(away, eps), -eps)
        else:
            away = away * torch.clamp(eps / norms(away), max=1).nan_to_num(1)
        return torch.maximum(torch.minimum(clean + away, high), low)

    at = clean if noise is None else project(clean + eps * torch.tensor(noise))
    for _ in range(steps):
        at = at.detach().requires_grad_()
        cost = (loss or F.cross_entropy)(net(at), y)
        (g,) = torch.autograd.grad(-cost if targeted else cost, at)
        g = g.sign() if norm == "Linf" else torch.where(norms(g) > 0, g / norms(g), 0 * g)
        at = project(at + alpha * g)
    return at.detach().numpy()


@pytest.mark.parametrize("runs", [run, reference])
@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize(("norm", "eps"), [("Linf", 0.06), ("L2", 0.8)])
@pytest.mark.parametrize("batch", ["N", 1])
def test_fgsm_is_that_of_torch(
    norm: Any, eps: float, targeted: bool, batch: int | str, runs: Any
) -> None:
    net, n = classifier(), 4 if batch == "N" else 1
    options = {"norm": norm, "eps": eps, "targeted": targeted, **BOUNDS}
    found = runs(fgsm(exported(net, batch), **options), x=X[:n], labels=LABELS[:n])
    want = attack(net, X[:n], LABELS[:n], **options)
    assert np.abs(found["x_adv"] - want).max() < 1e-5
    assert np.abs(found["x_adv"] - X[:n]).max() > 0.01
    assert np.allclose(found["logits"], net(torch.tensor(X[:n])).detach(), atol=1e-5)


@pytest.mark.parametrize("runs", [run, reference])
@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("noise", [False, True])
@pytest.mark.parametrize(("norm", "eps", "alpha"), [("Linf", 0.06, 0.02), ("L2", 0.8, 0.3)])
@pytest.mark.parametrize("batch", ["N", 1])
def test_pgd_is_that_of_torch(
    norm: Any, eps: float, alpha: float, noise: bool, targeted: bool, batch: Any, runs: Any
) -> None:
    net, n = classifier(smooth=True), 4 if batch == "N" else 1
    options = {"norm": norm, "eps": eps, "alpha": alpha, "targeted": targeted, **BOUNDS}
    drawn = RANDOM.uniform(-1, 1, X[:n].shape).astype(np.float32)
    feeds: dict[str, Any] = {"x_noise": drawn} if noise else {}
    model = pgd(exported(net, batch), steps=7, random_start="input" if noise else False, **options)
    found = runs(model, x=X[:n], labels=LABELS[:n], **feeds)["x_adv"]
    want = attack(net, X[:n], LABELS[:n], steps=7, noise=drawn if noise else None, **options)
    assert np.abs(found - want).max() < 1e-5


def test_the_default_step_is_that_of_madry() -> None:
    net = classifier(smooth=True)
    for steps in (1, 10):
        found = run(pgd(exported(net), eps=0.06, steps=steps), x=X, labels=LABELS)["x_adv"]
        want = attack(net, X, LABELS, eps=0.06, steps=steps, alpha=2.5 * 0.06 / steps)
        assert np.abs(found - want).max() < 1e-5


def test_each_example_is_attacked_by_itself() -> None:
    model = pgd(exported(classifier(smooth=True)), eps=0.5, norm="L2", **BOUNDS)
    together = run(model, x=X, labels=LABELS)["x_adv"]
    for k in range(4):
        alone = run(model, x=X[k : k + 1], labels=LABELS[k : k + 1])["x_adv"]
        assert np.abs(alone - together[k]).max() < 1e-5


def test_one_file_serves_for_all_numbers() -> None:
    net = classifier(smooth=True)
    given = dict.fromkeys(("eps", "alpha", "steps", "clip_min", "clip_max"), "input")
    model = pgd(exported(net), **given)
    assert len(model.graph.input) == 7
    for numbers in (
        {"eps": 0.1, "alpha": 0.04, "steps": 3},
        {"eps": 0.2, "alpha": 0.02, "steps": 8},
    ):
        options: dict[str, Any] = {**numbers, "clip_min": 0.1, "clip_max": 0.8}
        feeds = {k: np.asarray(v, "i8" if k == "steps" else "f4") for k, v in options.items()}
        found = run(model, x=X, labels=LABELS, **feeds)["x_adv"]
        assert np.abs(found - attack(net, X, LABELS, **options)).max() < 1e-5
    found = run(model, x=X, labels=LABELS, **feeds | {"steps": np.array(0)})
    assert np.array_equal(found["x_adv"], X)


def test_the_size_of_the_file_does_not_depend_on_the_steps() -> None:
    few, many = (pgd(exported(classifier()), eps=0.1, steps=n) for n in (2, 2000))
    assert abs(few.ByteSize() - many.ByteSize()) < 16


def test_numbers_by_channel() -> None:
    net = classifier(smooth=True)
    options: dict[str, Any] = {
        "eps": np.reshape([0.02, 0.05, 0.1], (3, 1, 1)),
        "alpha": np.reshape([0.01, 0.02, 0.04], (3, 1, 1)),
        "clip_min": np.reshape([0, 0.1, 0.2], (3, 1, 1)),
    }
    found = run(pgd(exported(net), steps=5, **options), x=X, labels=LABELS)["x_adv"]
    assert np.abs(found - attack(net, X, LABELS, steps=5, **options)).max() < 1e-5


def test_another_loss() -> None:
    net = classifier(smooth=True)
    margin = og.heads.margin("logits", target=[3, 0, 4, 1])
    found = run(pgd(exported(net), "x", loss=margin, targeted=True, eps=0.1), x=X)["x_adv"]

    def loss(y: Any, labels: Any) -> Any:
        own = y.gather(1, labels[:, None])
        return (own - y.scatter(1, labels[:, None], -np.inf).max(1, keepdim=True)[0]).sum()

    want = attack(net, X, LABELS, eps=0.1, alpha=0.025, steps=10, loss=loss, targeted=True)
    assert np.abs(found - want).max() < 1e-5


def test_a_scalar_loss() -> None:
    net = classifier(smooth=True)
    loss = og.losses.cross_entropy("logits")  # the mean of the examples
    found = run(pgd(exported(net), loss=loss, eps=0.5, norm="L2"), x=X, labels=LABELS)["x_adv"]
    want = run(pgd(exported(net), eps=0.5, norm="L2"), x=X, labels=LABELS)["x_adv"]
    assert np.abs(found - want).max() < 1e-5


def test_a_net_that_ends_in_a_softmax() -> None:
    model = exported(classifier(smooth=True))
    ends = og.attach(model, lambda op, y: {"p": op.Softmax(y, axis=-1)}, "logits")
    found = run(pgd(ends, of="p", eps=0.1), x=X, labels=LABELS)["x_adv"]
    assert np.array_equal(found, run(pgd(model, eps=0.1), x=X, labels=LABELS)["x_adv"])


def test_a_loss_of_the_model() -> None:
    x, y = RANDOM.random(6).astype(np.float32), RANDOM.random(6).round().astype(np.float32)
    options: dict[str, Any] = {"eps": 0.3, "steps": 3, "clip_min": 0.05, "clip_max": 0.95}
    model = pgd("models/bce_head.onnx", "input", loss="loss", **options)
    found = run(model, input=x, target=y)["input_adv"]
    want = attack(lambda t: t, x, y, alpha=0.25, loss=F.binary_cross_entropy, **options)
    assert np.abs(found - want).max() < 1e-5


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_scores_of_places(norm: Any) -> None:
    """A segmentation: its labels are classes by place."""
    torch.manual_seed(1)
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Tanh(), torch.nn.Conv2d(4, 5, 1))
    labels = RANDOM.integers(0, 5, (4, 4, 4))
    options: dict[str, Any] = {"eps": 0.3, "alpha": 0.1, "steps": 4, "norm": norm}
    found = run(pgd(exported(net), **options), x=X, labels=labels)["x_adv"]
    assert np.abs(found - attack(net, X, labels, **options)).max() < 1e-5


W = RANDOM.standard_normal((3, 5))


def linear(dtype: str) -> onnx.ModelProto:
    return onnx.parser.parse_model(f"""<ir_version: 10, opset_import: ["" : 21]>
    g ({dtype}[N,3] x, double[3,5] w) => ({dtype}[N,5] logits) {{
      v = CastLike(w, x)
      h = MatMul(x, v)
      logits = Tanh(h)
    }}""")


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_double_precision(norm: Any) -> None:
    x = X[:, :, 0, 0].astype(np.float64)
    options: dict[str, Any] = {"eps": 0.3, "alpha": 0.1, "steps": 4, "norm": norm}
    found = run(pgd(linear("double"), "x", **options), x=x, labels=LABELS, w=W)["x_adv"]
    want = attack(lambda t: torch.tanh(t @ torch.tensor(W)), x, LABELS, **options)
    assert np.abs(found - want).max() < 1e-12
    assert norm == "L2" or np.abs(found - x).max() <= 0.3


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_bfloat16(norm: Any) -> None:
    x = X[:, :, 0, 0].astype(ml_dtypes.bfloat16).clip(0.203125, 0.6953125)
    attacked = pgd(linear("bfloat16"), "x", eps=0.1, norm=norm, clip_min=0.2, clip_max=0.7)
    onnx.checker.check_model(attacked, full_check=True)
    found = reference(attacked, x=x, labels=LABELS, w=W)["x_adv"].astype(np.float64)
    away = np.abs(found - x.astype(np.float64))
    assert found.min() >= 0.2 and found.max() <= 0.7
    assert 0.05 < (away.max() if norm == "Linf" else np.linalg.norm(away, axis=1).max()) <= 0.1


@pytest.mark.parametrize("make", [fgsm, pgd])
def test_an_attack_in_l2_has_a_gradient(make: Any) -> None:
    """Through all steps, and of each step's gradient: as training on unrolled attacks needs it."""
    attacked = make(linear("double"), "x", eps=0.3, norm="L2")
    feeds = {"x": X[:, :, 0, 0].astype(np.float64), "labels": LABELS, "w": W}
    assert og.check(attacked, feeds, wrt=["x", "w"], of="x_adv").ok


# -- the bounds -----------------------------------------------------------------------------------


def in_half(dtype: Any) -> tuple[onnx.ModelProto, np.ndarray]:
    """The classifier in half precision, and images that lie at its bounds too."""
    model = exported(classifier(smooth=True))
    for w in model.graph.initializer:
        if w.data_type == onnx.TensorProto.FLOAT:
            w.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(w).astype(dtype), w.name))
    for v in (*model.graph.input, *model.graph.output):
        v.type.tensor_type.elem_type = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    return model, np.concatenate([X[:2], X[2:].round()]).astype(dtype)


@pytest.mark.parametrize("start", [False, True, "input"])
@pytest.mark.parametrize("norm", ["Linf", "L2"])
@pytest.mark.parametrize("eps", [1 / 255, 0.03, 0.1, 0.7])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_the_bounds_hold_to_the_last_bit(dtype: Any, eps: float, norm: Any, start: Any) -> None:
    model, x = in_half(dtype)
    options: dict[str, Any] = {"eps": eps, "norm": norm, "clip_min": 0.1, "clip_max": 0.9}
    x = x.clip(dtype(0.1001), dtype(0.8999))
    feeds: dict[str, Any] = {}
    if start == "input":
        feeds["x_noise"] = RANDOM.uniform(-1, 1, x.shape).astype(dtype)
    attacked = pgd(model, random_start=start, **options)
    for runs in (run, reference):
        if runs is reference and (start is True or dtype == np.float16):
            continue
        found = runs(attacked, x=x, labels=LABELS, **feeds)["x_adv"].astype(np.float64)
        away = found - x.astype(np.float64)
        assert found.min() >= 0.1 and found.max() <= 0.9
        assert np.abs(away).max() > eps / 30
        if norm == "Linf":
            assert np.abs(away).astype(np.float32).max() <= eps
        else:
            lengths = np.linalg.norm(away.reshape(4, -1), axis=1)
            assert lengths.max() <= eps * (1 + 1e-6)


def test_a_file_with_eps_as_an_input_keeps_the_bounds_too() -> None:
    model, x = in_half(np.float16)
    attacked = pgd(model, eps="input", **BOUNDS)
    for eps in np.linspace(0.001, 0.5, 20, dtype=np.float32):
        found = run(attacked, x=x, labels=LABELS, eps=eps)["x_adv"]
        assert np.abs(found.astype(np.float32) - x.astype(np.float32)).max() <= eps


def test_x_outside_of_the_data_comes_into_its_bounds() -> None:
    x = X * 4 - 2
    for norm in ("Linf", "L2"):
        found = run(pgd(exported(classifier()), eps=0.1, norm=norm, **BOUNDS), x=x, labels=LABELS)
        assert found["x_adv"].min() >= 0 and found["x_adv"].max() <= 1


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_where_the_gradient_is_zero_or_tiny(norm: Any) -> None:
    text = """<ir_version: 10, opset_import: ["" : 21]>
    g (float[N,2] x) => (float[N,2] y) <float[2,2] w = {1e-30, 2e-30, 0, 0}> { y = MatMul(x, w) }"""
    model = onnx.parser.parse_model(text)
    x, loss = np.ones((2, 2), np.float32), og.heads.weighted_sum("y", [1.0, 1.0])
    found = run(pgd(model, loss=loss, eps=0.5, norm=norm), x=x)["x_adv"]
    assert np.array_equal(found, np.tile(np.float32([1.5, 1]), (2, 1)))
    found = run(pgd(model, loss=loss, eps=0, norm=norm), x=x)["x_adv"]
    assert np.array_equal(found, x)


# -- random starts --------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_random_starts_fill_the_ball(norm: Any) -> None:
    text = """<ir_version: 10, opset_import: ["" : 21]>
    g (float[N,2] x) => (float[N,2] y) { y = Mul(x, x) }"""
    model = onnx.parser.parse_model(text)
    x = np.ones((4000, 2), np.float32)
    attacked = pgd(model, loss=og.heads.norm("y"), eps=0.5, alpha=0, norm=norm, random_start=True)
    away = run(attacked, x=x)["x_adv"] - x
    assert abs(away.mean()) < 0.02 and np.abs(np.corrcoef(away.T)[0, 1]) < 0.06
    size = np.abs(away).ravel() if norm == "Linf" else np.linalg.norm(away, axis=1)
    assert size.max() <= 0.5 + 1e-6
    assert np.allclose(np.quantile(size, [0.25, 0.5, 0.75]), [0.125, 0.25, 0.375], atol=0.02)
    assert np.array_equal(away, run(attacked, x=x)["x_adv"] - x)  # of a new session
    other = pgd(
        model, loss=og.heads.norm("y"), eps=0.5, alpha=0, norm=norm, random_start=True, seed=7
    )
    assert not np.allclose(away, run(other, x=x)["x_adv"] - x, atol=0.01)


# -- real and quantised nets ----------------------------------------------------------------------


def digits() -> tuple[np.ndarray, np.ndarray]:
    data = pytest.importorskip("sklearn.datasets").load_digits()
    return (data.images[::5, None] / 16).astype(np.float32), data.target[::5]


def accuracy(x: np.ndarray, labels: np.ndarray) -> float:
    return float(
        (run(onnx.load("models/digits.onnx"), image=x)["logits"].argmax(1) == labels).mean()
    )


@pytest.mark.parametrize(("norm", "eps"), [("Linf", 0.2), ("L2", 1.0)])
def test_the_digits_net_is_fooled(norm: Any, eps: float) -> None:
    x, labels = digits()
    accuracies = [accuracy(x, labels)]
    for make in (fgsm, pgd):
        model = make("models/digits.onnx", eps=eps, norm=norm, **BOUNDS)
        accuracies.append(accuracy(run(model, image=x, labels=labels)["image_adv"], labels))
    noise = np.sign(RANDOM.standard_normal(x.shape)).astype(np.float32)
    noise *= eps if norm == "Linf" else eps / 8
    assert accuracy((x + noise).clip(0, 1), labels) > 0.9 or norm == "Linf"
    assert accuracies[0] > 0.98 and accuracies[1] < 0.6 and accuracies[2] < accuracies[1]
    assert accuracies[2] < 0.3


def test_a_target_is_reached() -> None:
    x, labels = digits()
    wanted = (labels + 1) % 10
    model = pgd("models/digits.onnx", eps=0.4, steps=40, targeted=True, **BOUNDS)
    found = run(model, image=x, labels=wanted)["image_adv"]
    assert accuracy(found, wanted) > 0.9


def test_a_quantised_net() -> None:
    text = """<ir_version: 10, opset_import: ["" : 21]>
    g (float[N,3] x) => (float[N,3] y) <float scale = {0.02}, int8 zero = {0},
      int8[3,3] wq = {50, -20, 3, 7, 30, -40, -60, 10, 25}> {
      xq = QuantizeLinear(x, scale, zero)
      xd = DequantizeLinear(xq, scale, zero)
      w = DequantizeLinear(wq, scale, zero)
      y = MatMul(xd, w)
    }"""
    model, x = onnx.parser.parse_model(text), RANDOM.random((4, 3)).astype(np.float32)
    labels = np.array([0, 1, 2, 0])
    with pytest.raises(og.UnreachableError, match="straight_through"):
        pgd(model, eps=0.1)
    w = torch.tensor(numpy_helper.to_array(model.graph.initializer[2]) * np.float32(0.02))

    def net(x: Any) -> Any:
        return (x + ((x / 0.02).round() * 0.02 - x).detach()) @ w

    for norm in ("Linf", "L2"):
        options: dict[str, Any] = {"eps": 0.3, "alpha": 0.11, "steps": 5, "norm": norm}
        found = run(pgd(model, straight_through=True, **options), x=x, labels=labels)["x_adv"]
        want = attack(net, x, labels, **options)
        assert np.abs(found - want).max() < 1e-5


# -- what is taken and given ----------------------------------------------------------------------


def test_outputs_are_kept_as_asked_and_described() -> None:
    model = exported(classifier())
    assert [v.name for v in fgsm(model, eps=0.1, forward=False).graph.output] == ["x_adv"]
    loss = og.losses.cross_entropy("logits", reduction="none")
    attacked = pgd(model, eps=0.1, forward=False, loss=loss, values=loss)
    found = run(attacked, x=X, labels=LABELS)
    assert [*found] == ["loss", "x_adv"] and found["loss"].shape == (4,)
    properties = {p.key: p.value for p in attacked.metadata_props}
    assert properties["onnxgrad.adversarials"] == '{"x": "x_adv"}'


@pytest.mark.parametrize("target", ["cpu", "cuda", "portable"])
def test_targets(target: Any) -> None:
    net = classifier(smooth=True)
    found = run(pgd(exported(net), eps=0.1, target=target), x=X, labels=LABELS)["x_adv"]
    assert np.abs(found - attack(net, X, LABELS, eps=0.1, alpha=0.025, steps=10)).max() < 1e-5


def test_the_kind_of_the_model_is_kept() -> None:
    assert isinstance(fgsm("models/digits.onnx", eps=0.1), onnx.ModelProto)
    assert isinstance(pgd(ir.load("models/digits.onnx"), eps=0.1), ir.Model)


def test_control_flow_constants_and_unnamed_sizes() -> None:
    text = """<ir_version: 10, opset_import: ["" : 21]>
    g (float[?,3] x) => (float[?,3] y) <int64 m = {3}, bool go = {1}, float[3] w = {0.5, -1, 2}> {
      y = Loop <body = a (int64 i, bool ci, float[?,3] v) => (bool co, float[?,3] vo) {
        co = Identity(ci)
        p = Mul(v, w)
        vo = Sin(p)
      }> (m, go, x)
    }"""
    x = RANDOM.random((4, 3)).astype(np.float32)
    labels = np.array([0, 1, 2, 0])
    model = pgd(onnx.parser.parse_model(text), eps=0.1)
    w = torch.tensor([0.5, -1, 2])
    want = attack(
        lambda v: torch.sin(w * torch.sin(w * torch.sin(w * v))), x, labels,
        eps=0.1, alpha=0.025, steps=10,
    )  # fmt: skip
    assert np.abs(run(model, x=x, labels=labels)["x_adv"] - want).max() < 1e-5


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"eps": -1}, "eps is a number"),
        ({"eps": "much"}, "eps is a number or 'input'"),
        ({"eps": [0.1], "norm": "L2"}, "one radius"),
        ({"eps": 1, "norm": "L1"}, "norm is"),
        ({"eps": 1, "steps": 0}, "steps is a whole number, 1 or more, or 'input', not 0"),
        ({"eps": 1, "alpha": -1}, "alpha is"),
        ({"eps": 1, "random_start": "yes"}, "random_start is"),
        ({"eps": 1, "loss": "lagits"}, "no tensor 'lagits'"),
        ({"eps": 1, "of": "logits", "loss": og.heads.norm("logits")}, "leave one"),
        ({"eps": 1, "random_start": True, "seed": "a"}, "seed is a whole number"),
        ({"eps": 1, "clip_min": 1, "clip_max": 0}, "clip_min 1 is larger than clip_max 0"),
        ({"eps": [0.1, 0.2]}, r"eps: numbers of shape \[2\] do not broadcast to an example of 'x'"),
        ({"eps": 1, "clip_max": [0.1, 0.2]}, r"clip_max: numbers of shape \[2\]"),
        ({"eps": 1, "x": "first.weight"}, "no graph input"),
        ({"eps": 1, "x": "y"}, "no tensor"),
    ],
)
def test_refusals(options: Any, words: str) -> None:
    with pytest.raises(og.OnnxGradError, match=words):
        pgd(exported(classifier()), **options)


def test_new_inputs_have_other_names() -> None:
    """Where a name is taken, the message says what gives another one."""
    net = exported(classifier())
    taken = og.attach(net, lambda op, y: dict.fromkeys(["eps", "steps", "labels"], y), "logits")
    with pytest.raises(og.ArgumentError, match=r"cross_entropy\(labels='NAME'\)"):
        pgd(taken, of="logits", eps=0.1)
    loss = og.losses.cross_entropy("logits", labels="class")
    with pytest.raises(og.ArgumentError, match="with eps='input:NAME'"):
        pgd(taken, loss=loss, eps="input")
    with pytest.raises(og.ArgumentError, match="with steps='input:NAME'"):
        pgd(taken, loss=loss, eps=0.1, steps="input")
    model = pgd(taken, loss=loss, eps="input:radius", steps="input:count")
    feeds = {"x": X, "class": LABELS, "radius": np.float32(0.1), "count": np.int64(3)}
    same = run(pgd(net, eps=0.1, alpha=2.5 * 0.1 / 3, steps=3), x=X, labels=LABELS)["x_adv"]
    np.testing.assert_allclose(og.Net(model)(feeds)["x_adv"], same, atol=1e-6)


def test_several_inputs_have_to_be_told_apart() -> None:
    with pytest.raises(og.ArgumentError, match="name the one to move"):
        fgsm("models/two_in_two_out.onnx", of="mixed", eps=0.1)
    model = fgsm("models/two_in_two_out.onnx", "a", of="mixed", eps=0.1)
    assert model.graph.output[-1].name == "a_adv"
