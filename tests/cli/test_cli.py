"""The command line: exit codes, one line for a refusal, and files that are right or not there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import onnx.reference
import pytest
from onnx import helper, numpy_helper
from PIL import Image

import onnxgrad as og
from onnxgrad import cli
from onnxgrad.cli.files import whole

W = np.array([[1, -2], [3, 0.5], [-1, 2]], np.float32)
X = np.array([[1, 2, 3], [-1, 0, 1]], np.float32)


class Result(NamedTuple):
    code: int
    out: str
    err: str


Run = Callable[..., Result]


def caller(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *first: str) -> Run:
    """Calls the command line; `first` stands before all arguments."""

    def call(*arguments: str) -> Result:
        monkeypatch.setattr(sys, "argv", ["onnxgrad", *first, *arguments])
        with pytest.raises(SystemExit) as stop:
            cli.main()
            raise SystemExit(0)
        captured = capsys.readouterr()
        return Result(int(stop.value.code or 0), captured.out, captured.err)

    return call


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """The command line in a folder with a few files."""
    monkeypatch.chdir(tmp_path)
    save("linear.onnx", [helper.make_node("MatMul", ["x", "w"], ["y"])], {"x": ["N", 3]}, {"w": W})
    save("two.onnx", [helper.make_node("Mul", ["a", "b"], ["y"])], {"a": ["N"], "b": ["N"]}, {})
    save("image.onnx", [helper.make_node("Identity", ["x"], ["y"])], {"x": ["N", 3, 4, 6]}, {})
    np.save("x.npy", X)
    return caller(monkeypatch, capsys)


def save(
    path: str,
    nodes: list[onnx.NodeProto],
    inputs: dict[str, list[str | int]],
    weights: dict[str, np.ndarray],
) -> None:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(n, 1, shape) for n, shape in inputs.items()],
        [helper.make_tensor_value_info("y", 1, None)],
        [numpy_helper.from_array(w, n) for n, w in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    Path(path).write_bytes(model.SerializeToString())


def refused(result: Result, *words: str) -> None:
    assert result.code == 1
    assert len(result.err.splitlines()) == 1
    assert result.err.startswith("onnxgrad: ")
    assert all(word in result.err for word in words)


def test_version_and_usage(run: Run) -> None:
    commands = run("--help").out.partition("Commands:")[2]
    assert "per-example-gradient" in commands and "..." not in commands  # none is cut off
    assert run("--version") == (0, f"onnxgrad {og.__version__}\n", "")
    assert run("gradient", "linear.onnx").code == 2
    assert run("nothing").code == 2
    assert run("check", "linear.onnx", "--dim", "N").code == 2
    unknown = run("check", "linear.onnx", "--dim", "M=2")
    message = "--dim: the inputs have no dimension 'M'. They have 'N'."
    assert (unknown.code, unknown.err) == (1, f"onnxgrad: {message}\n")


def test_gradient(run: Run) -> None:
    result = run("gradient", "linear.onnx", "-o", "out.onnx", "--wrt", "x", "--wrt", "w")
    assert result.code == 0
    assert "w_grad" in result.out
    model = onnx.load("out.onnx")
    assert [o.name for o in model.graph.output] == ["y", "x_grad", "w_grad"]
    found = onnx.reference.ReferenceEvaluator(model).run(None, {"x": X})
    np.testing.assert_allclose(found[1], np.tile(W.sum(1), (2, 1)), rtol=1e-6)
    np.testing.assert_allclose(found[2], np.tile(X.sum(0)[:, None], 2), rtol=1e-6)


def test_gradient_options(run: Run) -> None:
    assert run("gradient", "linear.onnx", "-o", "a.onnx", "--wrt", "all", "--no-forward").code == 0
    assert [o.name for o in onnx.load("a.onnx").graph.output] == ["x_grad", "w_grad"]
    assert run("gradient", "linear.onnx", "-o", "b.onnx", "--ograd").code == 0
    assert [i.name for i in onnx.load("b.onnx").graph.input] == ["x", "y_ograd"]
    assert run("gradient", "linear.onnx", "-o", "c.onnx", "--ograd-at", "y").code == 0
    assert [i.name for i in onnx.load("c.onnx").graph.input] == ["x", "y_ograd"]
    refused(run("gradient", "two.onnx", "-o", "d.onnx", "--wrt", "a", "--of", "b"), "'a'")
    assert (
        run("gradient", "two.onnx", "-o", "d.onnx", "--wrt", "a", "--of", "b", "--zeros").code == 0
    )


def test_straight_through(run: Run) -> None:
    save("round.onnx", [helper.make_node("Round", ["x"], ["y"])], {"x": ["N"]}, {})
    advice = "give --zeros. For a straight-through gradient give --straight-through Round."
    refused(run("gradient", "round.onnx", "-o", "g.onnx"), advice)
    for through in ("Round", "all"):
        passed = run("gradient", "round.onnx", "-o", "g.onnx", "--straight-through", through)
        assert passed.code == 0, passed.err
    assert og.Net("g.onnx")(np.ones(2, np.float32))["x_grad"].tolist() == [1, 1]


def test_run_of_one_output(run: Run) -> None:
    nodes = [helper.make_node("Neg", ["x"], ["l"]), helper.make_node("Softmax", ["l"], ["y"])]
    save("softmax.onnx", nodes, {"x": ["N", 3]}, {})
    command = ["run", "softmax.onnx", "x.npy", "--grad", "x", "-o", "r.npz"]
    assert run(*command, "--of", "l").code == 0
    assert np.load("r.npz")["x_grad"].tolist() == [[-1, -1, -1]] * 2


def test_constant(run: Run) -> None:
    """A tensor through which no gradient flows, in each command that differentiates."""
    nodes = [helper.make_node("Exp", ["x"], ["h"]), helper.make_node("Mul", ["h", "x"], ["y"])]
    save("exp.onnx", nodes, {"x": ["N"]}, {})
    np.save("one.npy", np.ones(1, np.float32))
    kept = ["--constant", "h"]
    assert run("gradient", "exp.onnx", "-o", "g.onnx", *kept).code == 0
    x = np.ones(1, np.float32)
    assert og.Net("g.onnx")(x)["x_grad"] == np.float32(np.e)
    assert run("run", "exp.onnx", "one.npy", "--grad", "x", *kept, "-o", "r.npz").code == 0
    assert np.load("r.npz")["x_grad"] == np.float32(np.e)
    held, free = (run("check", "exp.onnx", "one.npy", *given) for given in (kept, []))
    assert held.code == free.code == 0
    assert held.out != free.out
    assert "'h' is constant" in run("inspect", "exp.onnx", *kept).out
    refused(run("hessian", "exp.onnx", "-o", "h.onnx", *kept, "--constant", "y"), "constant: 'h'")


@pytest.mark.parametrize(
    "command, options, inputs, outputs",
    [
        ("vjp", [], ["x", "y_ograd"], ["y", "x_grad"]),
        ("jvp", ["--wrt", "all"], ["x", "x_tangent", "w_tangent"], ["y", "y_tangent"]),
        ("hvp", ["--wrt", "x", "--wrt", "w"], ["x", "x_tangent", "w_tangent"], ["x_hvp", "w_hvp"]),
        ("jacobian", ["--mode", "forward", "--of", "y"], ["x"], ["y", "y_x_jacobian"]),
        ("jacobian", ["--batched"], ["x"], ["y", "y_x_jacobian"]),
        ("hessian", ["--zeros", "--ograd"], ["x", "y_ograd"], ["x_x_hessian"]),
        ("hessian", ["--zeros", "--batched-at", "x"], ["x"], ["x_x_hessian"]),
        ("per-example-gradient", ["--batched", "x"], ["x"], ["y", "w_grad"]),
        ("vmap", ["--batch", "B"], ["x"], ["y"]),
        ("gradient", ["--minus"], ["x"], ["y", "x_grad"]),
        ("vjp", ["--wrt", "x", "--minus-at", "x"], ["x", "y_ograd"], ["y", "x_grad"]),
        ("to-double", [], ["x"], ["y"]),
    ],
)
def test_transforms(
    run: Run, command: str, options: list[str], inputs: list[str], outputs: list[str]
) -> None:
    if "hvp" in outputs[0] or command == "hessian":
        options = [*options, "--no-forward"]
    result = run(command, "linear.onnx", "-o", "out.onnx", *options)
    assert (result.code, result.err) == (0, "")
    model = onnx.load("out.onnx")
    assert [i.name for i in model.graph.input] == inputs
    assert [o.name for o in model.graph.output] == outputs
    assert all(name in result.out for name in outputs)


def test_transforms_refuse(run: Run) -> None:
    refused(run("jacobian", "linear.onnx", "-o", "out.onnx", "--mode", "sideways"), "sideways")
    refused(run("vmap", "linear.onnx", "-o", "out.onnx", "--batched", "w"), "'w'")
    save("wide.onnx", [helper.make_node("Sin", ["x"], ["y"])], {"x": [1000]}, {})
    too_large = run("hessian", "wide.onnx", "-o", "out.onnx", "--max-bytes", "1000")
    refused(too_large, "4,000,000 bytes")
    assert not Path("out.onnx").exists()


def test_refusals_in_the_words_of_the_command_line(run: Run) -> None:
    zipmap = str(Path(__file__).parents[1] / "cases" / "zipmap.onnx")
    refused(run("inspect", zipmap), "in --of, such as 'p'")
    refused(run("gradient", zipmap, "-o", "out.onnx"), "in --of, such as 'p'")
    refused(run("check", zipmap, "--wrt", "X", "--of", "output_probability"), "--of: 'output_p")
    constant = run("gradient", "linear.onnx", "-o", "out.onnx", "--wrt", "x", "--constant", "x")
    refused(constant, "in --wrt and in --constant")
    ograd = run("gradient", "linear.onnx", "-o", "out.onnx", "--of", "y", "--ograd-at", "x")
    refused(ograd, "--ograd-at names 'x', which is not among --of")
    none = run("jacobian", "linear.onnx", "-o", "out.onnx", "--wrt", "w", "--max-bytes", "-1")
    refused(none, "--max-bytes is a number of bytes, not -1")


def test_family(run: Run) -> None:
    result = run("family", "linear.onnx", "out", "--name", "f")
    assert (result.code, result.err) == (0, "")
    assert sorted(os.listdir("out")) == ["adj_f.onnx", "f.onnx", "fwd_adj_f.onnx"]
    assert [o.name for o in onnx.load("out/adj_f.onnx").graph.output] == ["y", "adj_x"]
    assert all(word in result.out for word in ("adj_x", "fwd_adj_x", "out/fwd_adj_f.onnx"))
    assert run("family", "linear.onnx", "out").code == 0
    assert Path("out", "adj_linear.onnx").exists()
    refused(run("family", "linear.onnx", "out", "--name", "a/b"), "'a/b'")
    refused(run("family", "linear.onnx", "x.npy"), "x.npy")


def test_refusals_leave_no_file(run: Run) -> None:
    Path("bad.onnx").write_bytes(b"not a model")
    before = sorted(os.listdir())
    refused(run("gradient", "none.onnx", "-o", "out.onnx"), "none.onnx")
    refused(run("gradient", "bad.onnx", "-o", "out.onnx"), "not an ONNX file")
    refused(run("gradient", "linear.onnx", "-o", "out.onnx", "--wrt", "ww"), "Nearest: 'w'")
    refused(run("gradient", "linear.onnx", "-o", "no/out.onnx"), "no folder")
    refused(run("run", "linear.onnx", "x.npy", "-o", "no/out.npz"), "no folder")
    assert sorted(os.listdir()) == before


def test_run(run: Run) -> None:
    result = run("run", "linear.onnx", "x.npy", "--grad", "x", "--grad", "w", "-o", "out.npz")
    assert result.code == 0
    with np.load("out.npz") as found:
        assert list(found) == ["y", "x_grad", "w_grad"]
        np.testing.assert_allclose(found["y"], X @ W, rtol=1e-6)
        np.testing.assert_allclose(found["x_grad"], np.tile(W.sum(1), (2, 1)), rtol=1e-6)
    assert f"{np.linalg.norm(X @ W):.6g}" in result.out
    assert "(3, 2)" in result.out


def test_every_command_rounds_straight_through(run: Run) -> None:
    save("round.onnx", [helper.make_node("Round", ["x"], ["y"])], {"x": [3]}, {})
    np.save("row.npy", X[0] * 0.4)
    refused(run("run", "round.onnx", "row.npy", "--grad", "x"), "Round", "straight")
    through = ["--straight-through", "Round", "-o"]
    assert run("run", "round.onnx", "row.npy", "--grad", "x", *through, "out.npz").code == 0
    with np.load("out.npz") as found:
        np.testing.assert_array_equal(found["x_grad"], np.ones(3))
    for command in ("vjp", "jvp", "hvp", "jacobian", "hessian"):
        assert run(command, "round.onnx", *through, "out.onnx").code == 0
        refused(run(command, "round.onnx", "-o", "out.onnx"), "Round")


def test_run_takes_several_inputs(run: Run) -> None:
    a, b = np.float32([1, 2]), np.float32([3, 5])
    np.save("a.npy", a)
    np.save("b.npy", b)
    np.savez("ab.npz", b=b, a=a)
    np.savez("only.npz", whatever=b)
    for files in (["a.npy", "b.npy"], ["b=b.npy", "a.npy"], ["ab.npz"], ["a.npy", "b=only.npz"]):
        assert run("run", "two.onnx", *files, "--grad", "all", "-o", "out.npz").code == 0
        with np.load("out.npz") as found:
            np.testing.assert_array_equal(found["y"], a * b)
            np.testing.assert_array_equal(found["a_grad"], b)
            np.testing.assert_array_equal(found["b_grad"], a)


def test_run_checks_its_inputs(run: Run) -> None:
    np.save("double.npy", X.astype(np.float64))
    Path("broken.npy").write_bytes(b"\x93NUMPY")
    Path("broken.png").write_bytes(b"no image")
    refused(run("run", "two.onnx", "x.npy"), "'b'")
    refused(run("run", "linear.onnx", "x.npy", "x.npy"), "one file more")
    refused(run("run", "linear.onnx", "X=x.npy"), "no input 'X'")
    refused(run("run", "linear.onnx", "double.npy"), "float64")
    for missing in ("none.npy", "none.npz"):
        where = f"onnxgrad: Cannot read '{missing}': No such file or directory.\n"
        assert run("run", "linear.onnx", missing).err == where
    refused(run("run", "linear.onnx", "broken.npy"), "broken.npy")
    refused(run("run", "image.onnx", "broken.png"), "broken.png")
    refused(run("run", "linear.onnx", "broken.png"), "does not take an image")


def test_run_takes_an_image(run: Run) -> None:
    pixels = np.zeros((4, 6, 3), np.uint8)
    pixels[..., 0], pixels[1, 2] = 255, (0, 51, 102)
    Image.fromarray(pixels).save("image.png")
    result = run("run", "image.onnx", "image.png", "-o", "out.npz")
    assert result.code == 0
    assert "6 x 4 RGB taken as x (1, 3, 4, 6), float32" in result.out
    with np.load("out.npz") as found:
        np.testing.assert_allclose(found["y"], pixels.transpose(2, 0, 1)[None] / 255, rtol=1e-6)
    Image.fromarray(pixels).resize((60, 40)).convert("L").save("grey.png")
    assert run("run", "image.onnx", "grey.png").code == 0


def test_check(run: Run) -> None:
    result = run("check", "linear.onnx", "--wrt", "all", "--dim", "N=4")
    assert result.code == 0
    assert [line.split()[0] for line in result.out.splitlines()[1:3]] == ["x", "w"]
    assert run("check", "linear.onnx", "x.npy").code == 0
    np.save("zero.npy", np.zeros((1, 3), np.float32))
    save("relu.onnx", [helper.make_node("Relu", ["x"], ["y"])], {"x": ["N", 3]}, {})
    failed = run("check", "relu.onnx", "zero.npy")
    refused(failed, "The check failed")
    assert "kink" in failed.out


def test_inspect(run: Run) -> None:
    result = run("inspect", "linear.onnx")
    assert result.code == 0
    assert result.out.splitlines()[1].split() == ["MatMul", "1", "rule"]
    save("round.onnx", [helper.make_node("Round", ["x"], ["y"])], {"x": [3]}, {})
    blocked = run("inspect", "round.onnx").out.splitlines()
    assert blocked[1].split()[:3] == ["Round", "1", "zero"]
    assert blocked[2] == "No gradient reaches x."
    through = run("inspect", "round.onnx", "--straight-through", "all")
    assert through.out.splitlines()[1].split() == ["Round", "1", "rule"]
    nodes = [helper.make_node("Neg", ["x"], ["l"]), helper.make_node("Softmax", ["l"], ["y"])]
    save("softmax.onnx", nodes, {"x": [1, 3]}, {})
    said = "rounding noise. To differentiate a sum that is not, give --of l, the values before"
    assert said in run("inspect", "softmax.onnx").out
    save("custom.onnx", [helper.make_node("Mine", ["x"], ["y"], domain="me")], {"x": [3]}, {})
    refused(run("inspect", "custom.onnx", "--of", "y"), "no gradient rule")


def test_what_a_runtime_lacks(run: Run) -> None:
    said = run("inspect", "linear.onnx", "--runs-on", "openvino")
    assert said.code == 0 and said.out == "Nothing in the file is known to stop openvino.\n"
    pool = helper.make_node("MaxPool", ["x"], ["y", "i"], kernel_shape=[2], name="pool")
    save("pool.onnx", [pool], {"x": [1, 1, 4]}, {})
    refused(run("inspect", "pool.onnx", "--runs-on", "webgpu"), "is not for webgpu")
    row = run("inspect", "pool.onnx", "--runs-on", "webgpu").out.splitlines()[1]
    assert row.endswith("the Indices of a MaxPool  is refused  pool (MaxPool)")
    refused(run("inspect", "pool.onnx", "--runs-on", "tracts"), "Nearest: 'tract'")


def test_doctor(run: Run) -> None:
    page = run("doctor", "linear.onnx")
    assert (page.code, page.err) == (0, "")
    assert page.out.startswith("File       linear.onnx\n")
    found = json.loads(run("doctor", "linear.onnx", "--json").out)
    assert found == og.doctor("linear.onnx").as_dict()
    save("round.onnx", [helper.make_node("Round", ["x"], ["y"])], {"x": [3]}, {})
    blocked = run("doctor", "round.onnx")
    refused(blocked, "says what stands in the way")
    assert "- no gradient reaches 'x'" in blocked.out
    assert run("doctor", "round.onnx", "--straight-through", "all").code == 0


def test_class_scores_and_losses(run: Run) -> None:
    """`--of-class`, `--class` and `--loss`, of every command that takes `--of`."""
    target = np.array([1, 0])
    np.save("t.npy", target)
    head = ["--of-class", "y", "--class", "input"]
    assert run("gradient", "linear.onnx", "-o", "g.onnx", *head, "--value", "y").code == 0
    session = onnx.reference.ReferenceEvaluator("g.onnx")
    y, gradient = session.run(None, {"x": X, "target": target})
    np.testing.assert_allclose(y, X @ W, rtol=1e-6)
    np.testing.assert_allclose(gradient, W[:, target].T)
    assert run("jacobian", "linear.onnx", "-o", "j.onnx", "--class", "1").code == 0
    jacobian = onnx.reference.ReferenceEvaluator("j.onnx").run(None, {"x": X})[-1]
    np.testing.assert_allclose(jacobian[0], [W[:, 1], [0, 0, 0]])
    result = run("run", "linear.onnx", "x.npy", "target=t.npy", *head, "--grad", "x", "-o", "r.npz")
    assert result.code == 0, result.err
    found = dict(np.load("r.npz"))
    assert sorted(found) == ["class_score", "x_grad", "y"]
    np.testing.assert_allclose(found["class_score"], (X @ W)[range(2), target], rtol=1e-6)
    np.testing.assert_allclose(found["x_grad"], W[:, target].T)
    assert run("check", "linear.onnx", "--wrt", "w", "--loss", "mse", "--dim", "N=2").code == 0
    assert run("check", "linear.onnx", "x.npy", "target=t.npy", *head).code == 0
    assert "GatherElements" in run("inspect", "linear.onnx", *head).out
    assert (
        run("gradient", "linear.onnx", "-o", "l.onnx", "--loss", "mse", "--loss-of", "y").code == 0
    )
    assert [v.name for v in onnx.load("l.onnx").graph.input] == ["x", "labels"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--class", "two"], "--class is 'argmax', 'input', a class"),
        (["--class", "2"], "there are 2 classes"),
        (["--of-class", "z"], "no tensor 'z'"),
        (["--loss", "mes"], "--loss is one of"),
        (["--loss-of", "y"], "--loss-of is given without --loss"),
        (["--loss", "mse", "--of", "y"], "name the tensor that the loss is of in --loss-of"),
    ],
)
def test_class_scores_and_losses_refuse(run: Run, options: list[str], message: str) -> None:
    refused(run("gradient", "linear.onnx", "-o", "g.onnx", *options), message)
    assert not Path("g.onnx").exists()
    refused(run("inspect", "linear.onnx", *options), message)


def test_run_gives_inner_values(run: Run) -> None:
    nodes = [helper.make_node("Exp", ["x"], ["h"]), helper.make_node("Neg", ["h"], ["y"])]
    save("inner.onnx", nodes, {"x": ["N", 3]}, {})
    assert run("run", "inner.onnx", "x.npy", "--value", "h", "-o", "r.npz").code == 0
    np.testing.assert_allclose(np.load("r.npz")["h"], np.exp(X), rtol=1e-6)


def test_tensors(run: Run) -> None:
    result = run("tensors", "linear.onnx")
    assert [line.split()[:2] for line in result.out.splitlines()[1:]] == [
        ["x", "input"],
        ["w", "parameter"],
        ["y", "output"],
    ]
    found = run("tensors", "linear.onnx", "--pattern", "Mat?ul").out.splitlines()
    assert [line.split()[0] for line in found] == ["tensor", "y"]


def test_names_cannot_speak_to_the_terminal(run: Run) -> None:
    name = "\x1b[31mh"
    nodes = [helper.make_node("Round", ["x"], [name]), helper.make_node("Neg", [name], ["y"])]
    save("escape.onnx", nodes, {"x": ["N", 3]}, {})
    shown = r"\x1b[31mh"
    for arguments in (
        ["tensors", "escape.onnx"],
        ["run", "escape.onnx", "x.npy", "--value", name],
        ["check", "escape.onnx", "--wrt", name],
        ["gradient", "escape.onnx", "-o", "g.onnx", "--wrt", name],
    ):
        result = run(*arguments)
        assert "\x1b" not in result.out + result.err
        assert shown in result.out, arguments
    failed = run("gradient", "escape.onnx", "-o", "g.onnx", "--of", name)
    assert failed.code == 1 and "\x1b" not in failed.err


def program(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The command line from outside."""
    code = "from onnxgrad.cli import main; main()"
    folder = Path(cli.__file__).parents[2]
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(folder)},
        check=False,
    )


def test_warnings_are_one_line(run: Run) -> None:
    nodes = [helper.make_node("Neg", ["x"], ["l"]), helper.make_node("Softmax", ["l"], ["y"])]
    save("softmax.onnx", nodes, {"x": [1, 3]}, {})
    result = program("gradient", "softmax.onnx", "-o", "g.onnx")
    assert result.returncode == 0
    (line,) = result.stderr.splitlines()
    assert line.startswith("onnxgrad: The sum of all elements of 'y' is constant")
    assert line.endswith(
        "give --of l, the values before the Softmax, or impose an output gradient with --ograd."
    )


def test_as_a_program(run: Run) -> None:
    """No traceback, and the exit status, from outside."""
    result = program("gradient", "none.onnx", "-o", "out.onnx")
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_model_that_is_saved_beside_an_unfinished_file_leaves_it_alone(tmp_path: Path) -> None:
    net = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "net",
        [helper.make_tensor_value_info("x", 1, [1])],
        [helper.make_tensor_value_info("y", 1, [1])],
    )
    with whole(tmp_path / "results.npz") as stage:
        stage.write_bytes(b"whole")
        og.save(helper.make_model(net), tmp_path / "net.onnx")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.onnx", "results.npz"]
