"""Files from strangers: each is refused, in words that say where the mistake is."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

import onnxgrad as og
from onnxgrad.graph import limits
from onnxgrad.graph.guard import REPORT
from tests.cli.test_cli import Run, refused, run  # noqa: F401 - `run` is a fixture

PIPES = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no pipes in folders")


def model_of(body: str, opset: int = 21) -> onnx.ModelProto:
    return onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}]>\n{body}')


def net(call: str, opset: int = 21) -> onnx.ModelProto:
    """One node, which gives y of x [2, 3, 4]."""
    weights = "float[4] w = {1, 2, 3, 4}, float[2, 3, 1] k = {1, 2, 3, 4, 5, 6}, int64[1] i = {7}"
    return model_of(f"net (float[2, 3, 4] x) => (float y) <{weights}> {{ y = {call} }}", opset)


def changed(call: str, opset: int = 21, **attributes: Any) -> onnx.ModelProto:
    """The same with attributes that the parser does not let through."""
    model = net(call, opset=opset)
    for name, value in attributes.items():
        model.graph.node[0].attribute.append(helper.make_attribute(name, value))
    return model


REFUSED: dict[str, tuple[Callable[[], onnx.ModelProto], list[str]]] = {
    "an axis beyond 32 bits": (
        lambda: net("LayerNormalization <axis = 2147483648> (x, w)"),
        ["LayerNormalization", "axis", "2147483648"],
    ),
    "axes as a tensor, before the opset that has them": (
        lambda: net("ReduceMean(x, i)", opset=13),
        ["ReduceMean", "2 inputs, not 1"],
    ),
    "an attribute that is a tensor": (
        lambda: changed("ReduceMean(x)", 13, axes=helper.make_tensor("t", 7, [1], [1])),
        ["ReduceMean", "axes", "INTS, not TENSOR"],
    ),
    "batch_dims below 0": (
        lambda: net("GatherND <batch_dims = -2147483648> (x, i)"),
        ["GatherND", "batch_dims"],
    ),
    "more parts than it is told of": (
        lambda: model_of("net (float[6] x) => (float y) { y, z = Split <num_outputs = 1> (x) }"),
        ["Split", "num_outputs tells of 1 outputs"],
    ),
    "an equation that onnx never ends to read": (
        lambda: changed("Einsum(x)", equation="a\nb"),
        ["Einsum", "equation"],
    ),
    "a transform of no length": (
        lambda: model_of(
            "net (float[2, 3, 1] x) => (float y) <int64 n = {-3}> { y = DFT(x, n) }", 20
        ),
        ["DFT", "dft_length", "-3"],
    ),
    "an axis out of range": (lambda: net("Softmax <axis = 7> (x)"), ["Softmax", "axis is 7", "3"]),
    "an axis out of range as an operand": (
        lambda: net("ReduceSum (x, i)"),
        ["ReduceSum", "'axes' is 7"],
    ),
    "no group": (lambda: net("Conv <group = 0> (x, k)"), ["Conv", "group", "not 0"]),
    "no stride": (lambda: net("Conv <strides = [0]> (x, k)"), ["Conv", "strides", "not 0"]),
    "a window of other axes": (
        lambda: net("MaxPool <kernel_shape = [2, 2]> (x)"),
        ["MaxPool", "kernel_shape", "2"],
    ),
    "an activation that is not there": (
        lambda: model_of(
            "net (float[2, 1, 3] x, float[1, 4, 3] w, float[1, 4, 4] r) => (float y) "
            '{ y = RNN <hidden_size = 4, activations = ["Nothing"]> (x, w, r) }'
        ),
        ["RNN", "Nothing"],
    ),
    "a word that no attribute knows": (
        lambda: net('Pad <mode = "elsewhere"> (x, i)'),
        ["Pad", "mode", "reflect", "elsewhere"],
    ),
    "an order of axes that is none": (
        lambda: net("Transpose <perm = [0, 0, 1]> (x)"),
        ["Transpose", "perm", "[0, 0, 1]"],
    ),
    "an operand too few": (lambda: net("MatMul(x)"), ["MatMul", "1 inputs, not 2"]),
    "an operand that is left out": (lambda: net('MatMul("", x)'), ["MatMul", "'A'"]),
    "an attribute that is left out": (lambda: net("Cast(x)"), ["Cast", "to is missing"]),
    "an attribute of another type": (
        lambda: net('Softmax <axis = "last"> (x)'),
        ["Softmax", "axis", "INT, not STRING"],
    ),
    "an operator of a later opset": (
        lambda: net("GridSample(x, k)", opset=11),
        ["GridSample", "opset 11", "no such operator"],
    ),
    "a dtype that is none": (
        lambda: changed("Cast(x)", to=100),
        ["Cast", "to is a dtype", "100"],
    ),
    "pads of other axes": (lambda: net("Pad(x, i)"), ["Pad", "1 values"]),
    "lists of other lengths": (
        lambda: model_of(
            "net (float[4, 4] x) => (float y) <int64[2] a = {0, 0}, int64[1] b = {1}> "
            "{ y = Slice(x, a, a, b) }"
        ),
        ["Slice", "node 'node'"],
    ),
    "a list that onnx would take apart for minutes": (
        lambda: model_of(
            "net (float[4] x, int64[4] q) => (float y) <int64[1] n = {2147483648}> "
            "{ l = Reshape(q, n) m = Cast <to = 7> (l) y = Pad(x, m) }"
        ),
        ["Pad", "'m' lists more than 65536 numbers"],
    ),
    "weights for other channels": (
        lambda: net("Conv <group = 9223372036854775807> (x, k)"),
        ["Conv", "3 channels", "group"],
    ),
    "a size below 0": (
        lambda: net("MaxPool <kernel_shape = [9223372036854775807]> (x)"),
        ["MaxPool", "would have the size -"],
    ),
    "a size that no machine holds": (
        lambda: model_of("net (float[2, 9223372036854775807] x) => (float y) { y = Elu(x) }"),
        ["'x'", "no machine holds"],
    ),
    "an operand of more axes than the result": (
        lambda: model_of("net (float[1] x, float[2, 3] s) => (float y) { y = PRelu(x, s) }"),
        ["PRelu", "'x' has 1 axes, its cotangent 2"],
    ),
    "a cycle": (
        lambda: model_of("net (float[2] x) => (float y) { a = Add(x, b) b = Exp(a) y = Neg(b) }"),
        ["cycle"],
    ),
    "scores of no mode": (
        lambda: model_of(
            "net (float[1, 2, 3, 4] x) => (float y) "
            "{ y = Attention <qk_matmul_output_mode = 7> (x, x, x) }",
            23,
        ),
        ["Attention", "qk_matmul_output_mode", "7"],
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_nodes_are_refused_where_the_mistake_is(what: str) -> None:
    make, words = REFUSED[what]
    with pytest.raises(og.OnnxGradError) as error:
        og.gradient(make())
    assert all(word in str(error.value) for word in words), str(error.value)
    assert REPORT not in str(error.value)


@pytest.mark.parametrize("text", ['{"x": 5, "y": ["a"]}', "[" * 100_000, "{not json"])
def test_metadata_of_another_program_is_no_table(text: str) -> None:
    model = net("Tanh(x)")
    model.metadata_props.add(key="onnxgrad.gradients", value=text)
    assert "x_grad" in {o.name for o in og.gradient(model).graph.output}


# -- files -----------------------------------------------------------------------------------------


def weighted(**fields: Any) -> onnx.ModelProto:
    """A product with a weight, whose message has other fields than it had."""
    model = model_of("net (float[2] x) => (float[2] y) <float[2] w = {1, 2}> { y = Mul(x, w) }")
    weight = model.graph.initializer[0]
    for name, value in fields.items():
        if name == "location":
            weight.data_location = TensorProto.EXTERNAL
            weight.ClearField("float_data")
            weight.external_data.add(key="location", value=value)
        elif name == "dims":
            weight.dims[:] = value
        else:
            setattr(weight, name, value)
    return model


@PIPES
@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"location": ""}, "not named"),
        ({"location": "a\0b"}, "NUL"),
        ({"location": "folder"}, "no file"),
        ({"location": "pipe"}, "no file"),
        ({"location": "nowhere"}, "No such file"),
        ({"location": "data", "data_type": TensorProto.STRING}, "strings"),
        ({"location": "data", "data_type": TensorProto.UNDEFINED}, "dtype 0"),
        ({"location": "data", "dims": [2**40]}, "too short"),
        ({"data_type": 77}, "dtype 77"),
        ({"dims": [-2]}, "the size -2"),
        ({"dims": [2**40]}, "2 numbers of data, not"),
        ({"raw_data": b"12345"}, "5 bytes of data, not 8"),
    ],
)
def test_weights(fields: dict[str, Any], words: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "data").write_bytes(bytes(8))
    path = tmp_path / "m.onnx"
    path.write_bytes(weighted(**fields).SerializeToString())
    for use in (og.gradient, og.Net, og.inspect, og.doctor):
        with pytest.raises(og.ModelError, match=words) as error:
            use(path)
        assert "'w'" in str(error.value) and REPORT not in str(error.value)


@PIPES
def test_files_that_are_no_models(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "m.ort").write_bytes(b"\x20\0\0\0ORTM" + bytes(99))
    for name, words in {"pipe": "a pipe", "m.ort": "convert_onnx_models_to_ort"}.items():
        with pytest.raises(og.ModelError, match=words):
            og.gradient(tmp_path / name)
    with pytest.raises(og.ModelError, match="convert_onnx_models_to_ort"):
        og.Net((tmp_path / "m.ort").read_bytes())


def test_a_name_that_is_not_utf_8() -> None:
    content = net("Tanh(x)").SerializeToString().replace(b"\x01x", b"\x01\xff")
    with pytest.raises(og.ModelError, match=r"name b'\\xff', which is not UTF-8"):
        og.gradient(content)


def test_functions_that_double(monkeypatch: pytest.MonkeyPatch) -> None:
    head = '<opset_import: ["" : 17, "own" : 1], domain: "own">'
    functions = [f"{head} f{k} (x) => (y) {{ a = own.f{k + 1}(x) y = own.f{k + 1}(a) }}\n"
                 for k in range(40)]  # fmt: skip
    functions.append(f"{head} f40 (x) => (y) {{ y = Tanh(x) }}")
    start = '<ir_version: 8, opset_import: ["" : 17, "own" : 1]> g (float[2] x) => (float[2] y) '
    bomb = start + "{ y = own.f0(x) }" + "".join(functions)
    with pytest.raises(og.ModelError, match=f"{2**40:,} nodes, more than 1,000,000"):
        og.gradient(onnx.parser.parse_model(bomb))
    small = onnx.parser.parse_model(start + "{ y = own.f36(x) }" + "".join(functions))
    assert len(og.gradient(small).graph.node) > 16
    monkeypatch.setattr(limits, "NODES", 15)
    with pytest.raises(og.ModelError, match="ONNXGRAD_MAX_NODES"):
        og.gradient(small)


def npz(path: Path, header: bytes | None = None, zeros: int = 0) -> None:
    """An .npz file with one array x, which claims more than it holds, or holds many zeros."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        held = io.BytesIO()
        np.save(held, np.zeros(zeros, np.float32))
        file.writestr("x.npy", held.getvalue() if header is None else header)


def huge() -> bytes:
    """An .npy file of a few bytes that tells of an array of 4 TB."""
    file = io.BytesIO()
    told = {"descr": "<f4", "fortran_order": False, "shape": (10**12,)}
    np.lib.format.write_array_header_1_0(file, told)
    return file.getvalue()


@PIPES
def test_feeds_of_the_command_line(
    run: Run,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "UNPACKED_BYTES", 2**20)
    os.mkfifo("pipe.npy")
    os.mkfifo("pipe.npz")
    os.mkfifo("pipe.png")
    Path("huge.npy").write_bytes(huge())
    npz(Path("huge.npz"), header=huge())
    npz(Path("bomb.npz"), zeros=2**20)
    for name, words in {
        "pipe.npy": "no file",
        "pipe.npz": "no file",
        "pipe.png": "no file",
        "huge.npy": "4,000,000,000,000 bytes",
        "huge.npz": "4,000,000,000,000 bytes",
        "bomb.npz": "more than 1,048,576",
    }.items():
        model = "image.onnx" if name.endswith("png") else "linear.onnx"
        refused(run("run", model, name), "Cannot read", words)
        refused(run("explain", model, name, "-o", "e.npz"), "Cannot read", words)
        if name.endswith("npz"):
            arguments = ["--loss", "mse", "--optimizer", "sgd", "--lr", "0.1", "-o", "t.onnx"]
            refused(run("train", "fit", "linear.onnx", name, *arguments), "Cannot read", words)
    refused(run("gradient", "pipe.npy", "-o", "g.onnx"), "a pipe")


def test_an_image_that_would_become_larger_than_all(run: Run) -> None:  # noqa: F811
    image = pytest.importorskip("PIL.Image")
    image.new("L", (20_000, 1)).save("long.png")
    helper_model = model_of("net (float[1, 1, 256, W] x) => (float y) { y = Tanh(x) }")
    Path("high.onnx").write_bytes(helper_model.SerializeToString())
    refused(run("run", "high.onnx", "long.png"), "5120000 x 256", "67,108,864 pixels")


# -- the guard -------------------------------------------------------------------------------------


def test_what_nobody_foresaw_is_an_error_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of every public function of a model; the original exception is its cause."""

    code = "def load(model): failing(node)\ndef failing(node): raise ZeroDivisionError('by zero')"
    scope: dict[str, Any] = {"__name__": "onnxgrad.rules", "node": ir.node("Tanh", [], name="h")}
    exec(code, scope)  # as if it lay in the package
    monkeypatch.setattr("onnxgrad.graph.io.load", scope["load"])
    loss, sgd = og.losses.mse(), og.train.SGD(lr=0.1)
    calls: dict[str, Callable[[], Any]] = {
        name: lambda name=name: getattr(og, name)("m.onnx")
        for name in ("gradient", "vjp", "jvp", "hvp", "jacobian", "hessian", "vmap", "lower")
    }
    calls |= {name: lambda name=name: getattr(og, name)("m.onnx") for name in ("inspect", "doctor")}
    calls |= {
        "per_example_gradient": lambda: og.per_example_gradient("m.onnx"),
        "attach": lambda: og.attach("m.onnx", lambda x: x),
        "check": lambda: og.check("m.onnx", {}),
        "family": lambda: og.family("m.onnx", "."),
        "save": lambda: og.save("m.onnx", "n.onnx"),  # type: ignore[arg-type]
        "Net": lambda: og.Net("m.onnx"),
        "saliency": lambda: og.explain.saliency("m.onnx"),
        "several": lambda: og.explain.several("m.onnx", {"a": og.explain.saliency}),
        "fgsm": lambda: og.adversarial.fgsm("m.onnx", "x", eps=1),
        "guidance": lambda: og.adversarial.guidance("m.onnx", "n.onnx"),  # type: ignore[call-arg]
        "step": lambda: og.train.step("m.onnx", loss, sgd),
        "artifacts": lambda: og.train.artifacts("m.onnx", ".", loss, sgd),
        "export": lambda: og.train.export("m.onnx", {}),
        "lora": lambda: og.train.lora("m.onnx"),
        "merge": lambda: og.train.merge("m.onnx"),
        "Trainer": lambda: og.train.Trainer("m.onnx", loss, sgd),
    }
    for name, call in calls.items():
        with pytest.raises(og.ModelError) as error:
            call()
        assert "operator Tanh, node 'h': ZeroDivisionError: by zero" in str(error.value), name
        assert REPORT in str(error.value)
        assert isinstance(error.value.__cause__, ZeroDivisionError)


def test_what_the_caller_raises_passes() -> None:
    def broken(op: Any, x: Any) -> Any:
        return {}["missing"]

    with pytest.raises(KeyError, match="missing"):
        og.attach(net("Tanh(x)"), broken)
    with pytest.raises(TypeError, match="elsewhere"):
        og.gradient(net("Tanh(x)"), elsewhere=1)


def test_a_net_whose_weights_do_not_fit() -> None:
    """An onnx_ir.Model can say so as well, of data that nothing has looked at."""
    model = ir.from_proto(model_of("net (float[2] x) => (float[2] y) { y = Tanh(x) }"))
    tensor = ir.LazyTensor(lambda: ir.tensor(np.zeros(3, np.float32)), ir.DataType.FLOAT,
                           ir.Shape([2]), name="w")  # fmt: skip
    weight = ir.Value(name="w", type=ir.TensorType(ir.DataType.FLOAT), const_value=tensor)
    model.graph.register_initializer(weight)
    product = ir.node("Mul", [model.graph.outputs[0], weight])
    model.graph.append(product)
    product.outputs[0].name = "z"
    model.graph.outputs[0] = product.outputs[0]
    with pytest.raises(og.OnnxGradError):
        og.Net(model)({"x": np.ones(2, np.float32)})


def test_libraries_print_nothing(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Neither where a call succeeds nor where it does not."""
    model = net("Tanh(x)")
    model.graph.output.add().CopyFrom(model.graph.output[0])
    model.graph.output[1].name = "nowhere"
    with pytest.raises(og.OnnxGradError):
        og.gradient(model)
    unknown = net("Tanh(x)")
    unknown.graph.node.add(op_type="Mystery", domain="own", input=["x"], output=["z"])
    unknown.opset_import.add(domain="own", version=1)
    og.gradient(unknown)
    assert capfd.readouterr() == ("", "")
    assert not caplog.records
