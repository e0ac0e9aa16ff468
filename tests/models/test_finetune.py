"""A real net learns new classes, in small: `models/finetune.py` does it in earnest."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import onnx
import pytest

import onnxgrad as og

if importlib.util.find_spec("rapidocr_onnxruntime") is None:
    pytest.skip("no real models: make real-models", allow_module_level=True)

from models import finetune


def test_new_classes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trainer, (images, labels) = finetune.finetune(320, 2, others=100)
    assert "held back, after 20 steps" in capsys.readouterr().out
    found = trainer.evaluate((images, labels))
    assert found["accuracy"] >= 0.5  # by chance 0.25
    trainer.save(tmp_path / "tuned.onnx")
    scores = og.Net(tmp_path / "tuned.onnx")(images)
    assert np.mean(scores.argmax(1) == labels) == pytest.approx(found["accuracy"], abs=0.011)
    before, after = onnx.load(finetune.pretrained()), onnx.load(tmp_path / "tuned.onnx")
    assert after.opset_import == before.opset_import
    assert [n.output for n in after.graph.node] == [n.output for n in before.graph.node]
