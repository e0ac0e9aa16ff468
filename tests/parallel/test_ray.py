"""Ray: rows of a table through a net, and a training that workers share."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest

import onnxgrad as og

ray = pytest.importorskip("ray", reason="Ray is not installed: make ray")
pytest.importorskip("pyarrow", reason="Ray Data is not installed: make ray")
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
    """The ids of this cluster's workers of a class, by what they call themselves."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            title = (entry / "cmdline").read_bytes()
            if title.startswith(f"ray::{name}".encode()) and os.getpid() in ancestors(entry.name):
                found.append(int(entry.name))
        except OSError:  # it has ended meanwhile
            continue
    return found


def ancestors(pid: str) -> set[int]:
    found: set[int] = set()
    while pid not in ("0", "1"):
        pid = Path("/proc", pid, "stat").read_text().rpartition(")")[2].split()[1]
        found.add(int(pid))
    return found


def trainer(**options):
    return og.train.Trainer(MLP, LOSS, og.train.AdamW(lr=0.05), threads=1, **options)


def test_training_shared_by_workers_is_that_of_one(tmp_path) -> None:
    """The last batch of an epoch, of 1 example, leaves a worker without any.

    After the first epoch one worker is killed, whose place one with the state of the other takes;
    after the second one all are, and training goes on from the checkpoint.
    """
    options = {"clip_grad_norm": 0.5, "accumulate": 2, "groups": og.train.Group("*.bias", 0.5)}
    alone, shared = trainer(**options), trainer(**options)
    data, given = (X[:81], T[:81]), {"batch_size": 16, "validation": (X[81:], T[81:])}
    alone.fit(data, 3, **given)
    pids = []

    def kill(found, record) -> None:
        here = processes("Replica")
        for pid in {1: here[:1], 2: here}.get(found.epoch, ()):
            os.kill(pid, signal.SIGKILL)
            pids.append(pid)

    history = parallel.ray.fit(
        shared, data, 3, workers=2, callbacks=[kill], checkpoint=tmp_path / "c.onnx", **given
    )
    assert len(pids) == 3
    for a, b in zip(history, alone.history, strict=True):
        assert a == pytest.approx(b, rel=1e-5)
    for name, array in alone.state.items():
        np.testing.assert_allclose(shared.state[name], array, rtol=1e-4, atol=1e-6)
    again = trainer(**options)
    again.resume(tmp_path / "c.onnx")
    np.testing.assert_array_equal(again.state["fc1.weight"], shared.state["fc1.weight"])


def test_a_loss_that_is_no_mean_is_refused() -> None:
    summed = og.train.Trainer(
        MLP, og.losses.cross_entropy("logits", reduction="sum"), og.train.SGD(), threads=1
    )
    before = summed.state["fc1.weight"]
    with pytest.raises(og.TrainingError, match="is not the mean of the losses of its parts"):
        parallel.ray.fit(summed, (X, T), 1, workers=1)
    np.testing.assert_array_equal(summed.state["fc1.weight"], before)
    with pytest.raises(og.ArgumentError, match="loss_scale='dynamic' needs the whole batch"):
        parallel.ray.fit(trainer(loss_scale="dynamic"), (X, T))


def test_rows_in_gradients_out_though_a_worker_is_killed(tmp_path) -> None:
    """The page of clusters reads and writes Parquet files."""
    rows = [{"id": k, "input": x} for k, x in enumerate(X)]
    given = ray.data.from_items(rows, override_num_blocks=4)

    def gate(block):
        """Let the first block pass, and the others once the worker is killed."""
        try:
            (tmp_path / "first").touch(exist_ok=False)
        except FileExistsError:
            end = time.monotonic() + 60
            while not (tmp_path / "killed").exists() and time.monotonic() < end:
                time.sleep(0.05)
        return block

    request = [og.NetPortGradient("input"), og.Value("logits")]
    found = parallel.ray.map(MLP, given.map_batches(gate, batch_size=None), request, batch_size=8)
    parts = []
    for part in found.iter_batches(batch_size=None, batch_format="numpy"):
        parts.append(part)
        if len(parts) == 1:
            (worker,) = processes("MapWorker")
            os.kill(worker, signal.SIGKILL)
            (tmp_path / "killed").touch()
    assert len(parts) == 4
    order = np.argsort(np.concatenate([part["id"] for part in parts]))
    for name, expected in (
        ("input_grad", og.Net(MLP)(X, og.NetPortGradient("input"))),
        ("logits", og.Net(MLP)(X)),
    ):
        array = np.concatenate([part[name] for part in parts])[order]
        np.testing.assert_allclose(array, expected, rtol=1e-5, atol=1e-6)
    assert [part["input_grad"].dtype for part in parts] == [np.float32] * len(parts)
