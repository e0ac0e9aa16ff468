"""Which weights are trainable: what `og.ALL`, `Net.parameters` and gradients by example mean."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import onnxgrad as og
from onnxgrad.declare import trainable

MODELS = Path(__file__).parents[2] / "models"
HEAD = '<ir_version: 10, opset_import: ["" : 21, "me" : 1]>'


def parse(body: str, shapes: dict[str, list[int]], of: str = "float[N,3] x") -> onnx.ModelProto:
    """A net of x with weights of these shapes."""
    model = onnx.parser.parse_model(f"{HEAD} g ({of}) => (float[N,3] y) {{ {body} }}")
    rng = np.random.default_rng(0)
    for name, shape in shapes.items():
        weight = rng.standard_normal(shape).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(weight, name))
    return model


# The nets, the shapes of their weights, and those that are trainable.
NETS = {
    "a product of matrices": ("y = MatMul(x, w)", {"w": [3, 3]}, "w"),
    "of matrices of one element": ("y = Gemm(x, w, b)", {"w": [3, 1], "b": [1]}, "w b"),
    "a product and a sum": ("h = Mul(x, w) y = Add(h, b)", {"w": [3], "b": [1, 3]}, "w b"),
    "a difference and a quotient": ("h = Sub(b, x) y = Div(h, w)", {"w": [3], "b": [3]}, "w b"),
    "an equation": (
        'y = Einsum <equation = "ni,ij,->nj"> (x, w, s)',
        {"w": [3, 3], "s": []},
        "w",
    ),
    "lone numbers": (
        "h = Mul(x, s) k = Add(h, e) r = Pow(k, p) y = Div(r, o)",
        {"s": [], "e": [1], "p": [], "o": [1, 1]},
        "",
    ),
    "the bias of one output": (
        "h = MatMul(x, w) k = Add(h, b) l = Add(k, e) y = Expand(l, shape)",
        {"w": [3, 1], "b": [1], "e": [1]},
        "w b",
    ),
    "what is no term": (
        "h = Pow(x, p) k = Clip(h, low, high) y = Max(k, m)",
        {"p": [3], "low": [], "high": [], "m": [3]},
        "",
    ),
    "statistics": (
        "y = BatchNormalization(x, s, b, m, v)",
        {"s": [3], "b": [3], "m": [3], "v": [3]},
        "s b",
    ),
    "weights by the standard, of one element": (
        "h = PRelu(x, p) y = LayerNormalization <axis = -1> (h, s, b)",
        {"p": [1], "s": [1], "b": [1]},
        "p s b",
    ),
    "a recurrent net": (
        """i = Unsqueeze(x, axis) h, last = LSTM <hidden_size = 3> (i, w, r, b, , h0, c0, p)
        y = Squeeze(last, axis)""",
        {"w": [1, 12, 3], "r": [1, 12, 3], "b": [1, 24], "p": [1, 9], "h0": [1, 2, 3], "c0": [1]},
        "w r b p",
    ),
    "moved": (
        """t = Transpose(w) u = Reshape(t, shape) c = Cast <to = 11> (u) d = Cast <to = 1> (c)
        k = Identity(d) y = MatMul(x, k)""",
        {"w": [3, 3]},
        "w",
    ),
    "picked": ("t = Slice(w, zero, three) y = MatMul(x, t)", {"w": [5, 3]}, "w"),
    "put together": (
        "t = Concat <axis = 0> (v, w) y = MatMul(x, t)",
        {"v": [1, 3], "w": [2, 3]},
        "v w",
    ),
    "rounded and back": (
        "q = QuantizeLinear(w, s) d = DequantizeLinear(q, s) y = MatMul(x, d)",
        {"w": [3, 3], "s": []},
        "w",
    ),
    "a number, expanded": ("e = Expand(s, shape) y = MatMul(x, e)", {"s": []}, "s"),
    "a number, expanded for a sum": ("e = Expand(s, shape) y = Add(x, e)", {"s": []}, ""),
    "a weight in a branch": (
        """c = Constant <value = bool {1}> () m = ReduceMax <keepdims = 0> (x) d = Greater(m, s)
        y = If (d) <then_branch = t () => (float[N,3] p) { p = MatMul(x, w) },
          else_branch = e () => (float[N,3] q) { q = Mul(x, s) }>""",
        {"w": [3, 3], "s": []},
        "w",
    ),
    "weights of several layers": (
        """y = Scan <num_scan_inputs = 1,
          body = b (float[N,3] h, float[3,3] v) => (float[N,3] o) { o = MatMul(h, v) }> (x, w)""",
        {"w": [2, 3, 3]},
        "w",
    ),
    "an initial state": (
        """s, y = Scan <num_scan_inputs = 1,
          body = b (float[3] h, float[3] v) => (float[3] o, float[3] p) {
            o = Add(h, v) p = Identity(o) }> (z, x)""",
        {"z": [3]},
        "",
    ),
}


@pytest.mark.parametrize("name", NETS)
def test_by_what_takes_it(name: str) -> None:
    body, shapes, names = NETS[name]
    model = parse(body, shapes)
    for key, value in {"axis": [0], "shape": [3, 3], "zero": [0], "three": [3]}.items():
        model.graph.initializer.append(numpy_helper.from_array(np.array(value), key))
    net = og.Net(model)
    assert sorted(net.parameters) == sorted(names.split())
    assert set(og.inspect(model, og.ALL).wrt) == {"x", *names.split()}


GROUPS = """r = Reshape(x, grouped) i = InstanceNormalization(r, ones, zeros) o = Reshape(i, back)
    v = Unsqueeze(w, one) p = Mul(o, v) s = Add(p, b) y = Reshape(s, flat)"""
GROUPS_SHAPES = {"grouped": [0, 1, -1], "back": [0, 3, 1], "one": [1], "flat": [0, 3]}


@pytest.mark.parametrize(
    "change, ones, names",
    [
        (("", ""), 1, "b w"),  # a GroupNorm
        (("", ""), 2, "b ones w"),  # a scale that says something
        (("= Mul(o, v)", "= Mul(o, o)"), 1, "b ones zeros"),  # no other scale
        (("o = Reshape(i, back)", "o = Identity(i)"), 1, "b ones w zeros"),
    ],
)
def test_ones_and_zeros_of_a_group_norm(change: tuple[str, str], ones: float, names: str) -> None:
    model = parse(GROUPS.replace(*change), {"w": [3], "b": [3, 1]})
    arrays = {n: np.array(shape) for n, shape in GROUPS_SHAPES.items()}
    arrays |= {"ones": np.full(1, ones, np.float32), "zeros": np.zeros(1, np.float32)}
    for key, value in arrays.items():
        model.graph.initializer.append(numpy_helper.from_array(value, key))
    assert sorted(og.Net(model).parameters) == names.split()


def test_a_table() -> None:
    """Rows that indices pick are trainable, one row of numbers is not."""
    body = "e = Gather(t, i) k = Gather(v, i) l = Unsqueeze(k, one) y = Pow(e, l)"
    model = parse(body, {"t": [5, 3], "v": [3]}, of="int64[N] i")
    model.graph.initializer.append(numpy_helper.from_array(np.array([1]), "one"))
    assert og.Net(model).parameters == ("t",)


@pytest.mark.parametrize("low", [-np.inf, -3.4e38, -1e9])
def test_a_mask(low: float) -> None:
    mask = np.triu(np.full((3, 3), low, np.float32), 1)
    model = parse("h = MatMul(x, w) y = Add(h, m)", {"w": [3, 3]})
    model.graph.initializer.append(numpy_helper.from_array(mask, "m"))
    assert og.Net(model).parameters == ("w",)


def test_half_precision_masks_with_its_lowest_number() -> None:
    body = "h = Cast <to = 10> (x) k = Add(h, m) l = Add(k, b) y = Cast <to = 1> (l)"
    model = parse(body, {})
    for name, value in {"m": -65504, "b": -100}.items():
        array = np.array([0, value, 0], np.float16)
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    assert og.Net(model).parameters == ("b",)


def test_an_operator_of_ones_own() -> None:
    og.elementwise("me::Warp", lambda op, g: g, inputs=["x"])
    og.forget("me::Warp")
    og.rule("me::Warp", "x", inputs=["x", "w", "e"])(lambda g: g)
    og.rule("me::Warp", "w")(lambda op, g, w: w)
    try:
        model = parse("y = me.Warp(x, w, e)", {"w": [3], "e": [3]})
        assert og.inspect(model, og.ALL).wrt == ("x", "w")
    finally:
        og.forget("me::Warp")


def test_others_can_be_named() -> None:
    body, shapes, _ = NETS["statistics"]
    got = og.gradient(parse(body, shapes), ["m", "v"], forward=False)
    assert [o.name for o in got.graph.output] == ["m_grad", "v_grad"]
    model = parse(*NETS["lone numbers"][:2])
    assert len(og.gradient(model, ["s", "e", "o"], forward=False).graph.output) == 3
    with pytest.raises(og.ArgumentError, match="no trainable weight"):
        og.per_example_gradient(model)


def test_in_constant_nodes_too() -> None:
    """As half of the real files keep them; in ALL and by example."""
    model = onnx.parser.parse_model(
        HEAD
        + """g (float[N,2] x) => (float[N,2] y) {
        w = Constant <value = float[2] {1.0, 2.0}> ()
        e = Constant <value = float[1] {1.0}> ()
        s = Constant <value = float[2] {0.5, 0.5}> ()
        h = Mul(x, w) k = Pow(h, s) y = Add(k, e) }"""
    )
    assert og.Net(model).parameters == ("w",)
    assert og.inspect(model, og.ALL).wrt == ("x", "w")
    by_example = og.per_example_gradient(model, forward=False)
    assert [o.name for o in by_example.graph.output] == ["w_grad"]
    assert og.per_example_gradient(model, "s", forward=False).graph.output[0].name == "s_grad"


@pytest.mark.parametrize(
    "name, left_out",
    [
        ("transformer_block", ["const_0.35355339059327373_f32"]),
        ("bce_head", ["const_1e-06_f32", "const_0.999999_f32", "const_1.0_f32"]),
        ("mlp", []),
    ],
)
def test_nets_of_this_repository(name: str, left_out: list[str]) -> None:
    model = onnx.load(MODELS / f"{name}.onnx")
    floats = [i.name for i in model.graph.initializer if i.data_type == onnx.TensorProto.FLOAT]
    assert [n for n in floats if n not in og.Net(model).parameters] == left_out


def test_the_page_says_which() -> None:
    page = (MODELS.parent / "docs" / "semantics.md").read_text()
    table = page.partition("| what takes a trainable weight |")[2].partition("\n\n")[0]
    named = set(re.findall(r"\w+", table))
    assert named >= {
        *trainable._WEIGHTS,
        *trainable._MOVING,
        *trainable._PRODUCTS,
        *trainable._SUMS,
    }
    assert named >= set().union(*trainable._WEIGHTS.values())


# -- what PyTorch exports ------------------------------------------------------------------------


def attention() -> tuple[object, object]:
    """Scales, a mask of -inf, a positional embedding, a token: as in a vision transformer."""
    import torch
    from torch import nn

    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.qkv, self.out = nn.LayerNorm(8), nn.Linear(8, 24), nn.Linear(8, 8)
            self.token, self.place = (nn.Parameter(torch.randn(1, n, 8)) for n in (1, 5))
            self.gamma = nn.Parameter(torch.randn(8))
            self.register_buffer("mask", torch.triu(torch.full((5, 5), -torch.inf), 1))
            self.register_buffer("low", torch.tensor(torch.finfo(torch.float32).min))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.place
            q, k, v = (
                t.unflatten(-1, (2, 4)).transpose(1, 2) for t in self.qkv(self.norm(x)).chunk(3, -1)
            )
            scores = q @ k.transpose(-1, -2) / 4**0.5 + self.mask
            scores = torch.where(scores.isnan(), self.low, scores)
            heads = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
            return (x + self.gamma * self.out(heads)).mean(1) * 0.125

    return Attention(), torch.randn(2, 4, 8)


def convolutions() -> tuple[object, object]:
    import torch
    from torch import nn

    layers = [
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.PReLU(), nn.InstanceNorm2d(4, affine=True),
        nn.GroupNorm(2, 4), nn.ConvTranspose2d(4, 1, 2, bias=False), nn.Flatten(), nn.Linear(16, 1),
    ]  # fmt: skip
    return nn.Sequential(*layers), torch.randn(2, 3, 5, 5)


def recurrent() -> tuple[object, object]:
    import torch
    from torch import nn

    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.norm = nn.Embedding(9, 6), nn.LayerNorm(6)
            self.lstm = nn.LSTM(6, 4, bidirectional=True, batch_first=True)
            self.gru, self.head = nn.GRU(8, 4, batch_first=True), nn.Linear(4, 3, bias=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.gru(self.lstm(self.norm(self.table(x)))[0])[0])

    return Recurrent(), torch.randint(0, 9, (2, 5))


def encoder() -> tuple[object, object]:
    import torch
    from torch import nn

    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    return nn.TransformerEncoder(layer, 1, enable_nested_tensor=False), torch.randn(2, 3, 8)


def weight_norm() -> tuple[object, object]:
    import torch
    from torch import nn

    linear = nn.utils.parametrizations.weight_norm(nn.Linear(4, 3))
    return nn.Sequential(linear, nn.Tanh(), nn.Linear(3, 2)), torch.randn(2, 4)


# The nets, and how many numbers vanish where the exporter folds constants.
EXPORTED = {attention: 0, convolutions: 8, recurrent: 0, encoder: 0, weight_norm: 3}


@pytest.mark.parametrize("folded", [False, True], ids=["plain", "folded"])
@pytest.mark.parametrize("net", EXPORTED)
def test_what_pytorch_trains(net: Callable[[], tuple], folded: bool) -> None:
    """By the names that the exporter writes; where it folds constants, as many numbers."""
    torch = pytest.importorskip("torch", reason="PyTorch says what it trains")
    torch.manual_seed(0)
    module, x = net()
    trained = {name: p for name, p in module.eval().named_parameters() if p.requires_grad}
    for p in trained.values():
        torch.nn.init.normal_(p)  # the exporter makes one of equal tensors
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is the old exporter, which keeps the names
        torch.onnx.export(
            module, (x,), file, dynamo=False, opset_version=17, do_constant_folding=folded
        )
    model = onnx.load_from_string(file.getvalue())
    found = og.Net(model).parameters
    if not folded:
        assert {n for n in found if "Constant" not in n} == set(trained)
        return
    shapes = {i.name: list(i.dims) for i in model.graph.initializer}
    sizes = sum(int(np.prod(shapes[name])) for name in found if "Constant" not in name)
    assert sizes == sum(p.numel() for p in trained.values()) - EXPORTED[net]
