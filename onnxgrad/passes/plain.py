"""Rewrites pools, transposed convolutions and ranges that inference gets wrong, in plainer form.

Below opset 22 the standard's inference counts a window of a pool that lies beyond the input. In a
ConvTranspose it counts padding of the output that is cut off again, and it gives up where an output
is smaller than its input. onnxruntime infers in the same way when it loads a file, and folds a
Shape to the wrong sizes. Other attributes say the same and are inferred right.
"""

from __future__ import annotations

import onnx_ir as ir

from onnxgrad.graph.corrections import plain
from onnxgrad.graph.facts import Dim, dims_of
from onnxgrad.graph.window_sizes import POOLS, drops_windows, windows_of


def make_plain(node: ir.Node) -> bool:
    """Rewrite a node as inference understands it; returns whether that changed it."""
    correction = plain.of(node)
    return correction is not None and correction(node)


@plain("Range")
def _plain_range(node: ir.Node) -> bool:
    """Make scalars of operands that are vectors of one element.

    A runtime does not load a Range with constant vectors; onnx's function body of AffineGrid has
    such.
    """
    assert node.graph is not None
    vectors = [(k, v) for k, v in enumerate(node.inputs) if v is not None and dims_of(v) == (1,)]
    for k, v in vectors:
        scalar = ir.node("Squeeze", [v], name=f"{node.name}_scalar{k}")
        out = scalar.outputs[0]
        out.name, out.type = f"{node.outputs[0].name}_scalar{k}", v.type
        node.graph.insert_before(node, scalar)
        node.replace_input_with(k, out)
    return bool(vectors)


@plain(*POOLS)
def _plain_pool(node: ir.Node) -> bool:
    """Round down, not up, along the axes where rounding up gives a window that is dropped again."""
    if not node.attributes.get_int("ceil_mode", False):
        return False
    if node.attributes.get_string("auto_pad", "NOTSET").startswith("SAME"):
        del node.attributes["ceil_mode"]  # auto_pad already fixes the number of windows
        return True
    x = node.inputs[0]
    sizes = None if x is None else dims_of(x)
    if x is None or sizes is None or not any(dropped := drops_windows(node, sizes)):
        return False
    up = any(_is_rounded(node, sizes, k) for k, drops in enumerate(dropped) if not drops)
    if up and len(node.outputs) > 1:
        return False  # pools over single axes would give other indices
    pads = list(node.attributes.get_ints("pads", []))
    for k, drops in enumerate(dropped):
        if drops and not _is_rounded(node, sizes, k):
            pads[len(dropped) + k] -= 1  # then the window of padding alone does not fit
    if pads:
        node.attributes["pads"] = ir.AttrInt64s("pads", pads)
    if up:
        _take_apart(node, x, dropped)
    else:
        del node.attributes["ceil_mode"]
    return True


def _is_rounded(node: ir.Node, sizes: tuple[Dim, ...], k: int) -> bool:
    """Whether the windows may not fit an axis exactly."""
    size, (stride, begin, end, reach) = sizes[k + 2], windows_of(node, sizes)[k]
    return not isinstance(size, int) or (size + begin + end - reach - 1) % stride != 0


def _take_apart(node: ir.Node, x: ir.Value, dropped: list[bool]) -> None:
    """Replace a pool by pools over one axis each, from the last to the first, which round alone.

    A maximum, a norm, and a mean that counts along each axis, can be taken axis by axis. In this
    order the first of elements that tie is taken as before.
    """
    n, whole = len(dropped), dict(node.attributes)
    assert node.graph is not None
    for k in reversed(range(n)):
        own = dict(whole)
        for name, nothing in (("kernel_shape", 1), ("strides", 1), ("dilations", 1), ("pads", 0)):
            if name in whole:
                values = enumerate(whole[name].as_ints())
                own[name] = ir.AttrInt64s(name, [v if a % n == k else nothing for a, v in values])
        own["ceil_mode"] = ir.AttrInt64("ceil_mode", not dropped[k])
        if k == 0:
            node.replace_input_with(0, x)
            node.attributes.update(own)
            return
        pool = ir.node(node.op_type, [x], name=f"{node.name}_axis{k + 2}")
        pool.attributes.update(own)
        x, kind = pool.outputs[0], node.outputs[0].type
        x.name, x.type = f"{node.outputs[0].name}_axis{k + 2}", kind
        node.graph.insert_before(node, pool)


@plain("ConvTranspose")
def _plain_conv_transpose(node: ir.Node) -> bool:
    """Write out the padding that the attributes imply, where inference gets it wrong."""
    x, w = node.inputs[:2]
    sizes, kernel = (None if v is None else dims_of(v) for v in (x, w))
    a = node.attributes
    given = [*a.get_ints("output_shape", [])]
    extra = [*a.get_ints("output_padding", [])]
    auto_pad = a.get_string("auto_pad", "NOTSET")
    if sizes is None or kernel is None or len(sizes) != len(kernel):
        return False
    n = len(kernel) - 2
    given, extra = given[-n:], extra or [0] * n
    smaller = any(isinstance(d, int) and o < d for o, d in zip(given, sizes[2:], strict=False))
    if not smaller and (given or not auto_pad.startswith("SAME") or not any(extra)):
        return False
    strides = a.get_ints("strides", [1] * n)
    dilations = a.get_ints("dilations", [1] * n)
    begins, ends = [], []
    for k in range(n):
        size, taps, stride = sizes[k + 2], kernel[k + 2], strides[k]
        if not isinstance(taps, int) or (given and not isinstance(size, int)):
            return False
        reach = (taps - 1) * dilations[k]
        total = extra[k] + reach + 1 - stride
        if given:
            total += stride * size - given[k]  # type: ignore[operator]
            extra[k] += max(-total, 0)
        total = max(total, 0)
        begins.append(total // 2 if auto_pad == "SAME_UPPER" else total - total // 2)
        ends.append(total - begins[-1])
    for name in ("auto_pad", "output_shape"):
        a.pop(name, None)
    a["pads"], a["output_padding"] = (
        ir.AttrInt64s(name, v) for name, v in (("pads", begins + ends), ("output_padding", extra))
    )
    return True
