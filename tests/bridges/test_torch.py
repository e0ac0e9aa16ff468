"""The bridge to PyTorch, compared with PyTorch's own nets and checked by its own tools."""

from __future__ import annotations

import copy
import doctest
import functools
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import onnxgrad as og
from onnxgrad import bridges
from tests.bridges.page import run_part, run_tutorial

torch = pytest.importorskip("torch", reason="PyTorch is not installed: make torch")
nn, functional = torch.nn, torch.nn.functional

HEADER = '<ir_version: 10, opset_import: ["": 21]>'
MLP = "models/mlp.onnx"
# Two inputs, a weight, two outputs.
NET = """ f (double[N,3] x, double[3,2] u) => (double[N,2] y, double[N] z)
<double[3,2] w = {0.5, -1, 0.3, 0.7, -0.2, 0.1}> {
    a = MatMul(x, w)
    b = Tanh(a)
    c = MatMul(x, u)
    y = Mul(b, c)
    axes = Constant<value_ints = [1]>()
    z = ReduceSum<keepdims = 0>(b, axes)
}"""


def layer_of(text: str, **options: Any) -> Any:
    return bridges.torch.layer(onnx.parser.parse_model(HEADER + text), **options)


def double() -> tuple[Any, tuple[Any, ...]]:
    """A layer in float64, and what its derivatives are taken with respect to."""
    layer = layer_of(NET)
    torch.manual_seed(0)
    x, u = (torch.randn(s, dtype=torch.float64, requires_grad=True) for s in ((4, 3), (3, 2)))
    return layer, (x, u, layer.w)


@pytest.fixture
def twin() -> Any:
    """PyTorch's own net with the weights of models/mlp.onnx."""
    layers = [nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3)]
    net = nn.Sequential(*layers)
    weights = bridges.torch.layer(MLP).state_dict()
    net.load_state_dict(dict(zip(net.state_dict(), weights.values(), strict=True)))
    return net


def same(a: Any, b: Any) -> None:
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_a_layer_trains_as_pytorchs_own_net(twin: Any) -> None:
    layer = bridges.torch.layer(MLP)
    labels = torch.tensor([0, 2, 1, 1])
    for net in (layer, twin):
        torch.manual_seed(1)
        optimizer = torch.optim.Adam(net.parameters(), lr=0.05)
        for _ in range(5):
            optimizer.zero_grad()
            functional.cross_entropy(net(torch.randn(4, 4)), labels).backward()
            optimizer.step()
    for ours, theirs in zip(layer.parameters(), twin.parameters(), strict=True):
        same(ours, theirs)


def test_derivatives_pass_pytorchs_checks_in_both_modes_and_to_the_second_order() -> None:
    layer, tensors = double()

    def function(x: Any, u: Any, w: Any) -> Any:
        return torch.func.functional_call(layer, {"w": w}, (x, u))

    assert torch.autograd.gradcheck(function, tensors, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(function, tensors)


def test_forward_over_reverse_outside_of_torch_func() -> None:
    """A backward pass that reads residuals has a forward mode too."""
    layer, (x, u, _) = double()
    ad = torch.autograd.forward_ad
    moved = torch.ones_like(x)
    with ad.dual_level():
        dual = ad.make_dual(x, moved)
        (g,) = torch.autograd.grad(layer(dual, u)[0].sum(), dual, create_graph=True)
        found = ad.unpack_dual(g).tangent
    same(found, torch.autograd.functional.hvp(lambda x: layer(x, u)[0].sum(), x, moved)[1])


@pytest.mark.parametrize("wrt", [(), (0, 2)])
def test_the_operator_passes_opcheck(wrt: tuple[int, ...]) -> None:
    layer, (x, u, w) = double()
    torch.library.opcheck(torch.ops.onnxgrad.run, ([x, u.detach(), w], layer._number(wrt, 0)))


def test_a_gradient_runs_no_second_forward_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, (x, u, _) = double()
    y, _ = layer(x, u)
    ran = []
    from onnxgrad.bridges.autograd import Call

    run = Call.run

    def counted(call: Any, tensors: Any) -> Any:
        ran.append([node.op_type for node in call.program.model.graph])
        return run(call, tensors)

    monkeypatch.setattr(Call, "run", counted)
    y.sum().backward()
    assert len(ran) == 1 and "Tanh" not in ran[0]
    torch.func.grad(lambda x: layer(x, u)[0].sum())(x)
    assert len(ran) == 3 and "Tanh" not in ran[2]


def test_the_transforms_of_torch_func(twin: Any) -> None:
    layer, f = bridges.torch.layer(MLP), torch.func
    x = torch.randn(3, 4)

    def loss(net: Any, weights: Any, x: Any) -> Any:
        return f.functional_call(net, weights, (x[None],)).square().sum()

    found = []
    for net in (layer, twin):
        weights = dict(net.named_parameters())
        one = functools.partial(loss, net, weights)
        by_example = f.vmap(f.grad(functools.partial(loss, net)), (None, 0))(weights, x)
        found.append(
            [
                f.vmap(lambda x, net=net: net(x[None])[0])(x),
                f.vmap(f.grad(one))(x),
                f.jacrev(net)(x),
                f.hessian(one)(x[0]),
                f.jvp(net, (x,), (x.flip(0),))[1],
                *by_example.values(),
            ]
        )
    for ours, theirs in zip(*found, strict=True):
        same(ours, theirs)


def native(x: Any, u: Any, w: Any) -> tuple[Any, Any]:
    """`NET` in PyTorch."""
    b = torch.tanh(x @ w)
    return b * (x @ u), b.sum(1)


def test_what_vmap_has_made_of_a_backward_pass_has_derivatives() -> None:
    """A backward pass that reads residuals, batched by jacrev, is differentiated in turn."""
    layer, (x, u, w) = double()
    f, found = torch.func, []
    for net in (lambda x, w: f.functional_call(layer, {"w": w}, (x, u))[0],
                lambda x, w: native(x, u, w)[0]):  # fmt: skip
        second = f.jacrev(f.jacrev(lambda w, net=net: net(x, w).square().sum()))(w.detach())
        jacobian = f.jacrev(lambda x, net=net: net(x, w))(x)
        found.append([second, *torch.autograd.grad(jacobian.square().sum(), (x, u, w))])
        empty = f.vmap(lambda x, net=net: net(x, w))(torch.zeros(0, 4, 3, dtype=torch.float64))
        assert empty.shape == (0, 4, 2)
    for ours, theirs in zip(*found, strict=True):
        same(ours, theirs)


def test_what_records_a_layer_records_a_call_and_not_its_results() -> None:
    from torch.fx.experimental.proxy_tensor import make_fx

    layer, (x, u, w) = double()
    x, u, f = x.detach(), u.detach(), torch.func
    gradient = f.grad(lambda x: layer(x, u)[0].sum())
    same(make_fx(gradient)(x)(2 * x), f.grad(lambda x: native(x, u, w)[0].sum())(2 * x))
    recorded = torch.jit.trace(layer, (x, u))
    for ours, theirs in (
        (make_fx(layer)(x, u)(2 * x, u)[0], native(2 * x, u, w)[0]),
        (recorded(2 * x, u)[0], native(2 * x, u, w)[0]),
        (
            f.linearize(lambda x: layer(x, u)[0], x)[1](u.T[:1].expand(4, 3)),
            f.jvp(lambda x: native(x, u, w)[0], (x,), (u.T[:1].expand(4, 3),))[1],
        ),
        (f.functionalize(lambda x: layer(x, u)[0])(x), native(x, u, w)[0]),
    ):
        same(ours, theirs)
    moved = x.clone().requires_grad_()  # which was not, when the layer was recorded
    (ours,) = torch.autograd.grad(recorded(moved, u)[0].sum(), moved)
    same(ours, f.grad(lambda x: native(x, u, w)[0].sum())(x))


def test_what_is_compiled_tells_layers_apart_and_keeps_what_vmap_needs() -> None:
    def compiled(layer: Any) -> Any:
        return torch.compile(lambda x: torch.vmap(layer)(x).sum(), backend="aot_eager")

    for op, function in (("Exp", torch.exp), ("Sin", torch.sin)):
        layer = layer_of(
            " f (double[N,2] x) => (double[N,2] y) <double[2] w = {1, 2}> "
            f"{{ a = Mul(x, w) y = {op}(a) }}",
            trainable="w",
        )
        x = torch.ones(3, 2, 2, dtype=torch.float64)
        y = compiled(copy.deepcopy(layer) if op == "Sin" else layer)(x)
        same(y, function(x * layer.w).sum())
        (ours,) = torch.autograd.grad(compiled(layer)(x), layer.w)
        (theirs,) = torch.autograd.grad(function(x * layer.w).sum(), layer.w)
        same(ours, theirs)


def test_sizes_that_depend_on_values_are_compiled() -> None:
    layer = layer_of(
        """ f (double[N] x, int64[1] k) => (double[M] y) {
            zero = Constant<value_ints = [0]>()
            y = Slice(x, zero, k)
        }"""
    )
    x = torch.arange(5, dtype=torch.float64, requires_grad=True)
    compiled = torch.compile(
        lambda x, k: (2 * layer(x, k)).sum(), fullgraph=True, backend="aot_eager"
    )
    y = compiled(x, torch.tensor([3]))
    y.backward()
    assert y == 6 and x.grad.tolist() == [2, 2, 2, 0, 0]
    # Runs on zeros and on ones tell that here as many numbers are distinct, which is not so.
    distinct = layer_of(" f (double[N] x) => (double[M] y) { y = Unique<sorted = 1>(x) }")
    with pytest.raises(og.FeedError, match="depend on the values"):
        torch.compile(lambda x: distinct(x) + 1, backend="aot_eager")(x.detach())


def test_inputs_that_nothing_uses_and_inputs_that_are_outputs() -> None:
    f, x = torch.func, torch.arange(3, dtype=torch.float64)
    unused = layer_of(
        " f (double[N] x, double[N] u) => (double[N] y) { y = Mul(x, x) }", wrt=["x", "u"]
    )
    found = f.grad(lambda x, u: unused(x, u).sum(), (0, 1))(x, x)
    same(torch.stack(found), torch.stack([2 * x, 0 * x]))
    same(f.jvp(lambda u: unused(x, u), (x,), (x,))[1], 0 * x)
    through = layer_of(" f (double[N] x) => (double[N] x, double[N] y) { y = Mul(x, x) }")
    (_, y), (first, second) = f.jvp(through, (x,), (x,))
    same(torch.stack([y, first, second]), torch.stack([x * x, x, 2 * x * x]))
    same(f.vmap(f.jacfwd(lambda x: through(x)[0]))(x[:, None]).flatten(), torch.ones_like(x))


def test_compiled_whole_for_batches_of_any_size(twin: Any) -> None:
    layer = bridges.torch.layer(MLP)
    compiled = torch.compile(
        lambda x: torch.sin(layer(x)).sum(), fullgraph=True, backend="aot_eager", dynamic=True
    )
    for size in (2, 5):
        x = torch.randn(size, 4, requires_grad=True)
        (ours,) = torch.autograd.grad(compiled(x), x)
        (theirs,) = torch.autograd.grad(torch.sin(twin(x)).sum(), x)
        same(ours, theirs)


@pytest.mark.parametrize("name", ["bfloat16", "float16", "double"])
def test_dtypes_are_kept_and_empty_batches_are_taken(name: str) -> None:
    two = 2 if name == "double" else 0x4000  # the text has the bits of a half
    layer = layer_of(
        f""" f ({name}[N,2] x) => ({name}[N,2] y) <{name}[2] w = {{{two}, {two}}}> {{
            a = Cast<to = 1>(x)
            b = Cast<to = 1>(w)
            c = Mul(a, b)
            y = CastLike(c, x)
        }}""",
        trainable="w",
    )
    dtype = getattr(torch, name)
    assert layer.w.dtype == dtype
    for rows in (2, 0):
        x = torch.ones(2, rows, dtype=dtype).T.requires_grad_()  # not contiguous
        y = layer(x)
        y.sum().backward()
        assert y.dtype == x.grad.dtype == dtype
        same(x.grad, torch.full((rows, 2), 2, dtype=dtype))


def test_nothing_is_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = bridges.torch.layer(MLP), torch.randn(2, 4)
    session, given, results = layer._function.session, {}, []
    run = session.run

    def seen(feeds: Any) -> Any:
        given.update(feeds)
        results.extend(run(feeds))
        return results

    monkeypatch.setattr(session, "run", seen)
    with torch.no_grad():
        y = layer(x)
    places = {name: array.__array_interface__["data"][0] for name, array in given.items()}
    assert places["input"] == x.data_ptr() and places["fc1.weight"] == layer.fc1.weight.data_ptr()
    assert y.data_ptr() == results[0].__array_interface__["data"][0]


def test_a_loss_is_an_output_whose_labels_are_an_input(twin: Any) -> None:
    loss = bridges.torch.layer(MLP, of=og.losses.cross_entropy("logits"))
    x, labels = torch.randn(5, 4), torch.tensor([0, 1, 2, 1, 0])
    found = loss(x, labels)
    found.sum().backward()
    functional.cross_entropy(twin(x), labels).backward()
    same(found.reshape(()), functional.cross_entropy(twin(x), labels))
    same(loss.fc1.weight.grad, twin[0].weight.grad)


def test_integers_scalars_and_inputs_without_a_gradient() -> None:
    net = """ f (float s, int64[K] i, float[3] t) => (float y, int64[K] j) {
        g = Gather(t, i)
        r = ReduceSum<keepdims = 0>(g)
        y = Mul(r, s)
        j = Add(i, i)
    }"""
    s, t = torch.tensor(2.0, requires_grad=True), torch.ones(3, requires_grad=True)
    i = torch.tensor([0, 1, 1])
    y, j = layer_of(net, wrt="t")(t=t, s=s, i=i)
    y.backward()
    assert s.grad is None and not j.requires_grad
    assert j.tolist() == [0, 2, 2] and t.grad.tolist() == [2, 4, 0]


def test_straight_through_a_rounded_net() -> None:
    x = torch.ones(1, 3, requires_grad=True)
    text = " f (float[N,3] x) => (float[N,3] y) { y = Round(x) }"
    with pytest.raises(og.UnreachableError, match=r"Round.* names\. For .* pass straight_through"):
        layer_of(text)(x)
    layer_of(text, straight_through=True)(x).sum().backward()
    same(x.grad, torch.ones(1, 3))


def test_copies_pickles_and_threads() -> None:
    layer, x = bridges.torch.layer(MLP, threads=1), torch.randn(8, 4)
    again = pickle.loads(pickle.dumps(layer))
    clone = copy.deepcopy(layer)
    same(again(x), layer(x))
    nn.init.zeros_(clone.fc1.weight)
    assert not torch.equal(clone(x), layer(x))

    def gradient(_: int) -> Any:
        moved = x.clone().requires_grad_()
        return torch.autograd.grad(layer(moved).sum(), moved)[0]

    with ThreadPoolExecutor(8) as pool:
        first, *others = pool.map(gradient, range(16))
    assert all(torch.equal(first, other) for other in others)


def test_errors_are_ours() -> None:
    layer, x = bridges.torch.layer(MLP), torch.ones(2, 4)
    for given, said in (
        ((), "takes tensors for 'input'"),
        ((np.ones((2, 4)),), "takes tensors"),
        ((x.double(),), "takes torch.float32"),
        ((x[:, 1:],), r"shape \(N, 4\)"),
        ((x.to("meta"),), "numbers in memory"),
    ):
        with pytest.raises(og.FeedError, match=said):
            layer(*given)
    with pytest.raises(og.FeedError, match="numbers in memory"):
        torch.autograd.functional.jacobian(layer, x, vectorize=True)
    with pytest.raises(og.ArgumentError, match="no floating-point input"):
        bridges.torch.layer(MLP, wrt="logits")
    with pytest.raises(og.ArgumentError, match="a dtype that PyTorch has"):
        layer_of(" f (string[N] x) => (string[N] y) { y = Identity(x) }", trainable=None)


DIGIT = torch.from_numpy(np.load("models/digit.npy"))


def attacked_by_hand(layer: Any, eps: float) -> Any:
    """One step along the sign of the gradient of the cross-entropy of class 3."""
    (g,) = (
        og.Net("models/digits.onnx")
        .gradient(
            {"image": DIGIT.numpy(), "labels": np.array([3])},
            wrt=["image"],
            of=og.losses.cross_entropy("logits"),
        )
        .values()
    )
    return (DIGIT + eps * torch.from_numpy(np.sign(g))).clip(0, 1)


def test_foolbox_attacks_a_file() -> None:
    foolbox = pytest.importorskip("foolbox", reason="foolbox is not installed: make attacks")
    layer = bridges.torch.layer("models/digits.onnx", trainable=None)
    model = foolbox.PyTorchModel(layer.eval(), bounds=(0, 1), device="cpu")
    _, step, _ = foolbox.attacks.FGSM()(model, DIGIT, torch.tensor([3]), epsilons=0.1)
    same(step, attacked_by_hand(layer, 0.1))
    _, found, fooled = foolbox.attacks.LinfPGD()(model, DIGIT, torch.tensor([3]), epsilons=0.2)
    assert fooled.all() and (found - DIGIT).abs().max() <= 0.2 + 1e-6


def test_torchattacks_attacks_a_file() -> None:
    torchattacks = pytest.importorskip("torchattacks", reason="not installed: make attacks")
    layer = bridges.torch.layer("models/digits.onnx", trainable=None)
    same(torchattacks.FGSM(layer, eps=0.1)(DIGIT, torch.tensor([3])), attacked_by_hand(layer, 0.1))
    found = torchattacks.PGD(layer, eps=0.2, alpha=0.05)(DIGIT, torch.tensor([3]))
    assert layer(found).argmax() != 3 and (found - DIGIT).abs().max() <= 0.2 + 1e-6


def test_captum_explains_a_file() -> None:
    captum = pytest.importorskip("captum.attr", reason="Captum is not installed: make explainers")
    layer = bridges.torch.layer("models/digits.onnx", trainable=None)
    theirs = captum.IntegratedGradients(layer).attribute(DIGIT, target=3, n_steps=32)
    model = og.explain.integrated_gradients("models/digits.onnx", target=3, n_steps=32)
    (ours,) = [y for k, y in og.Net(model)(DIGIT.numpy()).items() if k.endswith("attribution")]
    same(theirs.float(), torch.from_numpy(ours))


def test_the_example_of_the_docstring_runs() -> None:
    names = {"og": og, "torch": torch}
    (test,) = doctest.DocTestFinder().find(bridges.torch.layer, "layer", module=False, globs=names)
    result = doctest.DocTestRunner().run(test)
    assert result.attempted and not result.failed


def test_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("captum", reason="Captum is not installed: make explainers")
    run_part("PyTorch", tmp_path, monkeypatch)


def test_the_tutorial_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # where others compute too, more are ten times slower for small nets
    try:
        run_tutorial("torch", tmp_path, monkeypatch)
    finally:
        torch.set_num_threads(threads)
