"""Operators outside the standard's default domain, against onnxruntime's own kernels."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

import onnxgrad as og
from onnxgrad.declare.expansions import expandable, expansion
from tests.oracle import close, directional, inner, runner

ML, MS = "ai.onnx.ml", "com.microsoft"
MODELS = Path(__file__).parents[2] / "models"
RNG = np.random.default_rng(7)


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def ints(*rows: Any) -> np.ndarray:
    return np.array(rows, np.int32)


@dataclass
class Case:
    domain: str
    op: str
    inputs: list[np.ndarray | None]
    attributes: dict[str, Any] = field(default_factory=dict)
    outputs: int = 1
    of: int = 0
    symbolic: bool = True  # the axes of activations are known at run time only
    note: str = ""
    wrt: list[str] | None = None  # None for all floating-point operands
    same: str = ""  # nodes that compute out0, where onnxruntime has no kernel for the CPU

    def __str__(self) -> str:
        attributes = ",".join(f"{k}={v}" for k, v in self.attributes.items())
        return f"{self.op}-{attributes}{self.note}".replace(" ", "")[:70]


def ml(
    op: str, *inputs: np.ndarray | None, outputs: int = 1, of: int = 0, **attributes: Any
) -> Case:
    return Case(ML, op, list(inputs), attributes, outputs, of)


def ms(
    op: str, *inputs: np.ndarray | None, outputs: int = 1, of: int = 0, note: str = "",
    same: str = "", **attributes: Any,
) -> Case:  # fmt: skip
    return Case(MS, op, list(inputs), attributes, outputs, of, note=note, same=same)


def gqa(
    batch: int = 1, new: int = 3, past: int = 0, width: int = 16, packed: bool = False,
    last: list[int] | None = None, length: int = 0, bias: bool = False, sink: bool = False,
    places: list[list[int]] | None = None, of: int = 0, note: str = "",
    **attributes: Any,
) -> Case:  # fmt: skip
    """GroupQueryAttention of four heads on two; its cache of `length` holds `past` keys."""
    total = past + new
    cache = [normal(batch, 2, length or past, width) for _ in "kv"] if past else [None, None]
    rows = [normal(batch, new, n * width) for n in ((8,) if packed else (4, 2, 2))]
    angles = np.outer(np.arange(9), np.arange(1, 9)).astype(np.float32) / 4
    turn = [np.cos(angles), np.sin(angles)] if "do_rotary" in attributes else [None, None]
    operands = [
        *rows, *[None] * (3 - len(rows)), *cache, ints(*(last or [total - 1] * batch)),
        np.array(total, np.int32), *turn, None if places is None else np.array(places),
        normal(1, 4, new, total) if bias else None, normal(4) if sink else None,
    ]  # fmt: skip
    attributes |= {"num_heads": 4, "kv_num_heads": 2}
    note += f"-{batch}-{new}-{past}-{length}-{of}{packed}{last}{bias}{places}"
    return Case(MS, "GroupQueryAttention", operands, attributes, 3, of, note=note)


MATRIX = normal(4, 3)
MATRIX += 0.1 * np.sign(MATRIX)  # away from the kinks at 0
WITH_GAPS = np.array([[1, np.nan, 2], [0.5, -1, np.nan]], np.float32)
WITH_ZEROS = np.array([[1, -2, 3], [0, 0, 0], [-1, -2, -0.5]], np.float32)
THREE = {
    "coefficients": [1.0, 2.0, 3.0, -1.0, 0.5, 0.2, 0.4, 0.3, -0.2],
    "intercepts": [0.1, 0.2, 0.3],
}
SVM = {
    "coefficients": [1.0, -2.0],
    "kernel_params": [0.3, 0.2, 2.0],
    "n_supports": 2,
    "support_vectors": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6],
    "rho": [0.2],
}
TWO_CLASSES = {
    "classlabels_ints": [4, 7],
    "coefficients": [1.0, 0.5, -2.0],
    "kernel_params": [0.3, 0.2, 2.0],
    "kernel_type": "RBF",
    "rho": [0.2],
    "support_vectors": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, -0.3, -0.7, 1.0],
    "vectors_per_class": [2, 1],
}
THREE_CLASSES = TWO_CLASSES | {
    "classlabels_ints": [4, 7, 9],
    "coefficients": [1.0, 0.5, -2.0, 0.7, -0.4, 1.5, 0.8, -1.0],
    "kernel_type": "SIGMOID",
    "rho": [0.2, -0.1, 0.3],
    "support_vectors": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, -0.3, -0.7, 1.0, 0.9, -0.2, 0.4],
    "vectors_per_class": [1, 2, 1],
}
ANGLES = [f(np.outer(np.arange(9), np.arange(1, 9)) / 4).astype("f") for f in (np.cos, np.sin)]
TO_FIRST = "x = Transpose<perm = [0, 3, 1, 2]>"
TO_LAST = "out0 = Transpose<perm = [0, 2, 3, 1]>"
BYTES = {
    shape: np.random.default_rng(1).integers(0, 256, shape).astype(np.uint8)
    for shape in ((6, 2, 8), (6, 1), (6, 3, 8), (6, 2), (6, 3, 16), (6, 3), (6, 3, 4))
}
HIDDEN = [normal(2, 3, 8), normal(8, 24) * np.float32(0.3), normal(24)]
QKV = [normal(2, 3, 8), normal(2, 4, 8), normal(2, 4, 8)]
TABLES = [normal(5, 2), normal(5, 2)]

CASES = [
    ml("Scaler", MATRIX, offset=[0.5, 0.1, 0.2], scale=[2.0, 3.0, 4.0]),
    ml("Scaler", MATRIX.astype(np.float64), offset=[0.5], scale=[2.0]),
    ml("Imputer", WITH_GAPS, imputed_value_floats=[5.0, 6.0, 7.0], replaced_value_float=np.nan),
    ml("Imputer", MATRIX, imputed_value_floats=[5.0], replaced_value_float=9.0),
    ml("ArrayFeatureExtractor", MATRIX, np.array([[2, 0, 2]])),
    ml("FeatureVectorizer", MATRIX, MATRIX + 1, inputdimensions=[3, 3]),
    ml("FeatureVectorizer", MATRIX, MATRIX + 1, inputdimensions=[2, 4]),
    *(ml("Normalizer", MATRIX, norm=norm) for norm in ("MAX", "L1", "L2")),
    *(
        ml("LinearRegressor", MATRIX, targets=3, post_transform=t, **THREE)
        for t in ("NONE", "LOGISTIC", "SOFTMAX")
    ),
    *(
        ml("LinearClassifier", MATRIX, outputs=2, of=1, classlabels_ints=[0, 1, 2],
           post_transform=t, **THREE)
        for t in ("NONE", "LOGISTIC", "SOFTMAX")
    ),
    *(
        ml("LinearClassifier", MATRIX, outputs=2, of=1, classlabels_ints=[0, 1],
           coefficients=[1.0, 2.0, 3.0], intercepts=[0.1], post_transform=t)
        for t in ("NONE", "LOGISTIC")
    ),
    *(
        ml("SVMRegressor", np.abs(MATRIX), kernel_type=kind, **SVM)
        for kind in ("LINEAR", "RBF", "POLY", "SIGMOID")
    ),
    *(
        ml("SVMClassifier", MATRIX, outputs=2, of=1, post_transform=t, **classes)
        for t in ("NONE", "LOGISTIC", "SOFTMAX")
        for classes in (TWO_CLASSES, THREE_CLASSES)
    ),
    *(
        ml("SVMClassifier", MATRIX, outputs=2, of=1, classlabels_strings=list("abcd"[:n]),
           coefficients=np.arange(3.0 * n).tolist(), kernel_params=[0.0] * 3, rho=[0.2],
           kernel_type="LINEAR", post_transform=t)
        for n, t in ((2, "NONE"), (4, "SOFTMAX"))
    ),
    ml("SVMClassifier", MATRIX, outputs=2, of=1, **TWO_CLASSES, prob_a=[-1.5], prob_b=[0.2]),
    ml("SVMClassifier", MATRIX, outputs=2, of=1, **THREE_CLASSES, prob_a=[-1.5, -2.0, -0.7],
       prob_b=[0.2, 0.1, 0.3]),
    ml("SVMRegressor", MATRIX, coefficients=[1.0, -2.0, 0.3], rho=[0.2], kernel_params=[0.0] * 3),
    ms("Gelu", MATRIX),
    ms("BiasGelu", MATRIX, normal(3)),
    ms("FastGelu", MATRIX),
    ms("FastGelu", MATRIX, normal(3), note="bias"),
    ms("QuickGelu", MATRIX),
    ms("QuickGelu", MATRIX, alpha=1.0),
    *(
        ms("FusedGemm", MATRIX, normal(4, 3), normal(4), transB=1, alpha=0.5, activation=a, **extra)
        for a, extra in (("Relu", {}), ("Tanh", {}), ("LeakyRelu", {"activation_alpha": 0.1}))
    ),
    ms("Trilu", normal(3, 4), np.array(1)),
    ms("Trilu", normal(2, 3, 4), upper=0),
    *(
        ms("GridSample", normal(1, 2, 4, 4), np.tanh(normal(1, 3, 3, 2)), mode=m)
        for m in ("bilinear", "bicubic")
    ),
    ms("DequantizeLinear", *(np.array(a, t) for a, t in (([3, -4], "i1"), (0.3, "f"), (1, "i1")))),
    ms("FusedMatMul", normal(2, 3, 4), normal(2, 5, 4), transB=1, alpha=0.3),
    ms("FusedMatMul", normal(2, 4, 3), normal(4, 5), transA=1),
    *(
        ms("FusedConv", normal(1, 2, 5, 5), normal(3, 2, 3, 3), normal(3), activation=a, **extra)
        for a, extra in (
            ("Relu", {}),
            ("LeakyRelu", {"activation_params": [0.1]}),
            ("HardSigmoid", {"activation_params": [0.05, 0.5]}),
            ("Clip", {"activation_params": [-0.5, 0.5]}),
        )
    ),
    ms("FusedConv", normal(1, 2, 5, 5), normal(3, 2, 3, 3), normal(3), normal(1, 3, 3, 3),
       activation="Tanh", kernel_shape=[3, 3], note="sum"),
    ms("SkipLayerNormalization", normal(2, 3, 4), normal(2, 3, 4), normal(4), normal(4), normal(4)),
    ms("SkipLayerNormalization", normal(2, 3, 4), normal(2, 3, 4), normal(4), outputs=4, of=3),
    ms("SkipSimplifiedLayerNormalization", normal(2, 3, 4), normal(2, 3, 4), normal(4)),
    Case("", "SimplifiedLayerNormalization", [normal(2, 3, 4), normal(4)], {"epsilon": 1e-3}),
    Case(MS, "EmbedLayerNormalization",
         [ints([0, 2, 1], [3, 0, 2]), ints([0, 1, 1], [1, 0, 0]), normal(5, 4), normal(6, 4),
          normal(2, 4), normal(4), normal(4)], outputs=2, symbolic=False),
    ms("Attention", *HIDDEN, num_heads=2),
    ms("Attention", *HIDDEN, num_heads=2, unidirectional=1),
    ms("Attention", *HIDDEN, num_heads=2, scale=0.7),
    ms("Attention", *HIDDEN, ints([1, 1, 0], [1, 1, 1]), num_heads=2, note="mask"),
    ms("Attention", *HIDDEN, ints([[1, 0, 0], [1, 1, 0], [1, 1, 1]], [[1, 1, 1]] * 3), num_heads=2,
       note="masks"),
    Case(MS, "Attention", [*HIDDEN, ints(2, 3)], {"num_heads": 2}, symbolic=False, note="lengths"),
    ms("Attention", *HIDDEN, None, normal(2, 2, 2, 2, 4), num_heads=2, outputs=2, note="past"),
    ms("MultiHeadAttention", *QKV, num_heads=2),
    ms("MultiHeadAttention", QKV[0], QKV[0] + 1, QKV[0] - 1, normal(24), num_heads=2,
       unidirectional=1),
    ms("MultiHeadAttention", *QKV, None, ints([1, 1, 1, 0], [1, 1, 0, 0]), normal(2, 2, 3, 4),
       num_heads=2, scale=0.4),
    *(
        ms("MultiHeadAttention", normal(2, 3, 8), normal(2, 2, 4, 4), normal(2, 2, 4, 4), bias,
           num_heads=2, note=note)
        for bias, note in ((None, "heads"), (normal(24), "heads,bias"))
    ),
    ms("MultiHeadAttention", normal(2, 1, 8), normal(2, 1, 8), normal(2, 1, 8), None, None, None,
       normal(2, 2, 4, 4), normal(2, 2, 4, 4), num_heads=2, outputs=3, note="past"),
    *(
        ms("RotaryEmbedding", x, np.array(places), *TABLES, interleaved=interleaved,
           note=f"{x.ndim}d")
        for interleaved in (0, 1)
        for x, places in ((normal(2, 3, 8), [[0, 1, 2], [2, 1, 0]]), (normal(2, 2, 3, 4), [1]))
    ),
    ms("RotaryEmbedding", normal(2, 3, 16), np.array([[0, 1, 2], [2, 1, 0]]), *TABLES,
       num_heads=2, rotary_embedding_dim=4, note="part"),
    gqa(),
    gqa(batch=2, new=4, scale=0.2, softcap=2.0),
    gqa(packed=True, past=2, do_rotary=1),
    gqa(past=2, of=1),
    gqa(past=2, of=2, do_rotary=1, rotary_interleaved=1),
    gqa(batch=2, new=1, past=4, last=[4, 2]),
    gqa(batch=2, last=[2, 1]),
    gqa(new=2, past=2, length=6, do_rotary=1),
    gqa(past=3, local_window_size=2),
    gqa(new=5, local_window_size=2, smooth_softmax=1),
    gqa(past=2, bias=True, sink=True),
    gqa(past=2, places=[[5, 6, 7]], do_rotary=1),
    gqa(past=2, causal=0),
    gqa(past=2, width=32, do_rotary=1, note="part"),
    ms("FusedMatMul", normal(5, 2, 3, 4), normal(2, 3, 5, 6), transA=1, transBatchA=1),
    ms("FusedMatMul", normal(2, 3, 4, 5), normal(6, 2, 3, 5), transB=1, transBatchB=1, alpha=0.5),
    *(
        ms("MatMulNBits", normal(2, 3, K), BYTES[6, blocks, 2 * bits], normal(6, blocks), zeros,
           None, bias, bits=bits, K=K, N=6, block_size=16, note=note)
        for K, blocks, bits, zeros, bias, note in (
            (32, 2, 4, None, None, ""),
            (32, 2, 4, BYTES[6, 1], normal(6), "bias"),
            (40, 3, 4, BYTES[6, 2], None, "odd"),
            (40, 3, 4, normal(6, 3), None, "float"),
            (40, 3, 8, BYTES[6, 3], None, ""),
            (40, 3, 2, BYTES[6, 1], None, ""),
        )
    ),
    *(
        ms("MatMulBnb4", normal(2, 20), BYTES[6, 3, 8].ravel()[:30], normal(4), K=20, N=3,
           block_size=16, quant_type=kind)
        for kind in (0, 1)
    ),
    ms("MatMulIntegerToFloat", np.array([[7, 2]], "u1"), np.array([[4, 1], [9, 0]], "u1"),
       np.array(0.1, "f"), np.array([0.2, 0.3], "f"), np.array(3, "u1"), np.array([1, 2], "u1"),
       normal(2)),
    ms("MatMulIntegerToFloat", np.array([[7, 2]], "u1"), np.array([[-4], [9]], "i1"),
       np.array(0.1, "f"), np.array(0.2, "f")),
    Case(MS, "DynamicQuantizeMatMul", [MATRIX, np.array([[4, 1], [9, 0], [3, 3]], "u1"),
         np.array([0.2, 0.3], "f"), np.array([1, 2], "u1"), normal(2)], wrt=["x2", "x4"]),
    ms("CDist", normal(3, 4), normal(2, 4), metric="euclidean"),
    ms("CDist", normal(3, 4), normal(2, 4), metric="sqeuclidean"),
    ms("UnfoldTensor", normal(2, 5, 4), dim=1, size=2, step=2),
    ms("UnfoldTensor", normal(2, 5, 4), size=3),
    ms("GatherND", normal(2, 3, 4), ints([0, 1], [1, 0])),
    ms("Pad", normal(2, 3), np.array([[0, 1, 2, 1]]), normal(1)),
    ms("Pad", normal(2, 3), np.array([0, 1, 1, 1]), mode="reflect"),
    ms("Unique", np.array([2, -1, 3], "f"), outputs=3),
    ms("Range", *(np.array(a, "f") for a in (1, 3.3, 0.5))),
    ms("Range", *(np.array([a], "f") for a in (1, 3.3))),
    ms("ScaledSiLU", MATRIX, alpha=1.5),
    ms("ScaledSiLU", MATRIX, np.array(0.7, "f")),
    ms("GatedAdd", normal(2, 3), normal(2, 3), normal(2, 1)),
    ms("GatedRMSNorm", normal(2, 3, 8), normal(4), normal(2, 3, 8), epsilon=1e-3),
    ms("GatedRMSNorm", normal(2, 3, 8), normal(8), normal(2, 3, 8), activation="sigmoid"),
    *(
        ms("BranchwiseRMSNorm", normal(2, 3, 4, 8), normal(*shape), epsilon=1e-3)
        for shape in ((8,), (4, 8), (32,))
    ),
    ms("BranchwiseRMSNorm", normal(2, 3, 32), normal(32), num_branches=4),
    ms("BranchwiseRMSNorm", normal(2, 3, 32), num_branches=4, note="bare"),
    *(
        ms("LinearAttentionGate", normal(2, 3, 4), normal(4), normal(4), normal(2, 3, 4),
           outputs=2, of=of)
        for of in (0, 1)
    ),
    *(
        ms("MRotaryEmbedding", x, RNG.integers(0, 9, (3, 2, 3)), *ANGLES, mrope_section=section,
           mrope_layout=layout, interleaved=interleaved, **heads)
        for x, section, layout, interleaved, heads in (
            (normal(2, 3, 32), [3, 3, 2], 0, 0, {"num_heads": 2}),
            (normal(2, 2, 3, 16), [4, 2, 2], 1, 1, {}),
            (normal(2, 3, 40), [4, 2, 2], 1, 0, {"num_heads": 2, "rotary_embedding_dim": 16}),
        )
    ),
    ms("GroupNorm", normal(2, 3, 2, 4), normal(4), normal(4), groups=2, activation=0,
       same=f"{TO_FIRST}(x0) n = GroupNormalization<num_groups = 2>(x, x1, x2) {TO_LAST}(n)"),
    ms("GroupNorm", normal(2, 4, 3), normal(4), normal(4), groups=2, activation=1, channels_last=0,
       epsilon=1e-3, same="n = GroupNormalization<num_groups = 2, epsilon = 0.001>(x0, x1, x2) "
       "s = Sigmoid(n) out0 = Mul(n, s)"),
    ms("SkipGroupNorm", normal(2, 3, 2, 4), normal(4), normal(4), normal(2, 3, 2, 4), normal(4),
       groups=4, activation=0, same=f"a = Add(x0, x3) b = Add(a, x4) {TO_FIRST}(b) "
       f"n = GroupNormalization<num_groups = 4>(x, x1, x2) {TO_LAST}(n)"),
    ms("SkipGroupNorm", normal(2, 3, 2, 4), normal(4), normal(4), normal(2, 4), groups=1,
       activation=0, note="row", same="k = Constant<value_ints = [2, 1, 1, 4]>() "
       f"r = Reshape(x3, k) a = Add(x0, r) {TO_FIRST}(a) "
       f"n = GroupNormalization<num_groups = 1>(x, x1, x2) {TO_LAST}(n)"),
    ms("NhwcFusedConv", normal(1, 5, 5, 2), normal(3, 2, 3, 3), normal(3), activation="Tanh",
       strides=[2, 2], same=f'{TO_FIRST}(x0) c = com.microsoft.FusedConv<activation = "Tanh", '
       f"strides = [2, 2]>(x, x1, x2) {TO_LAST}(c)"),
    ms("NhwcFusedConv", normal(1, 5, 5, 2), normal(4, 1, 3, 3), None, normal(1, 5, 5, 4), group=2,
       pads=[1] * 4, same=f"{TO_FIRST}(x0) c = Conv<group = 2, pads = [1, 1, 1, 1]>(x, x1) "
       "l = Transpose<perm = [0, 2, 3, 1]>(c) out0 = Add(l, x3)"),
    ms("BiasSplitGelu", normal(2, 3, 8), normal(8), same="a = Add(x0, x1) "
       "l, r = Split<axis = 2, num_outputs = 2>(a) g = Gelu(r) out0 = Mul(l, g)"),
    ms("BiasAdd", normal(2, 3, 4), normal(4), normal(2, 3, 4), same="a = Add(x0, x1) "
       "out0 = Add(a, x2)"),
]  # fmt: skip


def net(case: Case, same: bool = False) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """The operator, or the same of others, and one of the standard's; weights of known shape."""
    names = ["" if a is None else f"x{k}" for k, a in enumerate(case.inputs)]
    feeds = {n: a for n, a in zip(names, case.inputs, strict=True) if a is not None}
    infos = []
    for name, a in feeds.items():
        shape: list[Any] = list(a.shape)
        if case.symbolic and a.ndim in (3, 4):  # batch and length
            shape = (
                [f"{name}_0", *shape[1:]] if a.ndim == 4 else [f"{name}_0", f"{name}_1", shape[2]]
            )
        infos.append(
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(a.dtype), shape)
        )
    outs = [f"out{k}" for k in range(case.outputs)]
    node = helper.make_node(case.op, names, outs, "node", domain=case.domain, **case.attributes)
    nodes = list(onnx.parser.parse_graph(f"g () => () {{ {case.same} }}").node) if same else [node]
    nodes.append(helper.make_node("Tanh", [outs[case.of]], ["y"]))
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "net", infos, [y])
    opsets = [helper.make_opsetid("", 21)]
    if case.domain:
        opsets.append(helper.make_opsetid(case.domain, 3 if case.domain == ML else 1))
    return helper.make_model(graph, opset_imports=opsets, ir_version=10), feeds


@pytest.mark.parametrize("target", ["portable", "cpu"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_values_and_gradients(case: Case, target: str) -> None:
    """Of the expansion, and where the operator itself may stay in the forward pass."""
    model, feeds = net(case)
    floats = case.wrt or [n for n, a in feeds.items() if a.dtype.kind == "f"]
    full = og.gradient(model, floats, ograd=True, unreachable="zeros", target=target)
    onnx.checker.check_model(full, full_check=True)
    domains = {n.domain for n in full.graph.node}
    assert domains == {""} if target == "portable" else domains <= {"", case.domain}
    run = runner(net(case, same=bool(case.same))[0])
    (want,) = run(feeds)
    rng = np.random.default_rng(0)
    seed = rng.standard_normal(want.shape).astype(np.float32)
    names = [o.name for o in full.graph.output]
    found = dict(zip(names, runner(full)(feeds | {"y_ograd": seed}), strict=True))
    np.testing.assert_allclose(found["y"], want, rtol=1e-4, atol=1e-5)
    table = json.loads({p.key: p.value for p in full.metadata_props}["onnxgrad.gradients"])
    directions = [rng.standard_normal(feeds[n].shape).astype(feeds[n].dtype) for n in floats]
    analytic = inner([found[table[n]] for n in floats], directions)
    (slope,) = directional(run, feeds, floats, directions, 2e-3)
    assert close(analytic, inner([seed], [slope]), 1e-2)


def test_every_expansion_has_a_case() -> None:
    # Of old, or of zero derivative.
    unseen = {(MS, op) for op in ("TransposeMatMul", "QuantizeLinear")}
    unseen |= {(MS, "ExpandDims"), (MS, "NhwcConv")}  # below
    unseen |= {(MS, op) for op, *_ in QUANTIZED}
    sequences = {("", op) for _, op in expandable() if "Sequence" in op or "Optional" in op}
    # No runtime executes these: tests/transforms/test_lower.py has cases for each.
    training = {("ai.onnx.preview.training", op) for op in ("Adagrad", "Adam", "Gradient")}
    training.add(("ai.onnx.preview.training", "Momentum"))
    known = unseen | sequences | training
    assert {(c.domain, c.op) for c in CASES} | known == set(expandable())


@pytest.mark.parametrize("name", ["cnn", "digits", "mlp", "transformer_block"])
def test_what_the_optimizer_wrote_has_the_same_gradient(name: str, tmp_path: Path) -> None:
    path = MODELS / f"{name}.onnx"
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 4
    onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    optimized = onnx.load(options.optimized_model_filepath)
    assert MS in {n.domain for n in optimized.graph.node}
    (port,) = optimized.graph.input
    x = normal(*(d.dim_value or 2 for d in port.type.tensor_type.shape.dim))
    found = [
        runner(og.gradient(model, forward=False))({port.name: x})[0]
        for model in (optimized, onnx.load(path))
    ]
    np.testing.assert_allclose(*found, rtol=1e-3, atol=1e-4)


def scaled(number: float, zero: Any) -> list[np.ndarray]:
    return [np.array(number, np.float32), np.array(zero, np.uint8)]


IMAGE = RNG.integers(0, 256, (2, 3, 6, 6)).astype(np.uint8)
FILTERS = RNG.integers(0, 256, (4, 3, 3, 3)).astype(np.uint8)
A, B = scaled(0.02, 120), scaled(0.03, 131)
EACH = [np.array([0.01, 0.02, 0.03, 0.04], np.float32), np.array([9, 120, 99, 131], np.uint8)]
QUANTIZED: list[tuple[str, list[Any], dict[str, Any]]] = [
    ("QLinearAdd", [IMAGE, *A, IMAGE[:1], *B, *A], {}),
    ("QLinearMul", [IMAGE, *A, IMAGE[:1], *B, *B], {}),
    ("QLinearWhere", [IMAGE > 99, IMAGE, *A, IMAGE, *B, *A], {}),
    ("QLinearConcat", [*A, IMAGE, *A, IMAGE, *B], {"axis": 1}),
    ("QLinearSigmoid", [IMAGE, *A, *scaled(1 / 256, 0)], {}),
    ("QLinearLeakyRelu", [IMAGE, *A, *B], {"alpha": 0.2}),
    ("QLinearSoftmax", [IMAGE, *B, *scaled(1 / 256, 0)], {"opset": 13, "axis": 1}),
    ("QLinearSoftmax", [IMAGE, *B, *scaled(1 / 256, 0)], {"opset": 12, "axis": 2}),
    ("QLinearGlobalAveragePool", [IMAGE, *A, *A], {}),
    ("QLinearGlobalAveragePool", [IMAGE, *A, *A], {"channels_last": 1}),
    ("QLinearAveragePool", [IMAGE, *A, *A], {"kernel_shape": [2, 2], "pads": [1, 0, 1, 0]}),
    ("QLinearAveragePool", [IMAGE, *A, *A], {"kernel_shape": [2, 2], "channels_last": 1}),
    ("QLinearConv", [IMAGE, *A, FILTERS, *B, *scaled(0.3, 128)], {"pads": [1] * 4}),
    ("QLinearConv", [IMAGE.transpose(0, 2, 3, 1), *A, FILTERS, *B, *scaled(0.3, 128)],
     {"channels_last": 1, "strides": [2, 2]}),
    ("QLinearConv", [IMAGE, *A, FILTERS, *EACH, *scaled(0.3, 128), ints(50, -900, 2000, 0)], {}),
    ("QGemm", [IMAGE[0, 0], *A, FILTERS[0, :, 0].T.repeat(2, 0), *B, None, *scaled(0.3, 128)], {}),
    ("QGemm", [IMAGE[0, 0], *A, FILTERS[:, 0].reshape(4, 9)[:, :6], *EACH,
               ints(50, -900, 2000, 0)], {"transB": 1, "alpha": 0.5}),
]  # fmt: skip


@pytest.mark.parametrize("target", ["portable", "cpu"])
@pytest.mark.parametrize("op, operands, attributes", QUANTIZED)
def test_quantized(op: str, operands: list[Any], attributes: dict[str, Any], target: str) -> None:
    """The kernel's values within one step; no derivative but that of what follows."""
    arrays = {f"x{k}": a for k, a in enumerate(operands) if a is not None}
    names = [f"x{k}" if f"x{k}" in arrays else "" for k in range(len(operands))]
    nodes = [
        helper.make_node(op, names, ["q"], "node", domain=MS, **attributes),
        helper.make_node("Cast", ["q"], ["c"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["c", "v"], ["y"]),
    ]
    given = {"x0" if op != "QLinearConcat" else "x2": TensorProto.UINT8, "v": TensorProto.FLOAT}
    if op == "QLinearWhere":
        given["x0"] = TensorProto.BOOL
    feeds = {"v": np.array(0.7, np.float32)} | {n: arrays.pop(n) for n in given if n != "v"}
    infos = [helper.make_tensor_value_info(n, t, feeds[n].shape) for n, t in given.items()]
    weights = [onnx.numpy_helper.from_array(a, n) for n, a in arrays.items()]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    graph = helper.make_graph(nodes, "net", infos, outputs, weights)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid(MS, 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    full = og.gradient(model, og.ALL, target=target)
    onnx.checker.check_model(full, full_check=True)
    domains = {n.domain for n in full.graph.node}
    assert domains == {""} if target == "portable" else domains <= {"", MS}
    (want,) = runner(model)(feeds)
    found = dict(zip([o.name for o in full.graph.output], runner(full)(feeds), strict=True))
    step = 0.7 if np.allclose(want / 0.7, np.round(want / 0.7), atol=1e-3) else 0
    np.testing.assert_allclose(found["y"], want, rtol=1e-5, atol=1.001 * step)
    np.testing.assert_allclose(found["v_grad"], found["y"].sum() / 0.7, rtol=1e-5)


def test_an_inverse_stays_and_has_a_gradient() -> None:
    text = """<ir_version: 10, opset_import: ["" : 21, "com.microsoft" : 1]>
    net (float[N, 3, 3] x) => (float[N, 3, 3] y) { h = com.microsoft.Inverse(x) y = Sin(h) }"""
    model = onnx.parser.parse_model(text)
    first = og.gradient(model, forward=False)
    second = og.gradient(first, forward=False)
    x = np.eye(3, dtype=np.float32) * 2 + normal(2, 3, 3) * np.float32(0.3)
    along = normal(2, 3, 3)
    for of, gradient in ((model, first), (first, second)):
        got = inner(runner(gradient)({"x": x}), [along])
        (slope,) = directional(runner(of), {"x": x}, ["x"], [along], 2e-3)
        assert close(got, float(slope.sum()), 1e-2)


def test_channels_last_as_a_tool_of_onnxruntime_writes_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It makes Conv a NhwcConv between Transposes, with turned weights; only CUDA runs that."""
    monkeypatch.syspath_prepend(str(Path(onnxruntime.__file__).parent / "transformers"))
    fusion = pytest.importorskip("fusion_nhwc_conv", exc_type=ImportError)
    w = onnx.numpy_helper.from_array(normal(4, 1, 3, 3), "w")
    conv = helper.make_node("Conv", ["x", "w", "b"], ["y"], "c", group=2, pads=[1] * 4)
    ports = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("x", ["N", 2, 5, 5]), ("b", [4]), ("y", ["N", 4, 5, 5]))
    ]
    graph = helper.make_graph([conv], "net", ports[:2], ports[2:], [w])
    plain = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    optimized = onnx.ModelProto()
    optimized.CopyFrom(plain)
    wrapper = fusion.OnnxModel(optimized)
    fusion.FusionNhwcConv(wrapper, update_weight=True).apply()
    assert "NhwcConv" in {n.op_type for n in optimized.graph.node}
    feeds = {"x": normal(2, 2, 5, 5), "b": normal(4), "y_ograd": normal(2, 4, 5, 5)}
    found, want = (runner(og.vjp(model))(feeds) for model in (optimized, plain))
    for a, b in zip(found, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_zero_rows_of_a_normalizer() -> None:
    for norm in ("MAX", "L1", "L2"):
        model, _ = net(ml("Normalizer", WITH_ZEROS, norm=norm))
        full = og.gradient(model)
        assert all(np.isfinite(a).all() for a in runner(full)({"x0": WITH_ZEROS}))


def test_what_cannot_be_expanded_is_refused_with_the_reason() -> None:
    model, _ = net(ml("LinearRegressor", MATRIX, targets=3, post_transform="PROBIT", **THREE))
    with pytest.raises(og.NoRuleError, match="post_transform PROBIT"):
        og.gradient(model)
    model, _ = net(ms("Gelu", MATRIX, unknown=1))
    with pytest.raises(og.NoRuleError, match="attribute 'unknown' is not known"):
        og.gradient(model)


def test_a_layout_of_one_machine_is_refused_with_advice() -> None:
    text = """<ir_version: 10, opset_import: ["" : 21, "com.microsoft.nchwc" : 1]>
    net (float[1, 8, 4, 4] x, float[8, 8, 1, 1] w) => (float[1, 8, 4, 4] y) {
        y = com.microsoft.nchwc.Conv(x, w)
    }"""
    for wrt in ("x", "w"):
        with pytest.raises(og.NoRuleError, match="ORT_ENABLE_EXTENDED"):
            og.gradient(onnx.parser.parse_model(text), wrt)


def test_labels_stay_with_the_operator() -> None:
    text = """<ir_version: 8, opset_import: ["" : 18, "ai.onnx.ml" : 3]>
    net (float[N, 2] x) => (int64[N] label, float[N, 2] score) {
        label, score = ai.onnx.ml.LinearClassifier<coefficients = [1.0, 2.0, 3.0, -1.0],
            intercepts = [0.5, -0.5], classlabels_ints = [7, 9]>(x)
    }"""
    model = onnx.parser.parse_model(text)
    x = np.array([[1, 2], [-3, 1]], np.float32)
    label, score, x_grad = runner(og.gradient(model))({"x": x})
    want = runner(model)({"x": x})
    np.testing.assert_array_equal(label, want[0])
    np.testing.assert_allclose(score, want[1], rtol=1e-6)
    np.testing.assert_allclose(x_grad, [[4, 1], [4, 1]])


def test_within_branches_and_by_name() -> None:
    text = """<ir_version: 10, opset_import: ["" : 21, "com.microsoft" : 1]>
    net (bool c, float[N] x) => (float[N] y) {
        y = If(c) <
            then_branch = t () => (float[N] a) { h = com.microsoft.QuickGelu(x) a = Neg(h) },
            else_branch = f () => (float[N] b) { b = com.microsoft.Gelu(x) }
        >
    }"""
    model = onnx.parser.parse_model(text)
    full = og.gradient(model)
    for c in (True, False):
        feeds = {"c": np.array(c), "x": np.array([0.5, -1], np.float32)}
        step = np.float32(1e-3)
        (up,), (down,) = (runner(model)(feeds | {"x": feeds["x"] + s}) for s in (step, -step))
        np.testing.assert_allclose(runner(full)(feeds)[1], (up - down) / (2 * step), rtol=1e-3)


def test_a_constant_axis() -> None:
    text = """<ir_version: 10, opset_import: ["" : 21, "com.microsoft" : 1]>
    net (float[N, 3] x) => (float[N, 1, 3] y) {
        axis = Constant<value = int32 {1}>()
        e = com.microsoft.ExpandDims(x, axis)
        y = Mul(e, e)
    }"""
    x = normal(2, 3)
    value, gradient = runner(og.gradient(onnx.parser.parse_model(text)))({"x": x})
    np.testing.assert_allclose(value, x[:, None] ** 2, rtol=1e-6)
    np.testing.assert_allclose(gradient, 2 * x, rtol=1e-6)


def test_declared_twice() -> None:
    with pytest.raises(og.RuleError, match="declared twice"):
        expansion("com.microsoft::Gelu")(lambda op, X: X)
