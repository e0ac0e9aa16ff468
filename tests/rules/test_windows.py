"""Windows that inference counts or pads wrongly: what runs is right, whatever a runtime infers."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest

import onnxgrad as og
from tests.torch_gradients import torch

F = torch.nn.functional
RNG = np.random.default_rng(0)


def parse(inputs: str, node: str, opset: int = 21) -> onnx.ModelProto:
    head = f'<ir_version: 10, opset_import: ["": {opset}]>'
    model = onnx.parser.parse_model(f"{head} net ({inputs}) => (float[p] y) {{ y = {node} }}")
    model.graph.output[0].type.tensor_type.ClearField("shape")  # for inference to tell
    return model


def executed(model: onnx.ModelProto, feeds: dict) -> list[np.ndarray]:
    """What onnxruntime gives with all that it folds and fuses when it loads a file."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    return session.run(None, feeds)


def pool(x: np.ndarray, op: str, k: int, s: int, d: int, pads: tuple, up: int, padded: int):
    """The windows of a pool in one dimension, as onnxruntime has them: rows of indices, counts."""
    n, (begin, end) = len(x), pads
    room = n + begin + end - (k - 1) * d - 1
    number = (-(-room // s) if up else int(room / s)) + 1
    if up and (number - 1) * s >= n + begin:
        number -= 1  # the last one begins behind the input
    for j in range(number):
        places = [j * s + t * d - begin for t in range(k)]
        inside = [p for p in places if 0 <= p < n]
        yield inside, len([p for p in places if p < n + end]) if padded else len(inside)


def pool_gradient(x, g, op, windows):
    y, dx = [], np.zeros_like(x)
    for j, (inside, count) in enumerate(windows):
        v = x[inside]
        if op == "MaxPool":
            y.append(v.max() if inside else np.finfo(np.float32).min)
            dx[inside[v.argmax()] if inside else []] += g[j] if inside else 0
        elif op == "LpPool":
            y.append(np.sqrt((v * v).sum()))
            dx[inside] += g[j] * v / max(y[-1], 1e-30)
        else:
            y.append(v.sum() / max(count, 1))
            dx[inside] += g[j] / max(count, 1)
    return np.array(y), dx


POOLS = [
    (op, n, k, s, d, pads, up, padded)
    for op in ("MaxPool", "AveragePool", "LpPool")
    for n, k, s, d, pads in (
        (5, 2, 3, 1, (0, 0)),  # fits, but for one element
        (6, 2, 3, 1, (0, 0)),  # the last begins behind the input
        (6, 2, 2, 1, (0, 1)),  # ... in the padding
        (5, 3, 3, 1, (1, 1)),
        (1, 2, 2, 1, (1, 1)),
        (7, 2, 3, 2, (1, 1)),
        (2, 2, 1, 3, (1, 1)),  # lies in padding as a whole
        (1, 2, 2, 2, (1, 1)),
        (2, 3, 3, 1, (0, 0)),  # larger than the input
        (3, 3, 4, 2, (1, 0)),
    )
    for up in (0, 1)
    for padded in ((0, 1) if op == "AveragePool" else (0,))
]


@pytest.mark.parametrize(("opset", "sizes"), [(19, "static"), (19, "symbolic"), (22, "static")])
@pytest.mark.parametrize("case", POOLS, ids=lambda c: "-".join(map(str, c)).replace(" ", ""))
def test_pools(case, opset, sizes):
    op, n, k, s, d, pads, up, padded = case
    x = RNG.standard_normal(n).astype(np.float32)
    count = f", count_include_pad = {padded}" if padded else ""
    how = f"kernel_shape = [{k}], strides = [{s}], dilations = [{d}], pads = {list(pads)}"
    dims = f"1, 1, {n}" if sizes == "static" else "a, b, c"
    node = f"{op}<{how}, ceil_mode = {up}{count}>(x)"
    model, windows = parse(f"float[{dims}] x", node, opset), list(pool(x, *case[:1], *case[2:]))
    for ograd in (False, True):  # onnxruntime folds the shape that seeds of ones have
        g = np.ones(len(windows)) if not ograd else RNG.standard_normal(len(windows))
        want = pool_gradient(x, g, op, windows)
        feeds = {"y_ograd": g.astype(np.float32)[None, None]} if ograd else {}
        if windows or sizes == "static":
            got = executed(og.gradient(model, ograd=ograd), {"x": x[None, None]} | feeds)
            for a, b in zip(got, want, strict=True):
                np.testing.assert_allclose(a.ravel(), b, rtol=1e-5, atol=1e-6)


TIES = RNG.integers(0, 3, (2, 2, 6, 7)).astype(np.float32)
PLANES = [
    (op, kernel, strides, pads, padded)
    for op in ("max", "avg")
    for kernel, strides, pads in (
        ((2, 3), (3, 2), (0, 0)),  # along the first axis a window is dropped
        ((2, 3), (3, 3), (0, 1)),  # ... and along the other the last one goes beyond the end
        ((3, 2), (2, 3), (1, 0)),
        ((3, 3), (4, 5), (1, 1)),
    )
    for padded in ((False, True) if op == "avg" else (False,))
]


@pytest.mark.parametrize("sizes", ["2, 2, 6, 7", "N, 2, 6, W"])
@pytest.mark.parametrize(("op", "kernel", "strides", "pads", "padded"), PLANES)
def test_windows_dropped_along_one_axis(op, kernel, strides, pads, padded, sizes):
    """Ties included; jvp and jacobian have the same shapes to fold."""
    how = f"kernel_shape = {list(kernel)}, strides = {list(strides)}, pads = {list(pads) * 2}"
    how += ", count_include_pad = 1" if padded else ""
    name = {"max": "MaxPool", "avg": "AveragePool"}[op]
    model = parse(f"float[{sizes}] x", f"{name}<{how}, ceil_mode = 1>(x)", 17)

    def f(x):
        more = {"count_include_pad": padded} if op == "avg" else {}
        return getattr(F, f"{op}_pool2d")(x, kernel, strides, pads, ceil_mode=True, **more)

    x, v = torch.tensor(TIES), torch.tensor(RNG.standard_normal(TIES.shape), dtype=torch.float32)
    leaf = x.clone().requires_grad_()
    y = f(leaf)
    g = RNG.standard_normal(y.shape).astype(np.float32)
    (want,) = torch.autograd.grad(y, leaf, torch.tensor(g))
    feeds = {"x": TIES}
    got = executed(og.gradient(model, ograd=True), feeds | {"y_ograd": g})
    np.testing.assert_allclose(got[0], y.detach().numpy(), rtol=1e-5)
    np.testing.assert_allclose(got[1], want.numpy(), rtol=1e-5, atol=1e-6)
    (got,) = executed(og.gradient(model, forward=False), feeds)
    (want,) = torch.autograd.grad(f(leaf).sum(), leaf)
    np.testing.assert_allclose(got, want.numpy(), rtol=1e-5, atol=1e-6)
    _, want = torch.autograd.functional.jvp(f, x, v)
    got = executed(og.jvp(model, forward=False), feeds | {"x_tangent": v.numpy()})[0]
    np.testing.assert_allclose(got, want.numpy(), rtol=1e-5, atol=1e-5)
    got = executed(og.jacobian(model, forward=False), feeds)[0]
    want = torch.autograd.functional.jacobian(f, x)
    np.testing.assert_allclose(got, want.numpy(), rtol=1e-5, atol=1e-6)


def test_a_pool_after_a_pool_and_under_vmap():
    """The size of the second follows from that of the first."""
    how = "ceil_mode = 1, kernel_shape = [2], strides = [3]"
    model = parse("float[2, 1, 24] x", f"MaxPool<{how}>(x) z = MaxPool<{how}>(y)")
    model.graph.output[0].name = "z"
    x = RNG.standard_normal((5, 2, 1, 24)).astype(np.float32)
    leaf = torch.tensor(x, requires_grad=True)
    y = F.max_pool1d(F.max_pool1d(leaf.reshape(10, 1, 24), 2, 3), 2, 3)
    y.sum().backward()
    y, want = y.detach().numpy().reshape(5, 2, 1, -1), leaf.grad.numpy()
    np.testing.assert_array_equal(executed(og.vmap(model), {"x": x})[0], y)
    built = og.gradient(model)
    found = executed(built, {"x": x[0]})
    np.testing.assert_array_equal(found[0], y[0])
    np.testing.assert_array_equal(found[1], want[0])
    np.testing.assert_array_equal(executed(og.vmap(built), {"x": x})[1], want)


@pytest.mark.parametrize("how", ["dilations = [2]", "strides = [5]"])
@pytest.mark.parametrize("op", ["MaxPool", "AveragePool", "LpPool"])
def test_padding_that_runtimes_disagree_on(op, how):
    node = f'{op}<kernel_shape = [3], auto_pad = "SAME_UPPER", {how}>(x)'
    with pytest.raises(og.NoRuleError, match="write it as pads"):
        og.gradient(parse("float[1, 1, 9] x", node))


TRANSPOSED = [
    (n, k, s, d, extra, auto, size)
    for n, k, s, d in ((2, 2, 2, 1), (4, 3, 1, 2), (4, 1, 3, 1), (3, 3, 2, 2))
    for auto in ("NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID")
    for extra, size in ((0, 1), (0, 2), (1, 1), (1, None))
    if extra < s
]


def transposed(x, w, b, case, out):
    """PyTorch's, the whole of it, of which the padding is cut off; None where it has no such."""
    _, k, s, d, extra, auto, size = case
    whole = F.conv_transpose1d(x, w, stride=s, dilation=d)
    whole = F.pad(whole, (0, extra))
    cut = whole.shape[2] - size if size else max(extra + (k - 1) * d + 1 - s, 0)
    if not size and not auto.startswith("SAME"):
        cut = 0
    least = max(cut, 0)
    begin = least // 2 if auto == "SAME_UPPER" else least - least // 2
    whole = F.pad(whole, (0, max(-cut, 0)))
    return whole[:, :, begin : begin + out] + b[:, None]


@pytest.mark.parametrize("sizes", ["static", "symbolic"])
@pytest.mark.parametrize("case", TRANSPOSED, ids=lambda c: "-".join(map(str, c)))
def test_transposed(case, sizes):
    n, k, s, d, extra, auto, size = case
    how = f'strides = [{s}], dilations = [{d}], auto_pad = "{auto}", output_padding = [{extra}]'
    node = f"ConvTranspose<{how}{f', output_shape = [{size}]' if size else ''}>(x, w, b)"
    named = "float[a, e, c] x, float[f, g, h] w, float[i] b"
    inputs = f"float[2, 3, {n}] x, float[3, 2, {k}] w, float[2] b"
    shapes = {"x": (2, 3, n), "w": (3, 2, k), "b": (2,)}
    feeds = {name: RNG.standard_normal(dims).astype(np.float32) for name, dims in shapes.items()}
    (y,) = executed(parse(named, node), feeds)
    leaves = [torch.tensor(a, requires_grad=True) for a in feeds.values()]
    want = transposed(*leaves, case, y.shape[2])
    np.testing.assert_allclose(want.detach().numpy(), y, rtol=1e-4, atol=1e-5)
    g, v = (RNG.standard_normal(a.shape).astype(np.float32) for a in (y, feeds["x"]))
    seed = torch.tensor(g, requires_grad=True)
    firsts = torch.autograd.grad((want * seed).sum(), leaves, create_graph=True)
    model = parse(inputs if sizes == "static" else named, node)
    ones = torch.autograd.grad(want.sum(), leaves, retain_graph=True)
    got = executed(og.gradient(model, list(feeds), forward=False), feeds)
    for a, b in zip(got, ones, strict=True):
        np.testing.assert_allclose(a, b.detach().numpy(), rtol=1e-4, atol=1e-4)
    first = og.gradient(model, list(feeds), ograd=True)
    feeds["y_ograd"] = g
    for a, b in zip(executed(first, feeds)[1:], firsts, strict=True):
        np.testing.assert_allclose(a, b.detach().numpy(), rtol=1e-4, atol=1e-4)
    second = og.gradient(first, ["w", "y_ograd"], of="x_grad", ograd=True, forward=False)
    seconds = torch.autograd.grad((firsts[0] * torch.tensor(v)).sum(), [leaves[1], seed])
    for a, b in zip(executed(second, feeds | {"x_grad_ograd": v}), seconds, strict=True):
        np.testing.assert_allclose(a, b.detach().numpy(), rtol=1e-4, atol=1e-4)


def test_an_output_smaller_than_an_input_known_in_part():
    node = "ConvTranspose<output_shape = [4, 5]>(x, w)"
    model = parse("float[N, 3, A, 6] x, float[3, 2, 3, 3] w", node)
    with pytest.raises(og.NoRuleError, match="output_shape below the input's size"):
        og.gradient(model)


def test_a_batch_of_an_input_whose_channels_are_unknown():
    """The windows of the adjoint are then taken of each channel by itself."""
    x, w, g = (
        RNG.standard_normal(s).astype(np.float32) for s in ((2, 2, 9), (2, 3, 3), (2, 3, 11))
    )
    model = parse("float[N, C, L] x, float[2, 3, 3] w", "ConvTranspose(x, w)")
    grad = og.gradient(model, "w", ograd=True, forward=False)
    (got,) = executed(grad, {"x": x, "w": w, "y_ograd": g})
    t = torch.tensor(w, requires_grad=True)
    F.conv_transpose1d(torch.tensor(x), t).backward(torch.tensor(g))
    np.testing.assert_allclose(got, t.grad.numpy(), rtol=1e-4, atol=1e-5)


def test_windows_of_no_channels():
    """The second gradient of large filters has the batch, here an empty one, for channels."""
    model = parse(
        "float[0, C, 66] x, float[5, 1, 65] w", "Conv<strides = [65], pads = [32, 32]>(x, w)"
    )
    grad = og.gradient(model, "w", ograd=True, forward=False)
    twice = og.gradient(grad, ["w", "y_ograd"], of="w_grad", ograd=True, unreachable="zeros")
    nodes = [n for n in twice.graph.node if n.op_type == "Conv"]
    groups = [a.i for n in nodes for a in n.attribute if a.name == "group"]
    assert 0 not in groups  # onnxruntime divides by it
    feeds = {
        "w": np.ones((5, 1, 65)),
        "x": np.zeros((0, 1, 66)),
        "y_ograd": np.zeros((0, 5, 2)),
        "w_grad_ograd": np.ones((5, 1, 65)),
    }
    feeds = {i.name: feeds[i.name].astype(np.float32) for i in twice.graph.input}
    assert executed(twice, feeds)[-1].shape == (0, 5, 2)
