"""The one body of checks over the table of samples, in settings that real files come in.

With EVERY_SETTING in the environment, as `make sweep` has it, each sample is checked in each
setting; else a few of them are.
"""

from __future__ import annotations

import json
import os
from typing import Any

import numpy as np
import pytest

import onnxgrad as og
from onnxgrad.declare import registry
from tests.conftest import OLD
from tests.rules.test_rules import validate
from tests.samples import Sample, load_samples, normal
from tests.settings import SETTINGS, Net, near

pytestmark = pytest.mark.skipif(OLD, reason="older runtimes lack kernels")

# Has no divisor in common with the number of settings, so that each is met by samples of all kinds.
EVERY = 1 if os.environ.get("EVERY_SETTING") else 17

# What once failed, one of each kind, is always checked.
ALWAYS = {
    "Attention[2,4,3,4]x[2,2,5,4]x[2,2,5,2]is_causal=1-empty",
    "DeformConv[1,2,4,4]x[2,2,3,2]x[1,12,4,3]offset_group=1,pads=[1,0,1,0]-empty",
    "DequantizeLinear[3]x[]x--float16",
    "GatherND[2,2,4]x[2,2,1]batch_dims=2-empty",
    "GridSample[2,2,3,4]x[2,2,3,2]mode=linear,padding_mode=zeros,align_corners=0-empty",
    "Identity[2,3]-in-loop",
    "NegativeLogLikelihoodLoss[4,3]x[4]reduction=none-empty",
    "Slice[2,3]x[1]x[1]x[1]x[1]-float16",
    "STFT[2,10,1]x[]x[4]onesided=1-empty",
}

EACH = [
    pytest.param(sample, setting, id=f"{sample}-{setting}")
    for sample in load_samples()
    for setting in SETTINGS
]
CASES = [c for k, c in enumerate(EACH) if k % EVERY == 0 or c.id in ALWAYS]


def check(net: Net) -> None:
    """The gradients have the dtype and shape of their tensors, and are right in each element."""
    backward = og.gradient(net.model, net.wrt, of=list(net.seeds), ograd=net.ograd)
    validate(backward)
    properties = {p.key: json.loads(p.value) for p in backward.metadata_props}
    seeds = {properties["onnxgrad.ograds"][n]: s for n, s in net.seeds.items() if net.ograd}
    names = [o.name for o in backward.graph.output]
    for start in net.starts:
        results = dict(zip(names, start(backward)(net.feeds | seeds), strict=True))
        for name, gradient in properties["onnxgrad.gradients"].items():
            got, want = results[gradient], net.want[name]
            assert got.shape == want.shape
            if name in net.feeds:
                assert got.dtype == net.feeds[name].dtype
            assert near(got, want, net.tolerance), (name, got, want)
            assert not np.isnan(got.astype(np.float64)).any()


@pytest.mark.parametrize(("sample", "setting"), CASES)
def test_setting(sample: Sample, setting: str) -> None:
    nets = list(SETTINGS[setting](sample))
    if not nets:
        pytest.skip("the sample has no such setting")
    for net in nets:
        check(net)


@pytest.mark.parametrize("setting", SETTINGS)
def test_planted_error(setting: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tester is tested: a rule that is wrong by little is caught in every setting."""
    sample = Sample("MatMul", [normal(2, 3), normal(3, 4)])
    nets = list(SETTINGS[setting](sample))
    assert nets
    for net in nets:
        check(net)
    functions = registry._TABLE["", "MatMul"].functions
    function, names = functions["B"]
    error = 20 * max(net.tolerance for net in nets)

    def wrong(*arguments: Any, **named: Any) -> Any:
        return function(*arguments, **named) + error

    monkeypatch.setitem(functions, "B", (wrong, names))
    with pytest.raises(AssertionError):
        check(nets[0])
