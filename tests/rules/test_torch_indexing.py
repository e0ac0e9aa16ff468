"""Reading and writing by index beside PyTorch: duplicates, ties and zero factors."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is what the conventions are compared with")

from tests.samples import Sample, ints, normal, sample_id  # noqa: E402
from tests.torch_gradients import assert_like_torch  # noqa: E402

DATA = np.array([[1.0, -2.0, 3.0], [0.0, 2.0, -1.0]])
PLACES = np.array([[0, 0, 2, 2], [1, 1, 1, 0]])
UPDATES = np.array([[1.0, 1.0, 4.0, 4.0], [2.0, 0.0, -3.0, 0.0]])  # ties with each other and DATA
REDUCTIONS = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_scatter(reduction):
    sample = Sample("ScatterElements", [DATA, PLACES, UPDATES], {"axis": 1, "reduction": reduction})
    assert_like_torch(sample, lambda x, i, u: x.scatter_reduce(1, i, u, REDUCTIONS[reduction]))


def test_scatter_product_twice():
    """PyTorch has the second derivative where one factor at a place is zero."""
    updates = np.array([[1.0, 0.5, 0.0, 4.0], [2.0, 0.0, -3.0, 1.0]])
    sample = Sample("ScatterElements", [DATA, PLACES, updates], {"axis": 1, "reduction": "mul"})
    assert_like_torch(sample, lambda x, i, u: x.scatter_reduce(1, i, u, "prod"), second=True)


READS = [
    (Sample("ScatterElements", [DATA, PLACES[:, 1:3], UPDATES[:, 1:3]], {"axis": 1}),
     lambda x, i, u: x.scatter(1, i, u)),
    (Sample("ScatterND", [DATA, np.array([[1, 2], [0, 0]]), normal(2)]),
     lambda x, i, u: x.index_put(tuple(i.T), u)),
    (Sample("ScatterND", [DATA, np.array([[1], [1]]), normal(2, 3)], {"reduction": "add"}),
     lambda x, i, u: x.index_put(tuple(i.T), u, accumulate=True)),
    (Sample("Gather", [normal(5, 3), PLACES]), lambda x, i: torch.nn.functional.embedding(i, x)),
    (Sample("Gather", [normal(2, 5, 3), ints(-1, 0, -1)], {"axis": 1}),
     lambda x, i: x[:, i]),
    (Sample("Gather", [normal(2, 5, 3), np.array(-2)], {"axis": 2}), lambda x, i: x[..., i]),
    (Sample("GatherElements", [DATA, PLACES], {"axis": 1}), lambda x, i: x.gather(1, i)),
    (Sample("Compress", [DATA, np.array([True, False, True, True])]),
     lambda x, c: x.flatten()[:4][c]),
]  # fmt: skip


@pytest.mark.parametrize(("sample", "function"), READS, ids=sample_id)
def test_reads(sample, function):
    assert_like_torch(sample, function)
