"""Whatever happens while files are written, those that are there belong together."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import sys
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import onnxgrad as og
from onnxgrad.graph import io
from onnxgrad.graph import stage as stage_module
from onnxgrad.graph.shared import save_together

FORK = pytest.mark.skipif(not hasattr(os, "fork"), reason="no process can be forked or killed so")


def net(content: float, name: str = "w", size: int = 600) -> onnx.ModelProto:
    """y = x + w, of which all elements of w are `content`."""
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", name], ["y"])],
        f"content {content}",
        [helper.make_tensor_value_info("x", 1, [size])],
        [helper.make_tensor_value_info("y", 1, [size])],
        [numpy_helper.from_array(np.full(size, content, np.float32), name)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def write(what: str, folder: str | Path, content: float) -> None:
    if what == "one":
        og.save(net(content), Path(folder) / "m.onnx", external_data=True)
    else:
        models = {f"{n}.onnx": ir.from_proto(net(content, n, 500 + ord(n))) for n in "abc"}
        save_together(models, folder, external_data=what == "apart")


def contents(folder: Path) -> set[float]:
    """The weights of all models in a folder, each of which says which it was written with."""
    found = set()
    for path in folder.glob("*.onnx"):
        size = onnx.load(path, load_external_data=False).graph.input[0].type.tensor_type.shape
        x = np.zeros(size.dim[0].dim_value, np.float32)
        (y,) = ReferenceEvaluator(str(path)).run(None, {"x": x})
        written = onnx.load(path).graph.name
        assert (y == y[0]).all() and written == f"content {float(y[0])}"
        found.add(float(y[0]))
    return found


def start(work: Callable[..., None], *arguments: object) -> BaseProcess:
    """A process of a function of this module.

    A server without threads forks it: the child of a process with threads, which runtimes start,
    may wait for one of them forever.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    process = context.Process(target=work, args=arguments)
    process.start()
    return process


def ended(process: BaseProcess) -> int | None:
    """The number that a process ended with, or the signal that killed it, as a negative number."""
    process.join(60)
    return process.exitcode


def write_and_die(what: str, folder: Path, count: int) -> None:
    """Save, and die at the nth move; else end with the number of moves."""
    moves: list[object] = []
    real = os.replace

    def replace(source: str, target: str) -> None:
        moves.append(target)
        if len(moves) == count:
            os.kill(os.getpid(), signal.SIGKILL)
        real(source, target)

    os.replace = replace  # type: ignore[assignment]
    write(what, folder, 2.0)
    sys.exit(len(moves))


def write_often(folder: Path, content: float) -> None:
    for _ in range(30):
        write("one", folder, content)
    sys.exit(7)


@FORK
@pytest.mark.parametrize("what", ["one", "apart", "embedded"])
def test_a_killed_save_leaves_models_with_their_own_weights(what: str, tmp_path: Path) -> None:
    count, made, whole = 0, -signal.SIGKILL, 1 if what == "one" else 3
    while made == -signal.SIGKILL:
        count += 1
        folder = tmp_path / str(count)
        folder.mkdir()
        write(what, folder, 1.0)
        made = ended(start(write_and_die, what, folder, count))
        assert contents(folder) in ([{1.0}, {2.0}] if what == "one" else [{1.0}, {2.0}, set()])
        left = [path.name for path in folder.iterdir() if path.name.startswith(".")]
        assert len(left) == (made == -signal.SIGKILL)
        write(what, folder, 3.0)  # which sweeps up
        assert contents(folder) == {3.0}
        assert len(list(folder.iterdir())) == whole + (what != "embedded")
    assert made == count - 1 == {"one": 3, "apart": 8, "embedded": 6}[what]


@FORK
def test_two_writers_do_not_mix(tmp_path: Path) -> None:
    write("one", tmp_path, 1.0)
    writers = [start(write_often, tmp_path, content) for content in (1.0, 2.0)]
    for _ in range(100):
        try:
            model = onnx.load(tmp_path / "m.onnx")
        except (FileNotFoundError, onnx.checker.ValidationError):
            continue  # replaced since its header was read
        (w,) = model.graph.initializer
        assert model.graph.name == f"content {float(numpy_helper.to_array(w)[0])}"
    assert [ended(writer) for writer in writers] == [7, 7]
    write("one", tmp_path, 3.0)
    assert contents(tmp_path) == {3.0}
    assert len(list(tmp_path.iterdir())) == 2


def test_a_save_leaves_the_stage_of_a_writer_that_lives(tmp_path: Path) -> None:
    with stage_module.staged(tmp_path, "another") as stage:
        (stage / "file").write_text("half")
        write("one", tmp_path, 1.0)
        write("one", tmp_path, 2.0)
        assert (stage / "file").exists()
        assert len(list(tmp_path.glob("*.data"))) == 2  # the other may be about to refer to it
    write("one", tmp_path, 2.0)
    assert len(list(tmp_path.glob("*.data"))) == 1


def test_old_data_goes_only_where_nothing_refers_to_it(tmp_path: Path) -> None:
    foreign = ["m.onnx.0123456789abcdef.data.bak", "m.onnx.data", "o.onnx.0123456789abcdef.data"]
    for name in foreign:
        (tmp_path / name).write_text("mine")
    (tmp_path / "m.onnx.0123456789abcdef.data").write_text("left by a killed save")
    write("one", tmp_path, 1.0)
    shutil.copy(tmp_path / "m.onnx", tmp_path / "copy.onnx")
    write("one", tmp_path, 2.0)
    assert len(list(tmp_path.glob("m.onnx.*.data"))) == 2  # the copy's too
    assert contents(tmp_path) == {1.0, 2.0}
    (tmp_path / "copy.onnx").unlink()
    og.save(net(1.0), tmp_path / "m.onnx")
    assert sorted(os.listdir(tmp_path)) == ["m.onnx", *foreign]


def test_a_model_that_is_saved_over_itself_can_still_be_read(tmp_path: Path) -> None:
    write("one", tmp_path, 1.0)
    model = io.load(tmp_path / "m.onnx")
    changed = io.load(model)
    changed.graph.inputs[0].name = "z"
    io.save(changed, tmp_path / "m.onnx")
    tensor = model.graph.initializers["w"].const_value
    assert tensor is not None and tensor.numpy()[0] == 1


def test_equal_weights_lie_in_a_file_once_and_those_of_branches_too(tmp_path: Path) -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 21]> g (bool c, float[600] x) => (float[600] y) {'
        " b = If (c) <then_branch = t () => (float[600] p) { p = Add(x, v) },"
        " else_branch = e () => (float[600] q) { q = Add(x, u) }> y = Add(b, w) }"
    )
    same = np.arange(600, dtype=np.float32)
    model.graph.initializer.append(numpy_helper.from_array(same, "w"))
    for branch, name in zip(model.graph.node[0].attribute, "vu", strict=True):
        branch.g.initializer.append(numpy_helper.from_array(same + (name == "u"), name))
    io.save(model, tmp_path / "m.onnx", external_data=True)
    (data,) = tmp_path.glob("*.data")
    assert data.stat().st_size == 4096 + 2400
    for c in (True, False):
        feeds = {"c": np.array(c), "x": same}
        expected = ReferenceEvaluator(model).run(None, feeds)[0]
        np.testing.assert_array_equal(og.Net(tmp_path / "m.onnx")(feeds), expected)


def test_a_failed_move_puts_all_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.replace
    for failing in range(1, 20):
        folder = tmp_path / str(failing)
        folder.mkdir()
        write("embedded", folder, 1.0)
        (folder / "b.onnx").unlink()
        moves: list[object] = []

        def replace(source: object, target: object, moves=moves, failing=failing) -> None:  # type: ignore[no-untyped-def]
            moves.append(target)
            if len(moves) == failing:
                raise OSError(28, "No space left on device")
            real(source, target)  # type: ignore[arg-type]

        monkeypatch.setattr(os, "replace", replace)
        try:
            write("embedded", folder, 2.0)
        except og.SaveError as error:
            assert "No space left" in str(error)
        else:
            assert failing == 6 and contents(folder) == {2.0}
            return
        assert sorted(os.listdir(folder)) == ["a.onnx", "c.onnx"] and contents(folder) == {1.0}
    raise AssertionError("it always failed")


@pytest.mark.parametrize("what", ["one", "apart"])
def test_data_that_windows_lets_nobody_replace(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that is mapped stays where it has the same content, and is an error where not."""
    folder, real = tmp_path if what == "one" else tmp_path / "models", os.replace

    def replace(source: Any, target: Any) -> None:
        if str(target).endswith(".data") and os.path.exists(target):
            raise PermissionError(13, "Permission denied")
        real(source, target)

    write(what, folder, 1.0)
    monkeypatch.setattr(os, "replace", replace)
    write(what, folder, 1.0)
    assert contents(folder) == {1.0}
    (data,) = folder.glob("*.data")
    data.write_bytes(b"other")
    with pytest.raises(og.SaveError, match="Permission denied"):
        write(what, folder, 1.0)
