"""Model repositories of Triton, against the schema of their configuration."""

from __future__ import annotations

import re

import numpy as np
import onnx
import pytest

import onnxgrad as og
from onnxgrad import parallel

RNG = np.random.default_rng(0)
NET = "models/digits.onnx"


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served") / "repository"
    models = {"net": NET, "why": og.explain.saliency(NET, target="argmax")}
    parallel.triton.repository(models, folder)
    return folder


def config_of(folder) -> str:
    """The file that is served."""
    return re.search('default_model_filename: "(.*)"', (folder / "config.pbtxt").read_text())[1]


def test_models_share_their_weights_on_the_disk_and_compute(served) -> None:
    (data,) = (served / "net" / "1").glob("weights.*.data")
    assert (served / "why" / "1" / data.name).samefile(data)
    arrays = map(onnx.numpy_helper.to_array, onnx.load(NET).graph.initializer)
    weights = sum(a.nbytes for a in arrays if a.nbytes >= 1024)
    assert weights <= data.stat().st_size < 1.5 * weights  # where they begin is aligned
    x = RNG.standard_normal((2, 1, 8, 8), dtype=np.float32)
    given = og.Net(served / "why" / "1" / config_of(served / "why"))(x)
    expected = og.Net(og.explain.saliency(NET, target="argmax"))(x)
    for name, array in expected.items():
        np.testing.assert_array_equal(given[name], array)


def test_configurations_are_of_the_schema(served, tmp_path) -> None:
    """Parsed by the messages of Triton's own client."""
    schema = pytest.importorskip(
        "tritonclient.grpc.model_config_pb2",
        reason="tritonclient is not installed: make ray",
    )
    from google.protobuf import text_format

    def read(path):
        return text_format.Parse((path / "config.pbtxt").read_text(), schema.ModelConfig())

    config = read(served / "why")
    assert (config.name, config.backend, config.max_batch_size) == ("why", "onnxruntime", 32)
    assert config.dynamic_batching.max_queue_delay_microseconds == 1000
    (given,) = config.input
    assert (given.name, list(given.dims), given.data_type) == ("image", [1, 8, 8], schema.TYPE_FP32)
    assert {y.name: list(y.dims) for y in config.output} == {
        "logits": [10],
        "image_attribution": [1, 8, 8],
    }
    # No batch: the step of a training, with scalars.
    step = og.train.step("models/mlp.onnx", og.losses.cross_entropy("logits"), og.train.SGD())
    parallel.triton.repository({"step": step}, tmp_path / "r")
    config = read(tmp_path / "r" / "step")
    assert config.max_batch_size == 0 and not config.HasField("dynamic_batching")
    ports = {port.name: port for port in config.input}
    assert list(ports["input"].dims) == [-1, 4] and ports["labels"].data_type == schema.TYPE_INT64
    assert list(ports["step"].dims) == [1] and ports["step"].HasField("reshape")


def test_what_cannot_be_served_is_refused(served, tmp_path) -> None:
    with pytest.raises(og.SaveError, match="there already"):
        parallel.triton.repository({"net": NET}, served)
    with pytest.raises(og.ArgumentError, match="cannot be"):
        parallel.triton.repository({"a/b": NET}, tmp_path / "r")
    assert not (tmp_path / "r").exists()


def test_the_command_line_writes_one(tmp_path, monkeypatch) -> None:
    from onnxgrad.cli import main

    folder = tmp_path / "repository"
    command = ["onnxgrad", "serve", "triton", str(folder), NET, "models/mlp.onnx"]
    monkeypatch.setattr("sys.argv", [*command, "--max-batch-size", "8"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    assert config_of(folder / "mlp") == "mlp.onnx"
    assert "max_batch_size: 8\n" in (folder / "digits" / "config.pbtxt").read_text()
