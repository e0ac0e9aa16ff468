"""Adapters over weights of 4 bits, in a decoder as onnxruntime-genai exports it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper

import onnxgrad as og
from models import lora as script
from models.decoder import Decoder, feeds_of
from onnxgrad import train

IDS = np.random.default_rng(0).integers(0, 32, (2, 6))
PROJECTIONS = "*_proj.weight"


def run(model: onnx.ModelProto, feeds: dict[str, Any]) -> dict[str, np.ndarray]:
    session = script.session(model)
    names = [v.name for v in session.get_outputs()]
    given = {v.name: feeds[v.name] for v in session.get_inputs()}
    given.update({k: v for k, v in feeds.items() if k.endswith(("lora_A", "lora_B"))})
    return dict(zip(names, session.run(None, given), strict=True))


def operators(model: onnx.ModelProto) -> list[str]:
    """Those that the standard does not have."""
    fused = [n for n in model.graph.node if n.domain or n.op_type.startswith("Simplified")]
    return sorted(n.op_type for n in fused)


def drawn(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    """Numbers for the adapters."""
    listed = json.loads({p.key: p.value for p in model.metadata_props}["onnxgrad.adapters"])
    names = [name for a in listed.values() for name in (a["A"], a["B"])]
    arrays = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    rng = np.random.default_rng(1)
    return {n: (0.1 * rng.standard_normal(arrays[n].shape)).astype(np.float32) for n in names}


def step_of(model: onnx.ModelProto) -> onnx.ModelProto:
    return train.step(model, og.losses.cross_entropy("scores"), train.SGD())


def feeds(model: onnx.ModelProto, state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {
        **feeds_of(model, IDS), **state, "labels": np.roll(IDS, -1, 1), "step": np.array(0),
        "learning_rate": np.array(1, np.float32),
    }  # fmt: skip


def test_unchanged_at_first() -> None:
    """To the bit: no kernel and no order of a sum changes."""
    base = Decoder(layers=2).model()
    tuned = train.lora(base, 4, 8)
    assert operators(tuned) == operators(base)
    one, other = (run(m, feeds_of(base, IDS)) for m in (tuned, base))
    for name in other:
        np.testing.assert_array_equal(one[name], other[name])


def test_step() -> None:
    """Fused kernels forward; the gradients are those of the numbers that 4 bits stand for."""
    models = [train.lora(Decoder(bits=b).model(), 4, 8, PROJECTIONS) for b in (4, 32)]
    small, plain = (step_of(m) for m in models)
    assert operators(small).count("MatMulNBits") == 8  # all
    assert "MatMulNBits" not in operators(plain)
    state = drawn(models[0])
    found, expected = (run(m, feeds(m, state)) for m in (small, plain))
    assert list(found) == list(expected) and len(state) == 14
    np.testing.assert_allclose(found["loss"], expected["loss"], rtol=1e-5)
    for name in state:
        g = state[name] - expected[f"{name}_next"]
        assert np.abs(g).max() > 1e-2
        np.testing.assert_allclose(state[name] - found[f"{name}_next"], g, rtol=1e-3, atol=1e-5)


def test_gradient_by_differences() -> None:
    """That of the loss along a direction, by the fused base alone."""
    model = train.lora(Decoder().model(), 4, 8, PROJECTIONS)
    state = drawn(model)
    step = step_of(model)
    rng = np.random.default_rng(2)
    along = {n: rng.standard_normal(a.shape).astype(np.float32) for n, a in state.items()}
    found = run(step, feeds(step, state))
    slope = sum(float(((state[n] - found[f"{n}_next"]) * along[n]).sum()) for n in state)
    eps = 1e-2
    ends = [
        float(run(step, feeds(step, {n: a + s * eps * along[n] for n, a in state.items()}))["loss"])
        for s in (1, -1)
    ]
    assert abs((ends[0] - ends[1]) / (2 * eps) - slope) < 2e-2 * abs(slope)


def test_weights_stay_small(tmp_path: Path) -> None:
    """In the file, and in what onnxruntime makes of it: it folds no weight into floats."""
    base = Decoder(width=256, layers=1).model()
    step = step_of(train.lora(base, 4, 8, PROJECTIONS))
    numbers = sum(np.prod(t.dims) * 2 for t in base.graph.initializer if t.data_type == 2)
    assert step.ByteSize() < base.ByteSize() + 400_000 < 4 * numbers
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3
    ort.InferenceSession(step.SerializeToString(), options)
    made = onnx.load(options.optimized_model_filepath)
    packed = {t.name for t in base.graph.initializer if t.data_type == 2}
    largest = max(
        np.prod(t.dims) * 4
        for t in made.graph.initializer
        if t.data_type == 1 and t.name != "embed"
    )
    assert packed and largest < 256 * 256 * 4 / 8


def test_off_the_path() -> None:
    """What no gradient passes stays fused: the first layer, where the second one has adapters."""
    model = train.lora(Decoder(layers=2).model(), 4, 8, "layers.1.*_proj.weight")
    step = step_of(model)
    assert operators(step) == sorted(
        15 * ["MatMulNBits"]
        + ["GroupQueryAttention", "SimplifiedLayerNormalization"]
        + 2 * ["SkipSimplifiedLayerNormalization"]
    )
    plain = step_of(train.lora(Decoder(layers=2, bits=32).model(), 4, 8, "layers.1.*_proj.weight"))
    state = drawn(model)
    found, expected = (run(m, feeds(m, state)) for m in (step, plain))
    for name in state:
        np.testing.assert_allclose(
            found[f"{name}_next"], expected[f"{name}_next"], rtol=1e-4, atol=1e-5
        )


def test_refuses_to_merge() -> None:
    with pytest.raises(og.ArgumentError, match=r"'layers.0.q_proj.weight' is quantized.*save_"):
        train.merge(train.lora(Decoder().model(), 4, 8, PROJECTIONS))


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("bits, sizes", [(2, (5, 48)), (4, (6, 40)), (8, (3, 32))])
def test_bits(bits: int, sizes: tuple[int, int], zeros: bool, dtype: Any) -> None:
    """Beside every kind of such weights, in half precision too."""
    n, k = sizes
    rng = np.random.default_rng(3)
    blocks = -(-k // 16)
    weights = {
        "B": rng.integers(0, 256, (n, blocks, 2 * bits), dtype=np.uint8),
        "s": rng.uniform(0.1, 0.2, (n, blocks)).astype(dtype),
    }
    if zeros:
        width = -(-blocks * bits // 8)
        weights["z"] = rng.integers(0, 256, (n, width), dtype=np.uint8)
    node = helper.make_node(
        "MatMulNBits", ["x", *weights], ["y"], domain="com.microsoft", K=k, N=n, block_size=16,
        bits=bits,
    )  # fmt: skip
    port, kind = helper.make_tensor_value_info, helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    graph = helper.make_graph(
        [node], "net", [port("x", kind, ["M", k])], [port("y", kind, ["M", n])],
        [numpy_helper.from_array(a, name) for name, a in weights.items()],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    base = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    model = train.lora(base, 2, 3)
    state, x = drawn(model), rng.standard_normal((4, k)).astype(dtype)
    assert {a.dtype for a in state.values()} == {np.dtype(np.float32)}
    y = run(model, {"x": x, **state})["y"]
    wide, tolerance = x.astype(np.float32), 1e-4 if dtype is np.float32 else 2e-2
    expected = 1.5 * wide @ (state["B.lora_B"] @ state["B.lora_A"]).T
    base_y = run(base, {"x": x})["y"]
    np.testing.assert_allclose(y, base_y + expected, rtol=tolerance, atol=tolerance)
    found = run(og.vjp(model, ["B.lora_B"]), {"x": x, "y_ograd": y, **state})["B.lora_B_grad"]
    expected = 1.5 * y.T.astype(np.float32) @ (wide @ state["B.lora_A"].T)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


def test_script(tmp_path: Path) -> None:
    """The adapter tells what the base cannot; the base still knows what it knew."""
    up, without, with_adapter = script.main(100, tmp_path / "down.onnx_adapter")
    assert up > 0.8 and without < 0.1 and with_adapter > 0.8
