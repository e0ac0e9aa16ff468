"""Ray: rows of a table through a net, and a training that workers share."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest

import onnxgrad as og

ray = pytest.importorskip("ray", reason="Ray is not installed: make bridges")
pytest.importorskip("pyarrow", reason="Ray Data is not installed: make bridges")
from onnxgrad import parallel  # noqa: E402

MLP = str(Path("models/mlp.onnx").resolve())
RNG = np.random.default_rng(0)
X = RNG.standard_normal((96, 4), dtype=np.float32)
T = (X[:, 0] > 0).astype(np.int64)
LOSS = og.losses.cross_entropy("logits")


@pytest.fixture(scope="module", autouse=True)
def cluster():
    """One of two CPUs, for all tests."""
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    yield
    ray.shutdown()


def processes(name: str) -> list[int]:
    """The ids of the workers of a class, by what they call themselves."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            line = (entry / "cmdline").read_bytes()
            if line.startswith(f"ray::{name}".encode()) and os.stat(entry).st_uid == os.getuid():
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def trainer(**options):
    return og.train.Trainer(MLP, LOSS, og.train.AdamW(lr=0.05), threads=1, **options)


def test_training_shared_by_workers_is_that_of_one(tmp_path) -> None:
    """The last batch of an epoch, of 1 example, leaves a worker without any; one is killed."""
    options = {"clip_grad_norm": 0.5, "accumulate": 2, "groups": og.train.Group("*.bias", 0.5)}
    alone, shared = trainer(**options), trainer(**options)
    data, given = (X[:81], T[:81]), {"batch_size": 16, "validation": (X[81:], T[81:])}
    alone.fit(data, 3, **given)
    pids = []

    def kill(found, record) -> None:
        if found.epoch == 1:
            pids.extend(processes("Replica"))
            os.kill(pids[0], signal.SIGKILL)

    history = parallel.ray.fit(
        shared, data, 3, workers=2, callbacks=[kill], checkpoint=tmp_path / "c.onnx", **given
    )
    assert len(pids) == 2
    for a, b in zip(history, alone.history, strict=True):
        assert a == pytest.approx(b, rel=1e-5)
    for name, array in alone.state.items():
        np.testing.assert_allclose(shared.state[name], array, rtol=1e-4, atol=1e-6)
    again = trainer(**options)
    again.resume(tmp_path / "c.onnx")
    np.testing.assert_array_equal(again.state["fc1.weight"], shared.state["fc1.weight"])
