"""The trainer: equal to a loop of PyTorch, resumed to the same bits, and nothing is ever lost."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper

import onnxgrad as og
from onnxgrad import losses, train
from onnxgrad.graph import io as io_module
from onnxgrad.train import schedules

MODELS = Path(__file__).parents[2] / "models"
MLP = MODELS / "mlp.onnx"
RNG = np.random.default_rng(0)
X = RNG.standard_normal((50, 4)).astype(np.float32)
LABELS = (X[:, 0] > 0).astype(np.int64) + (X[:, 1] > 0.5)
DATA = {"input": X, "labels": LABELS}


def trainer(**options: Any) -> train.Trainer:
    optimizer = options.pop("optimizer", train.AdamW(lr=0.02))
    metrics = {"accuracy": train.accuracy("logits")}
    loss = losses.cross_entropy("logits")
    return train.Trainer(MLP, loss, optimizer, metrics=metrics, threads=1, **options)


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return a.keys() == b.keys() and all(a[n].tobytes() == b[n].tobytes() for n in a)


def test_digits_from_scratch() -> None:
    """98 % of the digits that were held back, in seconds."""
    pytest.importorskip("sklearn")
    from models.author import build
    from models.train_digits import Digits, split

    digits, held_back = split()
    scorer = {"accuracy": train.accuracy("logits")}
    made = train.Trainer(
        build(Digits(np.random.default_rng(0)), "digits"), losses.cross_entropy("logits"),
        train.AdamW(), metrics=scorer,
    )  # fmt: skip
    steps = 12 * -(-len(digits["label"]) // 64)
    made.fit(
        (digits["image"], digits["label"]), 12, batch_size=64,
        schedule=schedules.one_cycle(1e-2, steps),
    )  # fmt: skip
    found = made.evaluate((held_back["image"], held_back["label"]))
    scores = made.predict(held_back["image"])
    right = np.mean(scores.argmax(1) == held_back["label"])
    assert found["accuracy"] == pytest.approx(right)
    assert right >= 0.98
    exported = og.Net(made.export())(held_back["image"])
    np.testing.assert_allclose(exported, scores, rtol=1e-4, atol=1e-4)


def test_as_a_loop_of_torch() -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: make torch")
    weights = {t.name: numpy_helper.to_array(t) for t in onnx.load(MLP).graph.initializer}
    p = {n: torch.nn.Parameter(torch.from_numpy(w.copy())) for n, w in weights.items()}

    def net(x: Any) -> Any:
        h = torch.tanh(x @ p["fc1.weight"].T + p["fc1.bias"])
        h = torch.relu(h @ p["fc2.weight"].T + p["fc2.bias"])
        return h @ p["fc3.weight"].T + p["fc3.bias"]

    np.testing.assert_allclose(net(torch.from_numpy(X)).detach(), og.Net(MLP)(X), atol=1e-6)
    rate = schedules.cosine(0.05, 20)
    mine = trainer(optimizer=train.AdamW(lr=0.05))
    history = mine.fit(DATA, 5, batch_size=16, schedule=rate, shuffle=False)
    optimizer, step = torch.optim.AdamW(p.values(), lr=0.05), 0
    for epoch in range(5):
        total = 0.0
        for start in range(0, 50, 16):
            x, y = (torch.from_numpy(a[start : start + 16]) for a in (X, LABELS))
            optimizer.param_groups[0]["lr"] = rate(step)
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(net(x), y)
            loss.backward()
            optimizer.step()
            total, step = total + loss.item() * len(x), step + 1
        assert history[epoch]["loss"] == pytest.approx(total / 50, rel=1e-4)
    for name, parameter in p.items():
        np.testing.assert_allclose(mine.state[name], parameter.detach(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("runtime", ["onnxruntime", "reference"])
def test_resumed_to_the_same_bits(runtime: str, tmp_path: Path) -> None:
    path, options = tmp_path / "run.onnx", {"batch_size": 16, "validation": DATA}
    options["schedule"] = schedules.cosine(0.05, 16)
    options["early_stopping"] = train.EarlyStopping(patience=4, restore_best=True)
    kind = {"runtime": runtime, "seed": 7}
    if runtime == "reference":
        kind["threads"] = None
    whole = _made(kind)
    whole.fit(DATA, 4, **options)
    first = _made(kind)
    first.fit(DATA, 2, **options | {"early_stopping": None}, checkpoint=path)
    again = _made(kind | {"seed": 1})
    again.resume(path)
    assert (again.epoch, again.steps, again.history) == (2, 8, whole.history[:2])
    again.fit(DATA, 4, **options)
    assert again.history == whole.history
    assert same(again.state, whole.state)


def _made(options: dict[str, Any]) -> train.Trainer:
    given = {"threads": 1} | options
    loss = losses.cross_entropy("logits")
    return train.Trainer(MLP, loss, train.AdamW(lr=0.02), **given)


def test_resumed_in_the_middle_of_an_epoch(tmp_path: Path) -> None:
    def breaking(step: int) -> float:
        if step == 6:
            raise KeyboardInterrupt
        return 0.02

    whole, cut, again = trainer(), trainer(), trainer()
    whole.fit(DATA, 3, batch_size=16)
    with pytest.raises(KeyboardInterrupt):
        cut.fit(DATA, 3, batch_size=16, schedule=breaking)
    assert (cut.epoch, cut.batch, cut.steps) == (1, 2, 6)
    cut.checkpoint(tmp_path / "cut.onnx")
    again.resume(tmp_path / "cut.onnx")
    again.fit(DATA, 3, batch_size=16)
    assert same(again.state, whole.state) and again.history == whole.history
    cut.resume(tmp_path / "cut.onnx")
    cut.fit(DATA, 3, batch_size=16)
    assert same(cut.state, whole.state)


def test_the_best_state_is_part_of_a_checkpoint(tmp_path: Path) -> None:
    path, stop = tmp_path / "run.onnx", train.EarlyStopping(patience=3, restore_best=True)
    worse = (X, 2 - LABELS)  # the better the net, the worse its loss here
    whole, again = trainer(), trainer()
    states = []
    whole.fit(
        DATA, 9, batch_size=16, validation=worse, early_stopping=stop, checkpoint=path,
        callbacks=[lambda t, record: states.append(t.state)],
    )  # fmt: skip
    values = [record["val_loss"] for record in whole.history]
    best = int(np.argmin(values))
    assert len(values) == best + 4 < 9
    assert same(whole.state, states[best]) and not same(whole.state, states[-1])
    again.resume(path)
    again.fit(DATA, 9, batch_size=16, validation=worse, early_stopping=stop)
    assert same(again.state, whole.state)


def test_kinds_of_data(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", **DATA)
    batches = [{n: a[k : k + 16] for n, a in DATA.items()} for k in range(0, 50, 16)]
    kinds = [
        DATA, (X, LABELS), tmp_path / "data.npz", str(tmp_path / "data.npz"), batches,
        [tuple(batch.values()) for batch in batches], iter(batches),
    ]  # fmt: skip
    states = []
    for kind in kinds:
        made = trainer()
        made.fit(kind, batch_size=16, shuffle=False)
        assert made.steps == 4
        states.append(made.state)
    assert all(same(state, states[0]) for state in states)
    shuffled = trainer()
    shuffled.fit(DATA, batch_size=16)
    assert not same(shuffled.state, states[0])
    few = trainer()
    few.fit(DATA, batch_size=16, drop_last=True)
    assert few.steps == 3


def test_evaluate_and_predict() -> None:
    made = trainer()
    found = made.evaluate(DATA, batch_size=7)
    scores = og.Net(MLP)(X)
    np.testing.assert_allclose(made.predict(X, batch_size=7), scores, rtol=1e-5, atol=1e-6)
    shifted = scores.astype(np.float64) - np.log(np.exp(scores).sum(1, keepdims=True))
    assert found["loss"] == pytest.approx(-shifted[np.arange(50), LABELS].mean(), rel=1e-5)
    assert found["accuracy"] == pytest.approx((scores.argmax(1) == LABELS).mean())
    largest = {"largest": lambda outputs, batch: outputs["logits"].max() - len(batch["labels"])}
    other = train.Trainer(MLP, losses.cross_entropy("logits"), train.SGD(), metrics=largest)
    assert other.evaluate(DATA, batch_size=50)["largest"] == pytest.approx(scores.max() - 50)


def test_a_fixed_batch() -> None:
    model = onnx.load(MLP)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 10
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 10
    made = train.Trainer(model, losses.cross_entropy("logits"), train.SGD())
    made.fit(DATA)
    assert made.steps == 5
    few, before = {n: a[:48] for n, a in DATA.items()}, made.state
    for call in (lambda: made.fit(few, 2), lambda: made.evaluate(few)):
        with pytest.raises(og.FeedError, match=r"batches of 10, and 48 .* of 8: give drop_last"):
            call()
    assert same(made.state, before)
    made.fit(few, 2, drop_last=True, validation=few)
    assert made.steps == 9
    tens = {n: a[:40] for n, a in DATA.items()}
    assert made.evaluate(few, drop_last=True) == made.evaluate(tens)
    whole = og.Net(made.export())
    rows = np.concatenate([whole(X[k : k + 10]) for k in range(0, 50, 10)])
    for given in (X[:48], [X[:10], X[10:13]]):
        count = sum(map(len, given)) if isinstance(given, list) else len(given)
        np.testing.assert_allclose(made.predict(given), rows[:count], rtol=1e-5, atol=1e-6)


def test_a_bar_with_loss_and_rate(capsys: Any) -> None:
    made = trainer()
    made.fit(DATA, batch_size=16)
    assert not capsys.readouterr().err  # it is no terminal
    made.fit(DATA, 2, batch_size=16, progress=True)
    shown = capsys.readouterr().err
    assert "epoch 2/2" in shown and "loss" in shown and "examples/s" in shown and "4/4" in shown
    made.fit(DATA, 3, batch_size=16, progress=False)
    assert not capsys.readouterr().err


def test_options_of_the_step() -> None:
    made = trainer(accumulate=2, clip_grad_norm=0.1, groups=[train.Group("fc1.*", frozen=True)])
    made.fit(DATA, batch_size=16)
    assert made.state["step"] == 2 and "fc1.weight" not in made.state
    assert og.Net(made.export()).inputs == ("input",)


def test_adapters_are_trained_alone() -> None:
    adapted = train.lora(onnx.load(MLP), rank=2, targets="fc*")
    made = train.Trainer(adapted, losses.cross_entropy("logits"), train.AdamW(lr=0.05), threads=1)
    first = made.evaluate(DATA)["loss"]
    assert first == pytest.approx(trainer().evaluate(DATA)["loss"], rel=1e-5)
    made.fit(DATA, 5, batch_size=16)
    assert made.evaluate(DATA)["loss"] < first - 0.1
    weights = {name for name in made.state if name.endswith((".lora_A", ".lora_B"))}
    assert len(weights) == 6 and "fc1.weight" not in made.state
    scores = made.predict(X)
    np.testing.assert_allclose(og.Net(made.export())(X), scores, rtol=1e-4, atol=1e-5)
    merged = train.merge(made.export())
    np.testing.assert_allclose(og.Net(merged)(X), scores, rtol=1e-4, atol=1e-5)
    assert len(merged.graph.node) == len(onnx.load(MLP).graph.node)


def test_a_callback_ends_training() -> None:
    made, seen = trainer(), []

    def callback(one: train.Trainer, record: dict[str, float]) -> bool:
        seen.append((one.epoch, record["loss"]))
        return one.epoch == 2

    assert len(made.fit(DATA, 9, callbacks=[callback])) == 2
    assert [epoch for epoch, _ in seen] == [1, 2]


# -- what goes wrong -------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite() -> None:
    made, broken = trainer(), X.copy()
    broken[20] = np.nan
    states: list[Any] = []

    def batches() -> Any:
        for k in range(0, 50, 10):
            states.append(made.state)
            yield broken[k : k + 10], LABELS[k : k + 10]

    with pytest.raises(og.TrainingError, match=r"loss is nan at batch 3 of epoch 1 \(step 2"):
        made.fit(batches())
    assert same(made.state, states[2]) and np.isfinite(made.predict(X)).all()
    made.fit(DATA, 2)


def test_a_gradient_that_is_not_finite() -> None:
    """The loss of this batch is finite still; the weights behind it would not be."""
    model = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 21]> g (float[N,1] x) => (float[N,1] y)'
        " <float[1,1] w = {0}> { h = MatMul(x, w) y = Sqrt(h) }"
    )
    made = train.Trainer(model, losses.mse("y"), train.SGD())
    with pytest.raises(og.TrainingError, match="gradient's norm is"):
        made.fit((np.ones((2, 1), np.float32), np.ones((2, 1), np.float32)))
    assert made.state["w"] == 0


def test_labels_out_of_range() -> None:
    made = trainer()
    made.fit(DATA)
    before = made.state
    says = "The labels 'labels' are from {} to {}, and 'logits' has 3 classes"
    for shift, label in ((1, (1, 3)), (-1, (-1, 1))):
        with pytest.raises(og.FeedError, match="batch 1 of epoch 2: .*" + says.format(*label)):
            made.fit((X, LABELS + shift), 2)
        with pytest.raises(og.FeedError, match="batch 1: .*" + says.format(*label)):
            made.evaluate((X, LABELS + shift))
    with pytest.raises(og.FeedError, match="float64") as caught:
        made.fit((X.astype(np.float64), LABELS), 2)
    assert "classes" not in str(caught.value)
    assert same(made.state, before)


def test_a_state_of_another_model(tmp_path: Path) -> None:
    made = trainer()
    made.fit(DATA, checkpoint=tmp_path / "run.onnx")
    before = made.state
    made.state = {"fc1.bias": before["fc1.bias"] + 1}
    assert (made.state["fc1.bias"] == before["fc1.bias"] + 1).all()
    for state, says in (
        ({"fc9.bias": np.zeros(3)}, "nothing is called 'fc9.bias'"),
        ({"fc1.bias": np.zeros(3, np.float32)}, "shape"),
        ([1], "arrays by name"),
    ):
        with pytest.raises(og.ArgumentError, match=says):
            made.state = state  # type: ignore[assignment]
    other = trainer(optimizer=train.SGD(momentum=0.9))
    with pytest.raises(og.ArgumentError, match="another optimizer"):
        other.resume(tmp_path / "run.onnx")
    plain = trainer(optimizer=train.SGD())
    with pytest.raises(og.ArgumentError, match="another optimizer"):
        plain.resume(tmp_path / "run.onnx")
    with pytest.raises(og.ArgumentError, match="no checkpoint"):
        made.resume(MLP)
    with pytest.raises(og.ModelError):
        made.resume(tmp_path / "none.onnx")


def test_a_full_disk(tmp_path: Path, monkeypatch: Any) -> None:
    path, made = tmp_path / "run.onnx", trainer()
    made.fit(DATA, checkpoint=path)
    before = path.read_bytes()

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(io_module.ir, "save", full)
    with pytest.raises(og.SaveError, match="No space left"):
        made.fit(DATA, 3, checkpoint=path)
    with pytest.raises(og.SaveError, match="No space left"):
        made.save(tmp_path / "trained.onnx")
    monkeypatch.undo()
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["run.onnx"]
    assert made.epoch == 2 and len(made.history) == 2  # the epoch whose checkpoint failed is kept
    made.fit(DATA, 3, checkpoint=path)
    made.save(tmp_path / "trained.onnx")
    np.testing.assert_allclose(og.Net(tmp_path / "trained.onnx")(X), made.predict(X), atol=1e-6)


def test_a_checkpoint_is_a_model_that_any_runtime_reads(tmp_path: Path) -> None:
    made = trainer()
    made.fit(DATA, checkpoint=tmp_path / "run.onnx")
    proto = onnx.load(tmp_path / "run.onnx")
    onnx.checker.check_model(proto, full_check=True)
    stood = json.loads({p.key: p.value for p in proto.metadata_props}["onnxgrad.trainer"])
    assert stood["epoch"] == 1 and not proto.graph.input
    found = og.Net(proto, runtime="reference")({})
    assert same(found, made.state)


@pytest.mark.parametrize(
    "data, says",
    [
        ({"input": X}, "'labels'"),
        ({"input": X, "labels": LABELS, "more": X}, "more"),
        ((X,), "1 arrays"),
        ((X, LABELS[:-1]), "same number of examples"),
        ((X[:0], LABELS[:0]), "same number of examples"),
        ((X.astype(np.float64), LABELS), "float64"),
        ((X, LABELS.astype(np.float32)), "float32"),
        ((X[:, :3], LABELS), "shape"),
        ([], "no batches"),
        (3, "the data is"),
        (str(MLP), "npz"),
        ("none.npz", "none.npz"),
    ],
    ids=str,
)
def test_mistaken_data(data: Any, says: str) -> None:
    made = trainer()
    before = made.state
    with pytest.raises(og.OnnxGradError, match=says):
        made.fit(data)
    assert same(made.state, before)


def test_the_batch_axis_counts_examples() -> None:
    """The first input of this net is a table of a fixed size, the same for each batch."""
    model = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 21]>'
        " g (float[3,1] table, float[N,3] x) => (float[N,1] y)"
        " <float[1,1] w = {1}> { h = MatMul(x, table) y = MatMul(h, w) }"
    )
    made = train.Trainer(model, losses.mse("y"), train.SGD(lr=0.0))
    table = np.ones((3, 1), np.float32)
    batches = [
        {"table": table, "x": X[:n, :3], "labels": np.zeros((n, 1), np.float32)} for n in (2, 40)
    ]
    each = [float(np.mean((b["x"] @ table) ** 2)) for b in batches]
    mean = (2 * each[0] + 40 * each[1]) / 42
    assert made.fit(batches)[0]["loss"] == pytest.approx(mean, rel=1e-5)
    assert made.evaluate(batches)["loss"] == pytest.approx(mean, rel=1e-5)


@pytest.mark.parametrize("batch", ["N", "4"])
def test_an_output_without_a_batch_axis_is_whole(batch: str) -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 21]>'
        f" g (float[{batch},3] x) => (float[{batch},1] y, float[3,1] z)"
        " <float[3,1] w = {1, 2, 3}> { y = MatMul(x, w) z = Neg(w) }"
    )
    found = train.Trainer(model, losses.mse("y"), train.SGD()).predict(X[:2, :3])
    np.testing.assert_allclose(found["z"], [[-1], [-2], [-3]])
    np.testing.assert_allclose(found["y"], X[:2, :3] @ [[1], [2], [3]], rtol=1e-5)


def test_fewer_batches_than_an_update_takes() -> None:
    made = trainer(accumulate=5)
    with pytest.warns(UserWarning, match="accumulate=5: the 2 batches"):
        made.fit(DATA, batch_size=25)
    assert made.state["step"] == 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made.fit(DATA, 3, batch_size=25)
    assert made.state["step"] == 1


@pytest.mark.parametrize("number", [0, -1, 1.5, "8", True])
def test_numbers_that_count(number: Any) -> None:
    made = trainer()
    for call in (made.fit, made.evaluate, made.steps_of):
        with pytest.raises(og.ArgumentError, match="batch_size is a whole number, 1 or more"):
            call(DATA, batch_size=number)
    if number != 0:
        with pytest.raises(og.ArgumentError, match="epochs is a whole number, 0 or more"):
            made.fit(DATA, number)
        for name in ("seed", "threads"):
            if number is not True:
                with pytest.raises(og.ArgumentError, match=f"{name} is a whole number"):
                    train.Trainer(MLP, losses.mse("logits"), train.SGD(), **{name: number})


@pytest.mark.parametrize("metric", [train.accuracy("logits"), lambda outputs, batch: 1.0])
def test_a_metric_of_the_name_of_the_loss(metric: Any) -> None:
    with pytest.raises(og.ArgumentError, match=r"'loss'.*another name"):
        train.Trainer(MLP, losses.cross_entropy(), train.SGD(), metrics={"loss": metric})


@pytest.mark.parametrize("content", ["a", 1j, None], ids=str)
def test_a_state_of_no_numbers(content: Any) -> None:
    state, made = {"fc1.bias": np.full(16, content)}, trainer()
    with pytest.raises(og.ArgumentError, match=r"'fc1\.bias'.*not real numbers"):
        made.state = state
    with pytest.raises(og.ArgumentError, match=r"'fc1\.bias'.*not real numbers"):
        train.export(MLP, state)


def test_other_mistakes() -> None:
    made = trainer()
    with pytest.raises(og.ArgumentError, match="iterator"):
        made.fit(iter([DATA]), 2)
    with pytest.raises(og.ArgumentError, match="no 'val_loss' in the records"):
        made.fit(DATA, 9, early_stopping=train.EarlyStopping())
    with pytest.raises(og.FeedError, match="less than a batch"):
        made.fit(DATA, 9, batch_size=60, drop_last=True)
    for options, says in (({"mode": "least"}, "mode"), ({"patience": 0.5}, "whole number, 1")):
        with pytest.raises(og.ArgumentError, match=says):
            train.EarlyStopping(**options)
    with pytest.raises(og.ArgumentError, match="runtime"):
        train.Trainer(MLP, losses.cross_entropy("logits"), train.SGD(), runtime="none")


# -- privacy ---------------------------------------------------------------------------------------


def _noised(seed: int | None = None) -> train.Trainer:
    privacy = train.DPSGD(noise_multiplier=1e4, max_grad_norm=1, seed=seed)
    return trainer(optimizer=train.SGD(lr=1.0), privacy=privacy)


def _moves(one: train.Trainer, steps: int) -> list[np.ndarray]:
    """What each step adds to all weights, which is noise for the most part."""
    found = []
    for _ in range(steps):
        before = one.state
        one.fit((X[:8], LABELS[:8]), one.epoch + 1, batch_size=8)
        after = one.state
        moved = [(after[n] - before[n]).ravel() for n in before if n != "step"]
        found.append(np.concatenate(moved) * 8 / 1e4)
    return found


def test_noise_is_new_in_each_step_trainer_and_after_a_checkpoint(tmp_path: Path) -> None:
    one = _noised()
    found = _moves(one, 2)
    one.checkpoint(tmp_path / "c.onnx")
    for _ in range(2):
        other = _noised()
        other.resume(tmp_path / "c.onnx")
        found += _moves(other, 1)
    found += _moves(_noised(), 1)
    correlations = np.abs(np.corrcoef(found) - np.eye(len(found)))
    assert correlations.max() < 5 / np.sqrt(found[0].size)
    assert abs(np.std(found) - 1) < 0.1


def test_noise_of_a_seed_is_resumed_to_the_same_bits(tmp_path: Path) -> None:
    one, other = _noised(3), _noised(3)
    first, second = _moves(one, 2)
    _moves(other, 1)
    other.checkpoint(tmp_path / "c.onnx")
    again = _noised(3)
    again.resume(tmp_path / "c.onnx")
    (moved,) = _moves(again, 1)
    np.testing.assert_array_equal(moved, second)
    assert abs(np.corrcoef(first, second)[0, 1]) < 5 / np.sqrt(first.size)


# -- modes -----------------------------------------------------------------------------------------


def _exported_for_training(operator: str, opset: int = 17) -> onnx.ModelProto:
    """A net whose file has its operator in training mode."""
    model = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : {opset}]> g (float[N,4] x) => (float[N,3] logits) '
        "<float[4] s = {1, 2, 3, 4}, float[4] o = {0, 1, 0, 1}, float[4] mean = {0, 0, 0, 0}, "
        "float[4] var = {1, 1, 1, 1}, float half = {0.5}, bool on = {1}> "
        f"{{ {operator} logits = MatMul(n, w) }}"
    )
    w = np.random.default_rng(1).standard_normal((4, 3)).astype(np.float32)
    model.graph.initializer.append(numpy_helper.from_array(w, "w"))
    return model


BATCH_NORM = "n, m, v = BatchNormalization<training_mode = 1>(x, s, o, mean, var)"
DROPOUT = "k = Identity(x) n = Dropout(k, half, on)"


def _expected(state: dict[str, np.ndarray], mode: str) -> np.ndarray:
    n = 3 * X + 2
    if mode == "batch_norm":
        n = (n - state["mean"]) / np.sqrt(state["var"] + 1e-5) * state["s"] + state["o"]
    found: np.ndarray = n @ state["w"]
    return found


@pytest.mark.parametrize("kind", ["message", "path", "bytes", "ir"])
@pytest.mark.parametrize("mode, body", [("batch_norm", BATCH_NORM), ("dropout", DROPOUT)])
def test_what_is_no_step_computes_as_in_inference(
    mode: str, body: str, kind: str, tmp_path: Path
) -> None:
    proto, path = _exported_for_training(body), tmp_path / "net.onnx"
    onnx.save(proto, path)
    kinds = {"path": path, "bytes": path.read_bytes(), "ir": ir.load(path)}
    options: dict[str, Any] = {mode: "train"}
    loss = losses.cross_entropy("logits")
    made = train.Trainer(kinds.get(kind, proto), loss, train.Adam(lr=0.05), **options)
    made.fit((3 * X + 2, LABELS), 3)
    expected = _expected(made.state, mode)
    if mode == "batch_norm":
        assert made.state["mean"].min() > 0.5
    scores = np.log(np.exp(expected).sum(1)) - expected[np.arange(50), LABELS]
    for size in (50, 8, 1):
        found = made.evaluate((3 * X + 2, LABELS), batch_size=size)
        assert found["loss"] == pytest.approx(scores.mean(), rel=1e-4)
        predicted = made.predict(3 * X + 2, batch_size=size)
        np.testing.assert_allclose(predicted, expected, rtol=1e-4, atol=1e-4)
    made.save(tmp_path / "saved.onnx")
    for net in (made.export(), tmp_path / "saved.onnx"):
        np.testing.assert_allclose(og.Net(net)(3 * X + 2), expected, rtol=1e-4, atol=1e-4)
        assert np.abs(og.Net(net)(X[:1]) - og.Net(net)(X)[:1]).max() < 1e-4
    onnx.checker.check_model(str(tmp_path / "saved.onnx"), full_check=True)


@pytest.mark.parametrize("mode, body", [("batch_norm", BATCH_NORM), ("dropout", DROPOUT)])
def test_files_that_are_no_step_compute_as_in_inference(
    mode: str, body: str, tmp_path: Path
) -> None:
    proto, options = _exported_for_training(body), {mode: "train"}
    train.artifacts(proto, tmp_path, losses.cross_entropy("logits"), train.Adam(), **options)
    first = og.Net(tmp_path / "init.onnx")({})
    for name in ("infer", "eval"):
        net = og.Net(tmp_path / f"{name}.onnx")
        moved = dict(first) | ({"mean": first["mean"] + 5} if mode == "batch_norm" else {})
        feeds = {port: moved[port] for port in net.inputs if port in moved} | {"x": 3 * X + 2}
        found = net(feeds | ({"labels": LABELS} if name == "eval" else {}))
        found = found["logits"] if isinstance(found, dict) else found
        initial = {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}
        np.testing.assert_allclose(found, _expected(initial | moved, mode), rtol=1e-4, atol=1e-4)


def test_frozen_modes_are_those_of_the_file() -> None:
    proto = _exported_for_training(BATCH_NORM)
    made = train.Trainer(proto, losses.cross_entropy("logits"), train.SGD(lr=0.1))
    made.fit((X, LABELS), 1)
    exported = made.export()
    assert exported.graph.node == proto.graph.node
    turned = train.export(proto, {"w": np.zeros((4, 3), np.float32)}, inference=True)
    onnx.checker.check_model(turned, full_check=True)
    assert not og.Net(turned)(X).any()


def test_running_statistics_that_are_outputs() -> None:
    proto = _exported_for_training(BATCH_NORM)
    proto.graph.output.append(onnx.helper.make_tensor_value_info("m", 1, [4]))
    turned = train.export(proto, {"mean": np.full(4, 7, np.float32)}, inference=True)
    onnx.checker.check_model(turned, full_check=True)
    np.testing.assert_array_equal(og.Net(turned)(X)["m"], np.full(4, 7, np.float32))
