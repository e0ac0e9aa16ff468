"""What a trainer goes on from: the right state, of the right training, and nothing by accident."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

import onnxgrad as og
from onnxgrad import losses, train
from tests.train.running import Loop
from tests.train.test_trainer import DATA, LABELS, MLP, X, same, trainer


def renamed(**names: str) -> onnx.ModelProto:
    """The small net with other names of weights; `_` stands for a dot."""
    model = onnx.load(MLP)
    new = {old.replace("_", "."): name for old, name in names.items()}
    for tensor in model.graph.initializer:
        tensor.name = new.get(tensor.name, tensor.name)
    for node in model.graph.node:
        for k, name in enumerate(node.input):
            node.input[k] = new.get(name, name)
    return model


def trainer_of(model: Any, optimizer: Any = None, **options: Any) -> train.Trainer:
    optimizer = optimizer or train.SGD(lr=0.1)
    return train.Trainer(model, losses.cross_entropy("logits"), optimizer, **options)


STOP = train.EarlyStopping(monitor="loss", patience=5, restore_best=True)


def test_a_later_fit_does_not_go_back_to_an_old_best(tmp_path: Path) -> None:
    path = tmp_path / "run.onnx"
    trainer().fit(DATA, 2, early_stopping=STOP, checkpoint=path)
    made, plain = trainer(), trainer()
    made.resume(path)
    made.fit(DATA, 6)
    plain.fit(DATA, 6)
    assert same(made.state, plain.state) and made.history == plain.history


def test_a_fit_that_was_broken_off_leaves_no_best() -> None:
    made, states = trainer(), []

    def breaking(one: train.Trainer, record: Any) -> None:
        if one.epoch == 2:
            raise RuntimeError("full")

    with pytest.raises(RuntimeError):
        made.fit(DATA, 5, early_stopping=STOP, callbacks=[breaking])
    made.fit(DATA, 5, callbacks=[lambda one, record: states.append(one.state)])
    assert len(states) == 3 and same(made.state, states[-1])


def test_early_stopping_counts_the_epochs_of_its_own_fit() -> None:
    """The rate of 0 makes no epoch better than the first of the call."""
    stop = train.EarlyStopping(monitor="loss", patience=2)
    made = trainer(optimizer=train.SGD(lr=0.0))
    assert len(made.fit(DATA, 9, batch_size=50, shuffle=False, early_stopping=stop)) == 3
    assert len(made.fit(DATA, 9, batch_size=50, shuffle=False, early_stopping=stop)) == 6


def test_a_second_fit_begins_with_its_first_batch() -> None:
    made, plain = trainer(), trainer()
    batches = [(X[k : k + 10], LABELS[k : k + 10]) for k in range(0, 50, 10)]

    def broken() -> Any:
        yield from batches[:3]
        raise ValueError("a disk")

    with pytest.raises(ValueError, match="a disk"):
        made.fit(broken())
    plain.state = made.state
    assert made.steps == 3
    made.fit(batches[3:])
    plain.fit(batches[3:])
    assert made.steps == 5 and same(made.state, plain.state)
    assert made.history[0]["loss"] == plain.history[0]["loss"]


@pytest.mark.parametrize("name", ["fc1.weight.best", "fc2.bias.best", "fc1.weight.initial"])
def test_weights_of_any_name(name: str, tmp_path: Path) -> None:
    model, path = renamed(fc1_bias=name), tmp_path / "run.onnx"
    onnx.save(model, tmp_path / "net.onnx")
    made, again = trainer_of(model), trainer_of(model)
    made.fit(DATA, 2, early_stopping=STOP, checkpoint=path)
    onnxruntime.InferenceSession(str(path))
    again.resume(path)
    again.fit(DATA, 2, early_stopping=STOP)
    assert same(again.state, made.state) and name in made.state
    from onnxgrad.cli.training import export

    export(str(tmp_path / "net.onnx"), path, tmp_path / "trained.onnx")
    exported = onnx.load(tmp_path / "trained.onnx").graph.initializer
    for tensor in exported:
        np.testing.assert_array_equal(numpy_helper.to_array(tensor), made.state[tensor.name])
    train.artifacts(model, tmp_path / "files", losses.cross_entropy("logits"), train.SGD())
    init = onnxruntime.InferenceSession(str(tmp_path / "files" / "init.onnx"))
    assert name in [y.name for y in init.get_outputs()]


def _changed(path: Path, change: Any) -> None:
    model = onnx.load(path)
    (prop,) = [p for p in model.metadata_props if p.key == "onnxgrad.trainer"]
    prop.value = change(prop.value)
    onnx.save(model, path)


def _without(key: str) -> Any:
    return lambda text: json.dumps({k: v for k, v in json.loads(text).items() if k != key})


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text[: len(text) // 2], lambda text: "[]", lambda text: '{"epoch": 1}',
        _without("history"), _without("best"),
        lambda text: json.dumps(json.loads(text) | {"best": {"fc1.bias": "none"}}),
    ],
)  # fmt: skip
def test_damaged_metadata(change: Any, tmp_path: Path) -> None:
    path, made = tmp_path / "run.onnx", trainer()
    made.fit(DATA, checkpoint=path)
    _changed(path, change)
    with pytest.raises(og.ArgumentError, match=r"run\.onnx' is damaged"):
        made.resume(path)


# -- the state is always finite --------------------------------------------------------------------

UNUSED = {"input": X * np.array([0, 1, 1, 1], np.float32), "labels": LABELS}
INFINITE = onnx.parser.parse_model(
    '<ir_version: 10, opset_import: ["" : 21]> g (float[N,1] x) => (float[N,1] y)'
    " <float[1,1] w = {0}> { h = MatMul(x, w) y = Sqrt(h) }"
)


@pytest.mark.filterwarnings("ignore:invalid value encountered in divide")
@pytest.mark.parametrize("runtime", ["onnxruntime", "reference"])
def test_an_update_that_is_not_finite(runtime: str, tmp_path: Path) -> None:
    """Adam without eps divides 0 by 0 where a gradient is always 0."""
    made = train.Trainer(
        MLP, losses.cross_entropy("logits"), train.Adam(lr=0.05, eps=0.0), runtime=runtime
    )
    before = made.state
    with pytest.raises(og.TrainingError, match=r"update has .* at batch 1 of epoch 1 \(step 0"):
        made.fit(UNUSED, 1, checkpoint=tmp_path / "run.onnx")
    assert same(made.state, before) and made.steps == 0
    assert not (tmp_path / "run.onnx").exists()


def test_an_infinite_gradient_without_its_norm() -> None:
    data = (np.ones((2, 1), np.float32), np.ones((2, 1), np.float32))
    options: dict[str, Any]
    for options in ({}, {"accumulate": 2}, {"clip_grad_norm": 1.0}):
        made = train.Trainer(INFINITE, losses.mse("y"), train.SGD(), grad_norm=False, **options)
        before = made.state
        with pytest.raises(og.TrainingError, match="update has"):
            made.fit(data, 2)
        assert same(made.state, before)


def test_a_step_says_whether_its_next_state_is_finite() -> None:
    step = train.step(MLP, losses.mse("logits"), train.SGD(momentum=0.9), finite=True)
    loop = Loop(step, onnx.load(MLP))
    said = []
    for rate, label in ((0.1, 0), (1e30, 1), (1e38, 1e10)):
        labels = np.full((50, 3), label, np.float32)
        said.append(bool(loop(rate, input=X, labels=labels)["finite"]))
        assert said[-1] == all(np.isfinite(a).all() for a in loop.state.values())
    assert said == [True, True, False]


def test_large_numbers_are_finite() -> None:
    """Their sum is not, in float32."""
    made = trainer_of(MLP, train.SGD(lr=0.0))
    made.state = {"fc1.weight": np.full_like(made.state["fc1.weight"], 1e38)}
    made.fit({n: a[:1] for n, a in DATA.items()})
    assert made.steps == 1


def test_half_precision_leaves_out_a_step_and_goes_on() -> None:
    """The sums of gradients overflow on the way to a smaller scale of the loss."""
    g = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 21]> g (float16[N,2] x) => (float16[N,2] y)'
        " <float16[2,2] w = {1, 2, 3, 4}> { y = MatMul(x, w) }"
    )
    made = train.Trainer(g, losses.mse("y"), train.SGD(lr=0.01), loss_scale="dynamic", accumulate=2)
    x, y = np.full((8, 2), 30, np.float16), np.zeros((8, 2), np.float16)
    made.fit((x, y), 2, batch_size=2)
    assert made.state["loss_scale"] < 65536 and np.isfinite(made.state["w"]).all()


@pytest.mark.parametrize("rate", [float("nan"), float("inf"), 1e39, "fast", None])
def test_a_schedule_that_gives_no_finite_number(rate: Any) -> None:
    made = trainer()
    with pytest.raises(og.TrainingError, match=r"learning rate is .* at batch 2 .*\(step 1"):
        made.fit(DATA, batch_size=25, schedule=lambda step: rate if step == 1 else 0.02)
    assert made.steps == 1 and np.isfinite(made.predict(X)).all()


def test_a_schedule_of_numpy_numbers(tmp_path: Path) -> None:
    made = trainer()
    made.fit(DATA, schedule=lambda step: np.float32(0.1), checkpoint=tmp_path / "run.onnx")
    assert made.history[0]["lr"] == pytest.approx(0.1)


def test_a_given_state_is_finite() -> None:
    made = trainer()
    with pytest.raises(og.ArgumentError, match=r"'fc1\.bias'.*not finite"):
        made.state = {"fc1.bias": np.full(16, np.nan, np.float32)}


# -- a checkpoint of another training --------------------------------------------------------------


def test_a_checkpoint_of_another_training(tmp_path: Path) -> None:
    path = tmp_path / "run.onnx"
    made = trainer_of(MLP, train.Adam(lr=0.1))
    made.fit(DATA, checkpoint=path)
    before, tanh = made.state, onnx.load(MLP)
    for node in tanh.graph.node:
        node.op_type = "Sigmoid" if node.op_type == "Tanh" else node.op_type
    for other, says in (
        (trainer_of(MLP, train.AdamW(lr=0.1)), r"another optimizer: Adam\(.*AdamW\("),
        (trainer_of(MLP, train.Adam(betas=(0.8, 0.99))), r"another optimizer: .*0\.9.*0\.8"),
        (trainer_of(renamed(fc1_bias="b"), train.Adam()), "nothing is called 'fc1.bias'"),
        (trainer_of(tanh, train.Adam()), "another model, another loss, other options"),
        (
            trainer_of(MLP, train.Adam(), clip_grad_norm=1.0),
            "another model, another loss, other options",
        ),
        (train.Trainer(MLP, losses.nll("logits"), train.Adam()), "another loss"),
    ):
        state = other.state
        with pytest.raises(og.ArgumentError, match=says):
            other.resume(path)
        assert same(other.state, state) and other.epoch == 0
    onnx.save(made.export(), tmp_path / "trained.onnx")
    for again in (
        trainer_of(MLP, train.Adam(lr=0.01), seed=5),
        trainer_of(MLP, train.Adam(), runtime="reference"),
        trainer_of(tmp_path / "trained.onnx", train.Adam()),
    ):
        again.resume(path)
        assert same(again.state, before) and again.epoch == 1
