"""The files for solvers in CasADi itself: its derivatives of a net against differences of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

import onnxgrad as og
from tests.oracle import Array
from tests.transforms.test_family import NETS, parse

casadi = pytest.importorskip("casadi", reason="CasADi reads the files that are tested")


@pytest.fixture(autouse=True)
def runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    """CasADi runs the nets on the onnxruntime that is installed."""
    library = next(Path(onnxruntime.__file__).parent.glob("capi/libonnxruntime.so*"), None)
    if library is None:
        pytest.skip("this onnxruntime has no shared library that CasADi can load")
    monkeypatch.setenv("CASADI_ONNXRUNTIME_LIB", str(library))


def differences(f: Callable[[Array], Array], at: Array, step: float) -> Array:
    """The Jacobian of a function of a vector, by central differences."""
    return np.hstack([(f(at + d) - f(at - d)) / (2 * step) for d in np.eye(at.size) * step])


@pytest.mark.parametrize("name", NETS)
def test_derivatives_in_casadi(name: str, tmp_path: Path) -> None:
    text, shapes = NETS[name]
    builder = casadi.GraphBuilder(og.family(parse(text), tmp_path)[0])
    for size in builder.dynamic_params():
        builder.bind_dim(size, next(iter(shapes.values()))[0])
    net = builder.create("net")
    sizes = [net.numel_in(k) for k in range(net.n_in())]
    x = casadi.MX.sym("x", sum(sizes))
    parts = casadi.vertsplit(x, [0, *np.cumsum(sizes).tolist()])
    inputs = [casadi.reshape(p, *net.size_in(k)) for k, p in enumerate(parts)]
    y = casadi.veccat(*net.call(inputs))
    scalar = casadi.sumsqr(casadi.sin(y))  # no derivative of it is constant
    hessian, gradient = casadi.hessian(scalar, x)

    def function(of: casadi.MX) -> Callable[[Array], Array]:
        compiled = casadi.Function("f", [x], [casadi.densify(of)])
        return lambda at: np.array(compiled(at))

    at = np.random.default_rng(3).standard_normal(sum(sizes))
    for derivative, of in ((casadi.jacobian(y, x), y), (gradient.T, scalar), (hessian, gradient)):
        want = differences(function(of), at, 1e-5)
        np.testing.assert_allclose(function(derivative)(at), want, rtol=1e-7, atol=1e-7)
