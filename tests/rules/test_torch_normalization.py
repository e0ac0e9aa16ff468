"""Normalisations against PyTorch, where they are delicate."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import onnxgrad as og
from tests.node_gradients import node_gradients
from tests.rules.test_rules import sample_model
from tests.samples import Sample, normal, uniform

torch = pytest.importorskip("torch", reason="PyTorch is what the conventions are compared with")

CONSTANT = np.full((2, 4, 3), 5.0)  # no variance at all
LARGE = normal(2, 4, 3) + 1e4


def compare(sample, function, seed):
    operands = [torch.tensor(a, requires_grad=True) for a in sample.inputs]
    function(*operands).backward(torch.tensor(seed))
    wrt = range(len(operands)) if sample.wrt is None else sample.wrt
    for got, k in zip(node_gradients(sample, seed), wrt, strict=True):
        np.testing.assert_allclose(got, operands[k].grad, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "x", [normal(2, 4, 3), CONSTANT, LARGE], ids=["normal", "constant", "large"]
)
def test_normalisations(x):
    f, seed = torch.nn.functional, normal(2, 4, 3)
    compare(
        Sample("LayerNormalization", [x, normal(3), normal(3)]),
        lambda x, w, b: f.layer_norm(x, (3,), w, b),
        seed,
    )
    compare(
        Sample("InstanceNormalization", [x, normal(4), normal(4)]),
        lambda x, w, b: f.instance_norm(x, weight=w, bias=b),
        seed,
    )
    compare(
        Sample(
            "GroupNormalization", [x, normal(4), normal(4)], {"num_groups": 2, "stash_type": 11}
        ),
        lambda x, w, b: f.group_norm(x, 2, w, b),
        seed,
    )
    compare(
        Sample("RMSNormalization", [x, normal(3)], opset=23),
        lambda x, w: f.rms_norm(x, (3,), w, eps=1e-5),
        seed,
    )


@pytest.mark.parametrize("training", [False, True])
def test_batch_normalisation(training):
    x, w, b, mean, var = normal(2, 4, 3), normal(4), normal(4), normal(4), uniform(0.5, 2, 4)
    compare(
        Sample(
            "BatchNormalization",
            [x, w, b, mean, var],
            {"training_mode": int(training)},
            outputs=3 if training else 1,
            of=[0],
            wrt=[0, 1, 2],
        ),
        lambda x, w, b, m, v: torch.nn.functional.batch_norm(
            x, m.detach(), v.detach(), w, b, training
        ),
        normal(2, 4, 3),
    )


def test_lrn():
    compare(
        Sample("LRN", [normal(2, 5, 3, 2)], {"size": 3, "alpha": 0.5, "beta": 0.7, "bias": 1.2}),
        lambda x: torch.nn.functional.local_response_norm(x, 3, 0.5, 0.7, 1.2),
        normal(2, 5, 3, 2),
    )


@pytest.mark.parametrize("p", [1, 2])
def test_norms_of_zero_vectors(p):
    """The output is 0 there and no derivative exists: the gradient is 0, and finite."""
    x, seed = normal(3, 4), normal(3, 4)
    x[1] = 0
    x[2, 1] = 0  # PyTorch's |x| at 0
    sample = Sample("LpNormalization", [x], {"p": p}, opset=22)
    t = torch.tensor(x, requires_grad=True)
    (t / t.norm(p, dim=-1, keepdim=True)).backward(torch.tensor(seed))
    (got,) = node_gradients(sample, seed)
    np.testing.assert_allclose(got[[0, 2]], t.grad[[0, 2]], rtol=1e-9)
    assert not got[1].any()


def test_constant_input_of_mean_variance_normalization():
    sample = Sample("MeanVarianceNormalization", [CONSTANT], {"axes": [0, 2]}, single=True)
    assert np.isfinite(node_gradients(sample, normal(2, 4, 3).astype(np.float32))[0]).all()


def test_default_axes_of_mean_variance_normalization():
    """onnx's checker refuses its own default, and accepts the gradient's model."""
    sample = Sample("MeanVarianceNormalization", [normal(2, 3, 2, 2)], single=True)
    model, _ = sample_model(sample, symbolic=False, fed=True)
    onnx.checker.check_model(og.gradient(model, "x0", of="y0"), full_check=True)
