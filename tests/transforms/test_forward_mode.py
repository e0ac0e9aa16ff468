"""jvp against vjp on every operator of the table: <u, J v> = <J' u, v>."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import onnxgrad as og
from tests.oracle import Array, Feeds, close, inner
from tests.rules.test_rules import float_outputs, floats, runner_of, sample_model, validate
from tests.samples import Sample, load_samples, sample_id

SAMPLES = load_samples()


def run(model: onnx.ModelProto, sample: Sample, feeds: Feeds) -> dict[str, Array]:
    values = runner_of(sample)(model)(feeds)
    return dict(zip([o.name for o in model.graph.output], values, strict=True))


def like(rng: np.random.Generator, array: Array) -> Array:
    return rng.standard_normal(array.shape).astype(array.dtype)


def exactness(sample: Sample) -> float:
    """How well two sums that are equal in theory agree."""
    # The factors of onnxruntime's DFT have single precision.
    return 1e-4 if sample.single else 1e-6 if sample.op in ("DFT", "STFT") else 1e-9


@pytest.mark.parametrize("sample", SAMPLES, ids=sample_id)
def test_jvp_is_the_transpose_of_vjp(sample: Sample) -> None:
    rng = np.random.default_rng(2)
    model, feeds = sample_model(sample, symbolic=sample.symbolic, fed=False)
    wrt, of = floats(sample), float_outputs(model, sample)
    forward = og.jvp(model, wrt, of=of, unreachable="zeros")
    validate(forward)
    tangents = {f"{x}_tangent": like(rng, feeds[x]) for x in wrt}
    moved = run(forward, sample, feeds | tangents)
    seeds = {f"{y}_ograd": like(rng, moved[y]) for y in of}
    for y in of:
        assert moved[f"{y}_tangent"].shape == moved[y].shape
        assert moved[f"{y}_tangent"].dtype == moved[y].dtype
    # With the forward outputs, so that it runs where they ran: runtimes differ on MaxUnpool.
    backward = og.vjp(model, wrt, of=of, unreachable="zeros")
    pulled = run(backward, sample, feeds | seeds)
    terms = [seeds[f"{y}_ograd"] * moved[f"{y}_tangent"] for y in of]
    left = float(sum(t.sum() for t in terms))
    right = inner([pulled[f"{x}_grad"] for x in wrt], [tangents[f"{x}_tangent"] for x in wrt])
    scale = float(sum(abs(t).sum() for t in terms))
    assert close(left, right, exactness(sample), scale), (left, right)


@pytest.mark.parametrize("p", [1.0, 2.0, 3.0])
def test_a_weight_whose_number_a_rule_could_read_is_differentiated_twice(p: float) -> None:
    """The exponent, here a weight, is no fixed number: y = (x + p)^p + p x sigmoid(x)."""

    def net(ends: str) -> onnx.ModelProto:
        return onnx.parser.parse_model(f"""<ir_version: 10, opset_import: ["" : 21]>
            g ({ends}) => (double[N] y) {"" if "p" in ends else f"<double[1] p = {{{p}}}>"} {{
                a = Add(x, p) b = Pow(a, p) c = Sigmoid(x) d = Mul(c, p) e = Mul(d, x)
                y = Add(b, e) }}""")

    x, d = np.array([0.7, 1.3, 2.1]), {"x": np.array([0.3, -0.2, 0.5]), "p": np.array([1.0])}
    product = og.Net(og.hvp(net("double[N] x"), ["x", "p"]))
    found = product({"x": x} | {f"{name}_tangent": t for name, t in d.items()})
    gradient, h = og.Net(og.gradient(net("double[N] x, double[1] p"))), 1e-5
    ahead, behind = (gradient({"x": x + s * d["x"], "p": p + s * d["p"]}) for s in (h, -h))
    for name in d:
        difference = (ahead[f"{name}_grad"] - behind[f"{name}_grad"]) / (2 * h)
        np.testing.assert_allclose(found[f"{name}_hvp"], difference, rtol=1e-7)
