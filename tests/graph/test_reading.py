"""What a file holds in unusual places: weights in other files, sparse ones, bytes, maps, flags."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import AttributeProto, TensorProto, helper, numpy_helper
from onnxruntime import InferenceSession

import onnxgrad as og
from onnxgrad import cli
from onnxgrad.declare.expansions import _TABLE, expandable
from onnxgrad.passes.flags import FLAGS

CASES = Path(__file__).parents[1] / "cases"


def run(model: onnx.ModelProto, **feeds: np.ndarray) -> dict[str, np.ndarray]:
    """The outputs by name, on onnxruntime, of a model that onnx's checker accepts."""
    onnx.checker.check_model(model, full_check=True)
    names = [output.name for output in model.graph.output]
    session = InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return dict(zip(names, session.run(names, feeds), strict=True))


Command = Callable[..., tuple[int, str]]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """The command line: its exit code, and what it wrote to the error stream."""

    def call(*words: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["onnxgrad", *map(str, words)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
            raise SystemExit(0)
        return int(stop.value.code or 0), capsys.readouterr().err

    return call


# -- weights in other files ------------------------------------------------------------------------

SQUARE = """<ir_version: 10, opset_import: ["" : 21, "com.acme" : 1]>
net (float[2] x, bool c) => (float[2] y) {
    h = com.acme.own(x)
    g = If(c) <then_branch = a () => (float[2] p) { p = Mul(x, x) },
               else_branch = b () => (float[2] q) { q = Exp(x) }>
    y = Add(g, h)
}
<domain: "com.acme", opset_import: ["" : 21]>
own (a) => (b) {
    t = Constant<value = bool {1}>()
    b = If(t) <then_branch = d () => (r) { r = Mul(a, a) },
               else_branch = e () => (s) { s = Neg(a) }>
}"""

Plant = Callable[[onnx.ModelProto, TensorProto], None]


def sparse(values: TensorProto, indices: TensorProto | None = None) -> onnx.SparseTensorProto:
    if indices is None:
        indices = numpy_helper.from_array(np.arange(4, dtype=np.int64))
    return onnx.SparseTensorProto(values=values, indices=indices, dims=[4])


def as_int64(tensor: TensorProto) -> TensorProto:
    tensor.data_type, tensor.dims[:] = TensorProto.INT64, [2]
    return tensor


def attribute(name: str, **held: object) -> AttributeProto:
    """An attribute that holds tensors in the field of that name."""
    ((field, value),) = held.items()
    found = AttributeProto(name=name)
    kind = {"t": "TENSOR", "g": "GRAPH"}.get(field, field.upper())
    found.type = AttributeProto.AttributeType.Value(kind)
    if isinstance(value, list):
        getattr(found, field).extend(value)
    else:
        getattr(found, field).CopyFrom(value)
    return found


def inner(graph_or_function: onnx.GraphProto | onnx.FunctionProto) -> onnx.GraphProto:
    """The first graph within, of an If."""
    return next(n for n in graph_or_function.node if n.op_type == "If").attribute[0].g


def node_with(**held: object) -> onnx.NodeProto:
    node = helper.make_node("Constant", [], ["planted"])
    node.attribute.append(attribute("value", **held))
    return node


def deep(tensor: TensorProto) -> onnx.NodeProto:
    """A graph in an attribute GRAPHS, with the tensor among its initializers."""
    return node_with(graphs=[onnx.GraphProto(name="deep", initializer=[tensor])])


PLACES: dict[str, Plant] = {
    "initializer": lambda m, t: m.graph.initializer.append(t),
    "values of a sparse initializer": lambda m, t: m.graph.sparse_initializer.append(sparse(t)),
    "indices of a sparse initializer": lambda m, t: m.graph.sparse_initializer.append(
        sparse(numpy_helper.from_array(np.ones(2, np.float32), "v"), as_int64(t))
    ),
    "constant": lambda m, t: m.graph.node.append(node_with(t=t)),
    "sparse constant": lambda m, t: m.graph.node.append(node_with(sparse_tensor=sparse(t))),
    "tensors": lambda m, t: m.graph.node.append(node_with(tensors=[t])),
    "sparse tensors": lambda m, t: m.graph.node.append(node_with(sparse_tensors=[sparse(t)])),
    "branch": lambda m, t: inner(m.graph).initializer.append(t),
    "constant of a branch": lambda m, t: inner(m.graph).node.append(node_with(t=t)),
    "sparse initializer of a branch": lambda m, t: inner(m.graph).sparse_initializer.append(
        sparse(t)
    ),
    "graphs": lambda m, t: m.graph.node.append(deep(t)),
    "constant of a function": lambda m, t: m.functions[0].node.append(node_with(t=t)),
    "tensors of a function": lambda m, t: m.functions[0].node.append(node_with(tensors=[t])),
    "branch of a function": lambda m, t: inner(m.functions[0]).initializer.append(t),
    "sparse initializer in a function": lambda m, t: inner(
        m.functions[0]
    ).sparse_initializer.append(sparse(t)),
    "graphs in a function": lambda m, t: inner(m.functions[0]).node.append(deep(t)),
    "default of a function's attribute": lambda m, t: m.functions[0].attribute_proto.append(
        attribute("weight", t=t)
    ),
    "training": lambda m, t: m.training_info.add().algorithm.initializer.append(t),
    "initialization for training": lambda m, t: m.training_info.add().initialization.node.append(
        node_with(t=t)
    ),
}


def planted(place: str, location: str) -> onnx.ModelProto:
    tensor = TensorProto(name="planted", data_type=TensorProto.FLOAT, dims=[4])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    model = onnx.parser.parse_model(SQUARE)
    PLACES[place](model, tensor)
    return model


@pytest.mark.parametrize("place", PLACES)
def test_no_tensor_reads_another_file_of_the_machine(
    place: str, tmp_path: Path, command: Command
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    secret = tmp_path / "secret"
    secret.write_bytes(b"-the-secret-----")
    os.link(secret, home / "hard")
    (home / "link").symlink_to(secret)
    path = home / "model.onnx"
    for location in (str(secret), "../secret", "link", "hard"):
        model = planted(place, location)
        path.write_bytes(model.SerializeToString())
        for call in (og.gradient, og.inspect, lambda m: og.save(m, tmp_path / "out.onnx")):
            with pytest.raises(og.ModelError, match="'planted' lies in"):
                call(path)
            with pytest.raises(og.ModelError, match="which folder"):
                call(model)
    for words in (["gradient", path, "-o", tmp_path / "out.onnx"], ["inspect", path]):
        code, error = command(*words)
        assert code == 1 and "'planted' lies in" in error
    assert not (tmp_path / "out.onnx").exists()


@pytest.mark.parametrize("location", ["/etc/hostname", "../secret"])
def test_nor_does_an_external_tensor_of_onnx_ir(location: str, tmp_path: Path) -> None:
    model = ir.from_proto(onnx.parser.parse_model(SQUARE))
    (function,) = model.functions.values()
    branch = next(graph for graph in function.graph.subgraphs())
    tensor = ir.ExternalTensor(
        location, 0, 4, ir.DataType.FLOAT, shape=ir.Shape([1]), name="w", base_dir=tmp_path
    )
    branch.register_initializer(ir.Value(name="w", const_value=tensor))
    with pytest.raises(og.ModelError, match="outside the model's folder"):
        og.gradient(model)


def test_weights_beside_the_model_are_read_wherever_they_are_used(tmp_path: Path) -> None:
    """In the branch of a function, and in the values of a sparse tensor."""
    (tmp_path / "w").write_bytes(np.array([2, 3], np.float32).tobytes())
    model = onnx.parser.parse_model(SQUARE)
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[2])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="w")
    branch = inner(model.functions[0])
    branch.initializer.append(tensor)
    branch.node[0].input[1] = "w"  # h = x * w
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())
    found = run(og.gradient(path), x=np.ones(2, np.float32), c=np.array(True))
    np.testing.assert_array_equal(found["x_grad"], [4, 5])
    with pytest.raises(og.ModelError, match="no file"):
        (tmp_path / "w").unlink()
        (tmp_path / "w").mkdir()
        og.gradient(path)


# -- sparse weights --------------------------------------------------------------------------------

DENSE = np.array([[0, 0, 5], [7, 0, 0]], np.float32)


def of_dense(name: str, linear: bool) -> onnx.SparseTensorProto:
    places = np.flatnonzero(DENSE) if linear else np.argwhere(DENSE)
    return onnx.SparseTensorProto(
        values=numpy_helper.from_array(DENSE[DENSE != 0], name),
        indices=numpy_helper.from_array(places.astype(np.int64)),
        dims=DENSE.shape,
    )


def sparse_net(where: str, linear: bool) -> onnx.ModelProto:
    """y = x * w with a sparse weight: the graph's, a branch's, that of a branch of a function."""
    if where == "graph":
        text = "y = Mul(x, w)"
    elif where == "branch":
        text = (
            "c = Constant<value = bool {1}>() y = If(c) <then_branch = a () => (float[2,3] p) "
            "{ p = Mul(x, w) }, else_branch = b () => (float[2,3] q) { q = Neg(x) }>"
        )
    elif where == "constant":
        text = "w = Constant<value_float = 0.0>() y = Mul(x, w)"
    else:
        text = "y = com.acme.own(x)"
    head = '<ir_version: 10, opset_import: ["" : 21, "com.acme" : 1]>'
    own = """<domain: "com.acme", opset_import: ["" : 21]> own (a) => (b) {
        t = Constant<value = bool {1}>()
        b = If(t) <then_branch = d () => (r) { r = Mul(a, w) },
                   else_branch = e () => (s) { s = Neg(a) }>
    }"""
    net = f"net (float[2,3] x) => (float[2,3] y) {{ {text} }}"
    model = onnx.parser.parse_model(head + net + (own if where == "function" else ""))
    weight = of_dense("w", linear)
    if where == "constant":
        model.graph.node[0].attribute[0].CopyFrom(attribute("sparse_value", sparse_tensor=weight))
    else:
        graph = {
            "graph": lambda: model.graph,
            "branch": lambda: inner(model.graph),
            "function": lambda: inner(model.functions[0]),
        }[where]()
        graph.sparse_initializer.append(weight)
    return model


@pytest.mark.parametrize("linear", [False, True])
@pytest.mark.parametrize("where", ["graph", "branch", "constant", "function"])
def test_sparse_weights_are_made_dense(where: str, linear: bool, tmp_path: Path) -> None:
    model = sparse_net(where, linear)
    before = model.SerializeToString()
    x = np.ones((2, 3), np.float32)
    found = run(og.gradient(model), x=x)
    np.testing.assert_array_equal(found["y"], DENSE)
    np.testing.assert_array_equal(found["x_grad"], DENSE)
    og.save(model, tmp_path / "m.onnx")
    np.testing.assert_array_equal(run(onnx.load(tmp_path / "m.onnx"), x=x)["y"], DENSE)
    np.testing.assert_array_equal(og.Net(model)(x), DENSE)
    assert model.SerializeToString() == before


def test_a_sparse_weight_is_a_parameter_and_one_that_no_path_touches_is_kept() -> None:
    model = sparse_net("graph", True)
    assert og.Net(model).parameters == ("w",)
    found = run(og.gradient(model, "w"), x=np.full((2, 3), 4, np.float32))
    np.testing.assert_array_equal(found["w_grad"], np.full((2, 3), 4))
    model.graph.output.append(helper.make_tensor_value_info("z", 1, [2, 3]))
    model.graph.node.append(helper.make_node("Exp", ["x"], ["z"]))
    found = run(og.gradient(model, "x", of="z"), x=np.ones((2, 3), np.float32))
    np.testing.assert_array_equal(found["y"], DENSE)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.dims.__setitem__(0, 2**60), "more than a model can hold"),
        (lambda s: s.dims.__setitem__(0, -2), "more than a model can hold"),
        (lambda s: s.dims.__setitem__(0, 1), "outside of its shape"),
        (lambda s: s.values.dims.__setitem__(0, 1), "has 8 bytes of data, not 4"),
        (
            lambda s: s.indices.CopyFrom(numpy_helper.from_array(np.array([0]))),
            "1 indices for 2 values",
        ),
    ],
)
def test_a_sparse_weight_that_makes_no_sense_is_refused(change, message) -> None:
    model = sparse_net("graph", True)
    change(model.graph.sparse_initializer[0])
    with pytest.raises(og.ModelError, match=message):
        og.gradient(model)


# -- bytes, and arguments in each other's place ----------------------------------------------------


def test_the_bytes_of_a_model_are_a_model(tmp_path: Path) -> None:
    content = (Path(__file__).parents[2] / "models" / "mlp.onnx").read_bytes()
    x = np.ones((1, 4), np.float32)
    expected = run(og.gradient(onnx.ModelProto.FromString(content)), input=x)["input_grad"]
    for given in (content, bytearray(content), memoryview(content)):
        model = og.gradient(given)
        assert isinstance(model, onnx.ModelProto)
        np.testing.assert_array_equal(run(model, input=x)["input_grad"], expected)
    for transform in (og.vjp, og.jvp, og.hvp, og.jacobian, og.hessian, og.vmap, og.lower):
        assert isinstance(transform(content), onnx.ModelProto)
    assert isinstance(og.per_example_gradient(content), onnx.ModelProto)
    assert og.inspect(content).ok and og.check(content, x)
    np.testing.assert_array_equal(og.Net(content)(x, og.NetPortGradient("input")), expected)
    assert len(og.family(content, tmp_path, name="f")) == 3
    og.save(content, tmp_path / "m.onnx")
    assert run(onnx.load(tmp_path / "m.onnx"), input=x)


@pytest.mark.parametrize("content", [b"", b"no model", bytes(range(256)) * 100, b"\x08\x0a"])
def test_bytes_that_are_no_model_are_refused_in_one_line(content: bytes) -> None:
    with pytest.raises(og.ModelError, match="truncated") as error:
        og.gradient(content)
    assert len(str(error.value)) < 200 and "\n" not in str(error.value)


def test_arguments_in_the_place_of_others_are_named(tmp_path: Path) -> None:
    model = onnx.parser.parse_model(SQUARE)
    for path in ("m.onnx", tmp_path / "m.onnx"):
        with pytest.raises(og.ArgumentError, match=r"ModelProto: save\(model, path\)"):
            og.save(path, model)  # type: ignore[arg-type]
    with pytest.raises(og.ArgumentError, match="list of NetPortGradients"):
        og.NetPortGradient([["fc1", "weight"]])  # type: ignore[list-item]


# -- flags -----------------------------------------------------------------------------------------

# Integers of the standard that are numbers, places or types.
_NUMBERS = """
    aggregate_function axis batch_dims block_size blocksize chunk_size default_int64 dtype end
    group hidden_size ignore_index k kv_num_heads left_window_size max_gram_length max_map
    max_skip_count maxsplit min_gram_length n_supports n_targets num_groups num_heads
    num_outputs num_scan_inputs offset_group output_datatype output_dtype output_height
    output_width p post_transform precision q_num_heads qk_matmul_output_mode
    replaced_value_int64 right_window_size rotary_embedding_dim sample_size sampling_ratio seed
    size softmax_precision start stash_type targets to value_int
"""
NUMBERS = set(_NUMBERS.split())


def test_each_integer_attribute_of_the_standard_is_known_as_a_flag_or_a_number() -> None:
    integers = {
        name
        for schema in onnx.defs.get_all_schemas_with_history()
        for name, a in schema.attributes.items()
        if a.type == onnx.defs.OpSchema.AttrType.INT and schema.domain != "ai.onnx.preview.training"
    }
    assert integers - FLAGS == NUMBERS
    assert not FLAGS & NUMBERS


# Of the operators of com.microsoft: what is refused by itself, or a number.
_OWN_NUMBERS = """
    accuracy_level bits dim local_window_size mask_index_type num_branches qk_output step
    weight_prepacked
"""
OWN_NUMBERS = set(_OWN_NUMBERS.split())


def test_each_integer_that_an_expansion_takes_is_known_as_a_flag_or_a_number() -> None:
    assert expandable()  # fills the table
    integers = {
        parameter.name
        for function in _TABLE.values()
        for parameter in inspect.signature(function).parameters.values()
        if isinstance(parameter.default, int)
    }
    assert integers <= FLAGS | NUMBERS | OWN_NUMBERS


FLAGGED = [
    ("Gemm(x, x)", "transB", "", 3),
    ("Attention(x, x, x)", "is_causal", "", 2),
    ("RotaryEmbedding(x, x, x)", "interleaved", "", -1),
    ("DFT(x)", "inverse", "", 2),
    ("ReduceSum(x)", "noop_with_empty_axes", "", 2),
    ("ReduceSum(x)", "keepdims", "", 7),
    ("Reshape(x, x)", "allowzero", "", 2),
    ("BatchNormalization(x, x, x, x, x)", "training_mode", "", 2**32),
    ("com.microsoft.Attention(x, x, x)", "unidirectional", "com.microsoft", 2),
    ("ai.onnx.ml.OneHotEncoder(x)", "zeros", "ai.onnx.ml", 2),
]


@pytest.mark.parametrize("where", ["graph", "branch", "function", "call"])
@pytest.mark.parametrize(("call", "flag", "domain", "value"), FLAGGED)
def test_a_flag_that_is_neither_0_nor_1_is_refused(call, flag, domain, value, where) -> None:
    given = call.replace("(", f"<{flag} = {value}>(", 1)
    node, own = f"y = {given}", ""
    if where == "branch":
        node = (
            "c = Constant<value = bool {1}>() y = If(c) <then_branch = a () => (float[2,2] p) "
            f"{{ p = {given} }}, else_branch = b () => (float[2,2] q) {{ q = Neg(x) }}>"
        )
    imports = '"" : 23, "com.microsoft" : 1, "ai.onnx.ml" : 1'
    if where in ("function", "call"):
        node = f"y = com.acme.own{f'<flag = {value}>' if where == 'call' else ''}(x)"
        body = given if where == "function" else call.replace("(", f"<{flag} : int = @flag>(", 1)
        names = "" if where == "function" else "<flag>"
        own = f"own {names} (x) => (y) {{ y = {body} }}"
        own = f'<domain: "com.acme", opset_import: [{imports}]> {own}'
    text = (
        f'<ir_version: 10, opset_import: [{imports}, "com.acme" : 1]> '
        f"net (float[2,2] x) => (float[2,2] y) {{ {node} }} {own}"
    )
    with pytest.raises(og.ModelError, match=rf"node .*attribute {flag} is 0 or 1, not {value}\b"):
        og.gradient(onnx.parser.parse_model(text))


# -- maps ------------------------------------------------------------------------------------------


def test_a_classifier_whose_output_is_a_sequence_of_maps(tmp_path: Path) -> None:
    """Logistic regression, of which the derivative is known: p_0 (w_0 - sum_k p_k w_k)."""
    model = onnx.load(CASES / "zipmap.onnx")
    before = model.SerializeToString()
    x = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)
    plain = run(model, X=x)
    weights = next(a for a in model.graph.node[0].attribute if a.name == "coefficients").floats
    w = np.array(weights, np.float32).reshape(3, 4)
    p = np.array([list(row.values()) for row in plain["output_probability"]], np.float32)
    seed = np.tile(np.eye(3, dtype=np.float32)[0], (5, 1))
    expected = p[:, :1] * (w[0] - p @ w)
    og.save(og.gradient(model, "X", of="p", ograd=True), tmp_path / "g.onnx")
    written = onnx.load(tmp_path / "g.onnx")
    assert written.graph.output[1] == model.graph.output[1]
    assert not [m for m in written.metadata_props if "maps" in m.key]
    found = run(written, X=x, p_ograd=seed)
    np.testing.assert_allclose(found["X_grad"], expected, rtol=1e-4, atol=1e-6)
    assert found["output_probability"][0].keys() == {0, 1, 2}
    np.testing.assert_allclose(
        [list(row.values()) for row in found["output_probability"]], p, rtol=1e-5
    )
    assert model.SerializeToString() == before


def test_the_other_ways_to_use_a_classifier_with_maps(tmp_path: Path, command: Command) -> None:
    path = CASES / "zipmap.onnx"
    x = np.random.default_rng(1).standard_normal((3, 4)).astype(np.float32)
    plain = run(onnx.load(path), X=x)
    og.save(path, tmp_path / "same.onnx")  # type: ignore[arg-type]
    assert run(onnx.load(tmp_path / "same.onnx"), X=x)["output_probability"]
    net = og.Net(path)
    assert net(x)["output_probability"] == plain["output_probability"]
    assert net.jacobian(x, of="p").shape == (3, 3, 3, 4)
    assert og.check(path, x, of="p")
    assert og.inspect(path, of="p").ok
    for model in (
        og.jvp(path, of="p", forward=True),
        og.hvp(path, of="p"),
        og.hessian(path, of="p"),
        og.gradient(og.gradient(path, of="p"), of="X_grad"),
    ):
        feeds = {i.name: x for i in model.graph.input}
        assert run(model, **feeds)["output_probability"][0].keys() == {0, 1, 2}
    alone = og.gradient(path, of="p", forward=False)
    assert "ZipMap" not in {n.op_type for n in alone.graph.node}
    assert list(run(alone, X=x)) == ["X_grad"]
    out = tmp_path / "cli.onnx"
    assert command("gradient", path, "-o", out, "--of", "p") == (0, "")
    assert run(onnx.load(out), X=x)["output_probability"]
    with pytest.raises(og.ArgumentError, match="no floating-point output"):
        og.gradient(path)


def test_a_function_that_gives_maps_and_one_that_is_declared() -> None:
    """The former is inlined, the latter keeps its node."""
    text = """<ir_version: 10, opset_import: ["" : 21, "ai.onnx.ml" : 1, "com.acme" : 1]>
        net (float[N,2] x) => (float[N,2] y, seq(map(int64, float)) z) {
            p, z = com.acme.outer(x)
            y = com.acme.twice(p)
        }
        <domain: "com.acme", opset_import: ["" : 21, "ai.onnx.ml" : 1]> classes (a) => (p, z) {
            p = Exp(a)
            z = ai.onnx.ml.ZipMap<classlabels_int64s = [0, 1]>(p)
        }
        <domain: "com.acme", opset_import: ["" : 21, "com.acme" : 1]> outer (a) => (p, z) {
            p, z = com.acme.classes(a)
        }
        <domain: "com.acme", opset_import: ["" : 21]> twice (a) => (b) { b = Add(a, a) }"""
    og.elementwise("com.acme::twice", lambda: 5, inputs=["a"], outputs=["b"])
    try:
        x = np.array([[0, 1]], np.float32)
        found = og.gradient(onnx.parser.parse_model(text))
        assert [f.name for f in found.functions] == ["twice"]
        values = run(found, x=x)
        np.testing.assert_allclose(values["x_grad"], 5 * np.exp(x), rtol=1e-5)
        assert values["z"][0].keys() == {0, 1}
    finally:
        og.forget("com.acme::twice")


def test_a_map_as_an_input() -> None:
    """What comes out of it, a tensor, is an operand like any other."""
    value_type = helper.make_tensor_type_proto(TensorProto.FLOAT, [])
    words = helper.make_value_info(
        "words", helper.make_map_type_proto(TensorProto.STRING, value_type)
    )
    graph = helper.make_graph(
        [
            helper.make_node(
                "DictVectorizer",
                ["words"],
                ["v"],
                domain="ai.onnx.ml",
                string_vocabulary=["a", "b"],
            ),
            helper.make_node("Mul", ["v", "w"], ["y"]),
        ],
        "net",
        [words, helper.make_tensor_value_info("w", 1, [1, 2])],
        [helper.make_tensor_value_info("y", 1, [1, 2])],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    net = og.Net(model)
    feeds = {"words": {"b": 2.0}, "w": np.ones((1, 2), np.float32)}
    np.testing.assert_array_equal(net(feeds), [[0, 2]])
    np.testing.assert_array_equal(net(feeds, og.NetPortGradient("w")), [[0, 2]])
    assert og.gradient(model, "w").graph.input[0] == words
