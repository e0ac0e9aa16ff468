"""Models changed at random, as an enemy or a broken disk would, and what onnxgrad makes of each.

A mutant is told by its number alone: the seed, which is a small net, and its changes, to the
structure of the message or to the bytes of the file. `judge` looks at one in a process of its own,
which `Workers` limits in time and memory. tools/fuzz.py looks at as many as there is time for.
"""

from __future__ import annotations

import functools
import itertools
import multiprocessing
import os
import resource
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import Message

import onnxgrad as og
from onnxgrad.graph.guard import REPORT
from tests.real_models import BY_NAME
from tests.rules.test_rules import sample_model
from tests.samples import load_samples

ROOT = Path(__file__).resolve().parents[1]
# Files of packages that are small enough to be read a thousand times, where they are installed.
PACKAGED = [BY_NAME["pnet"], BY_NAME["nmp"]]
LARGEST = 2**18

FUNCTIONS = """
<ir_version: 8, opset_import: ["" : 17, "own" : 1]>
net (float[N, 4] x, bool c, int64 n) => (float[M, 4] y, float z)
<float[4, 4] w = {1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2, 3, 4, 5, 6, 7}, int64[1] axes = {1}>
{
  h = own.layer <alpha: float = 0.3> (x, w)
  y = If (c) <then_branch = a () => (p) { p = Tanh(h) }, else_branch = b () => (q) { q = own.twice(x) }>
  t = Constant <value = bool {1}> ()
  m = ReduceSum <keepdims: int = 0> (h)
  z = Loop (n, t, m) <body = step (int64 i, bool go, float s) => (bool on, float r)
      { on = Identity(go) s1 = Sin(s) r = Mul(s1, m) }>
}
<opset_import: ["" : 17, "own" : 1], domain: "own">
layer <alpha> (x, w) => (r) { a = MatMul(x, w) b = own.twice(a) r = LeakyRelu <alpha: float = @alpha> (b) }
<opset_import: ["" : 17], domain: "own">
twice (x) => (y) { y = Add(x, x) }
"""  # noqa: E501


@functools.cache
def seeds() -> list[bytes]:
    """The nets that mutants are made of, as files."""
    samples = [sample_model(s, bool(k % 2), False)[0] for k, s in enumerate(load_samples())]
    found = [model.SerializeToString() for model in samples]
    found += [onnx.parser.parse_model(FUNCTIONS).SerializeToString()] * 30
    files = [*ROOT.glob("models/*.onnx"), *ROOT.glob("tests/cases/*.onnx")]
    files += [Path(case.path()) for case in PACKAGED if case.is_installed()]
    small = [file.read_bytes() for file in files if file.stat().st_size <= LARGEST]
    return found + [content for content in small for _ in range(1 + 20_000 // len(content))]


def mutant(number: int) -> bytes:
    """A file that was changed one to four times."""
    rng = np.random.default_rng(number)
    content = seeds()[rng.integers(len(seeds()))]
    if rng.random() < 0.2:
        for _ in range(rng.integers(1, 5)):
            content = _of_bytes(rng, content)
        return content
    model = onnx.ModelProto.FromString(content)
    for _ in range(rng.integers(1, 4)):
        _CHANGES[rng.integers(len(_CHANGES))](rng, model)
    return model.SerializeToString()


def _of_bytes(rng: np.random.Generator, content: bytes) -> bytes:
    at, other = sorted(rng.integers(0, len(content) + 1, 2))
    kind = rng.integers(5)
    if kind == 0:
        return content[:other]
    if kind == 1:
        return content[:at] + rng.bytes(rng.integers(1, 9)) + content[at:]
    if kind == 2:
        return content[:at] + content[min(other, at + 16) :]
    if kind == 3:
        return content[:at] + content[at : at + 64] + content[at:]
    flipped = bytes(b ^ (1 << rng.integers(8)) for b in content[at : at + 1])
    return content[:at] + flipped + content[at + 1 :]


# -- changes of the structure ----------------------------------------------------------------------

_INTS = [0, 1, -1, 2, -2, 3, 7, 100, -100, 2**31 - 1, 2**31, -(2**31), 2**63 - 1, -(2**63)]
_FLOATS = [0.0, -1.0, 1.5, float("nan"), float("inf"), 1e38]
_TEXTS = ["", "x", "y0", "nowhere", "\x1b[31mred", "a\nb", "linear", "NOTSET", "ij,jk->", "𝒙" * 9]


def _one(rng: np.random.Generator, choices: Iterable[Any]) -> Any:
    found = list(choices)
    return found[rng.integers(len(found))] if found else None


def _messages(proto: Message, kind: type[Any]) -> Iterator[Any]:
    if isinstance(proto, kind):
        yield proto
    for field, value in proto.ListFields():
        if field.message_type:
            for part in [value] if isinstance(value, Message) else value:
                yield from _messages(part, kind)


def _node(rng: np.random.Generator, model: onnx.ModelProto) -> onnx.NodeProto:
    return _one(rng, _messages(model, onnx.NodeProto)) or onnx.NodeProto()


def _attribute(rng: np.random.Generator, model: onnx.ModelProto) -> None:
    """Another number, text or kind of an attribute, or none."""
    node = _node(rng, model)
    a = _one(rng, node.attribute)
    schema = _schema(node)
    if a is None or rng.random() < 0.4:
        name = _one(rng, schema.attributes if schema else ["axis"]) or "axis"
        a = next((old for old in node.attribute if old.name == name), None)
        if a is None:
            a = node.attribute.add(name=name)
            a.type = int(schema.attributes[name].type) if schema and schema.attributes else 2
    kind = rng.integers(8)
    if kind == 0:
        a.type = int(rng.integers(0, 15))
    elif kind == 1 and a in node.attribute:
        node.attribute.remove(a)
    elif a.type == onnx.AttributeProto.FLOAT:
        a.f = _one(rng, _FLOATS)
    elif a.type == onnx.AttributeProto.STRING:
        a.s = _one(rng, [*(t.encode() for t in _TEXTS), b"\xff\xfe"])
    elif a.type == onnx.AttributeProto.INTS:
        if len(a.ints) and kind < 6:
            a.ints[rng.integers(len(a.ints))] = _one(rng, _INTS)
        elif len(a.ints) and kind == 6:
            del a.ints[rng.integers(len(a.ints))]
        else:
            a.ints.append(_one(rng, _INTS))
    elif a.type == onnx.AttributeProto.STRINGS:
        a.strings.append(_one(rng, _TEXTS).encode())
        if kind > 4:
            del a.strings[rng.integers(len(a.strings))]
    elif a.type == onnx.AttributeProto.FLOATS:
        a.floats.append(_one(rng, _FLOATS))
    else:
        a.i = _one(rng, _INTS)


def _schema(node: onnx.NodeProto) -> onnx.defs.OpSchema | None:
    try:
        return onnx.defs.get_schema(node.op_type, node.domain)
    except onnx.defs.SchemaError:
        return None


def _operands(rng: np.random.Generator, model: onnx.ModelProto) -> None:
    """Operands or results that are left out, are more, in another order, or other tensors."""
    node = _node(rng, model)
    names = _one(rng, [node.input, node.output])
    kind = rng.integers(5)
    known = [n for other in _messages(model, onnx.NodeProto) for n in (*other.input, *other.output)]
    if kind == 0 and len(names):
        del names[rng.integers(len(names))]
    elif kind == 1:
        names.append(_one(rng, known) or "x")
    elif kind == 2 and len(names):
        names[rng.integers(len(names))] = _one(rng, [*_TEXTS, ""])
    elif kind == 3 and len(names):
        names[rng.integers(len(names))] = _one(rng, known)
    elif len(names) > 1:
        names[:] = names[::-1]


def _operator(rng: np.random.Generator, model: onnx.ModelProto) -> None:
    """Another operator, domain or overload."""
    node = _node(rng, model)
    if rng.random() < 0.7:
        same = [s.name for s in onnx.defs.get_all_schemas() if s.max_input >= len(node.input)]
        node.op_type = _one(rng, same)
    else:
        node.domain = _one(rng, ["", "ai.onnx", "com.microsoft", "own", "ai.onnx.ml", "\x1b[0m"])


def _nodes(rng: np.random.Generator, model: onnx.ModelProto) -> None:
    """Nodes that are missing, twice there, or out of order."""
    graph = _one(rng, _messages(model, onnx.GraphProto))
    if graph is None or not len(graph.node):
        return
    at = int(rng.integers(len(graph.node)))
    kind = rng.integers(3)
    if kind == 0:
        del graph.node[at]
    elif kind == 1:
        graph.node.add().CopyFrom(graph.node[at])
    else:
        graph.node.add().CopyFrom(graph.node[at])
        del graph.node[at]


def _type(rng: np.random.Generator, model: onnx.ModelProto) -> None:
    """Another dtype, rank or size of what is declared."""
    info = _one(rng, _messages(model, onnx.ValueInfoProto))
    if info is None:
        return
    kind, tensor = rng.integers(6), info.type.tensor_type
    if kind == 0:
        tensor.elem_type = int(rng.integers(0, 30))
    elif kind == 1:
        tensor.ClearField("shape")
    elif kind == 2:
        tensor.shape.dim.add().dim_value = _one(rng, _INTS)
    elif kind == 3 and len(tensor.shape.dim):
        del tensor.shape.dim[rng.integers(len(tensor.shape.dim))]
    elif kind == 4 and len(tensor.shape.dim):
        _one(rng, tensor.shape.dim).dim_value = _one(rng, _INTS)
    else:
        info.type.Clear()
        info.type.sequence_type.elem_type.tensor_type.elem_type = 1


def _weight(rng: np.random.Generator, model: onnx.ModelProto) -> None:
    """Weights of another dtype, of sizes or data that do not fit, or with other numbers."""
    tensor = _one(rng, _messages(model, onnx.TensorProto))
    if tensor is None:
        return
    kind = rng.integers(8)
    if kind == 0:
        tensor.data_type = int(rng.integers(0, 30))
    elif kind == 1:
        tensor.dims.append(_one(rng, _INTS))
    elif kind == 2 and len(tensor.dims):
        tensor.dims[rng.integers(len(tensor.dims))] = _one(rng, _INTS)
    elif kind == 3:
        tensor.raw_data = tensor.raw_data[: len(tensor.raw_data) // 2]
    elif kind == 4:
        tensor.float_data.append(1)
    elif kind == 5:
        tensor.data_location = onnx.TensorProto.EXTERNAL
        entry = tensor.external_data.add()
        entry.key, entry.value = "location", _one(rng, [*_TEXTS, "/etc/passwd", "a\0b", "."])
    elif tensor.data_type == onnx.TensorProto.INT64 and tensor.raw_data:
        count = len(tensor.raw_data) // 8
        numbers = np.frombuffer(tensor.raw_data[: 8 * count], "<i8").copy()
        if numbers.size:
            numbers[rng.integers(numbers.size)] = _one(rng, _INTS)
        tensor.raw_data = numbers.tobytes()
    else:
        tensor.dims[:] = tensor.dims[::-1]


def _name(rng: np.random.Generator, model: onnx.ModelProto) -> None:
    """Another name of an input, an output, a weight or a node."""
    kinds = (onnx.ValueInfoProto, onnx.TensorProto, onnx.NodeProto, onnx.GraphProto)
    named = _one(rng, itertools.chain(*(_messages(model, kind) for kind in kinds)))
    named.name = _one(rng, _TEXTS)


def _file(rng: np.random.Generator, model: onnx.ModelProto) -> None:
    """Other versions, functions, inputs and outputs."""
    kind = rng.integers(6)
    if kind == 0 and len(model.opset_import):
        _one(rng, model.opset_import).version = _one(rng, [*_INTS, *range(1, 28)])
    elif kind == 1:
        model.ir_version = _one(rng, [*_INTS, *range(1, 14)])
    elif kind == 2 and len(model.functions):
        function = _one(rng, model.functions)
        node = _one(rng, function.node)
        if node is not None:
            node.op_type, node.domain = function.name, function.domain
    elif kind == 3 and len(model.graph.input):
        del model.graph.input[rng.integers(len(model.graph.input))]
    elif kind == 4 and len(model.graph.output):
        _one(rng, [model.graph.input, model.graph.output]).add().CopyFrom(
            _one(rng, model.graph.output)
        )
    elif len(model.opset_import):
        del model.opset_import[rng.integers(len(model.opset_import))]


_CHANGES: list[Callable[[np.random.Generator, onnx.ModelProto], None]] = [
    *[_attribute] * 4,
    *[_operands] * 2,
    *[_type] * 2,
    *[_weight] * 3,
    _operator,
    _nodes,
    _name,
    _file,
]


# -- what becomes of a mutant ----------------------------------------------------------------------

FINE = ("made", "right", "refused", "guarded", "no net")
# A process has so much memory, and so many seconds for one mutant.
MEMORY, SECONDS = 6 * 2**30, 60.0


def judge(content: bytes, differences: bool) -> tuple[str, str]:
    """What becomes of a model, and why.

    "made" is a gradient that onnx's checker accepts, "right" one that central differences confirm
    too. "refused" is an `OnnxGradError`, "guarded" one for which only the guard has words. "no net"
    is a result that the checker does not accept, as it does not accept the mutant itself. All else
    is a defect.
    """
    try:
        made = og.gradient(content, og.ALL, forward=True)
    except og.OnnxGradError as error:
        return _refused(error)
    except Exception:
        return "raised", traceback.format_exc()
    try:
        onnx.checker.check_model(made, full_check=True)
    except Exception as error:
        return ("no net" if _is_refused(content) else "not valid"), str(error)
    return _compared(content) if differences else ("made", "")


def _refused(error: og.OnnxGradError) -> tuple[str, str]:
    if REPORT in str(error):
        return "guarded", traceback.format_exc()
    return "refused", str(error)


def _is_refused(content: bytes) -> bool:
    try:
        onnx.checker.check_model(onnx.ModelProto.FromString(content), full_check=True)
    except Exception:
        return True
    return False


def _may_write_twice(node: onnx.NodeProto) -> bool:
    return node.op_type.startswith("Scatter") and all(a.s in (b"", b"none") for a in node.attribute)


def _compared(content: bytes) -> tuple[str, str]:
    rng = np.random.default_rng(0)
    feeds = {}
    model = onnx.ModelProto.FromString(content)
    if any(not abs(a.f) < 1e30 for a in _messages(model, onnx.AttributeProto)):
        return "made", "not finite, or not in single precision"
    if any(map(_may_write_twice, model.graph.node)):
        return "made", "the standard does not say what stays where two numbers are written"
    weights = {w.name for w in model.graph.initializer}
    for info in model.graph.input:
        tensor = info.type.tensor_type
        shape = [d.dim_value if d.HasField("dim_value") else 2 for d in tensor.shape.dim]
        if info.name in weights:
            continue
        if (
            min(shape, default=0) < 0
            or np.prod(shape, dtype=float) > 1e5
            or tensor.elem_type not in (1, 6, 7, 9, 10, 11)
        ):
            return "made", "too large"
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
        numbers = rng.standard_normal(shape) if dtype.kind == "f" else rng.integers(0, 2, shape)
        feeds[info.name] = np.asarray(numbers, dtype)
    try:
        report = og.check(content, feeds)
    except og.OnnxGradError as error:
        outcome, why = _refused(error)
        return ("made" if outcome == "refused" else outcome), why
    except Exception:
        return "raised", traceback.format_exc()
    wrong = [row for row in report.rows if row.verdict == "wrong"]
    return ("wrong", str(report)) if wrong else ("right" if report else "made", "")


def serve(connection: Connection) -> None:
    """Judge mutants by their numbers until there are no more."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    warnings.simplefilter("ignore", og.ConstantSumWarning)
    with tempfile.TemporaryFile("w+", errors="replace") as printed:
        os.dup2(printed.fileno(), 1)
        os.dup2(printed.fileno(), 2)
        while (number := connection.recv()) is not None:
            content, start = mutant(number), time.process_time()
            outcome, why = judge(content, number % 4 == 0)
            sys.stdout.flush()
            sys.stderr.flush()
            printed.seek(0)
            text = printed.read()
            if outcome in FINE and text and number % 4:  # a runtime may print
                outcome, why = "printed", text
            printed.seek(0)
            printed.truncate()
            if outcome in FINE and time.process_time() - start > SECONDS / 4:
                outcome, why = "slow", f"{time.process_time() - start:.0f} s; {why}"
            connection.send((outcome, why))


class Workers:
    """Processes that judge mutants, forked from a server which has imported all and has no threads.

    A process that dies or takes too long is one mutant's defect, and another takes its place.
    """

    def __init__(self, count: int) -> None:
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["tests.mutants"])
        self._count = count

    def judge(self, numbers: Iterable[int], until: float = float("inf")) -> Iterator[Any]:
        """The number, outcome and reason of each mutant, in the order in which they are done."""
        left, busy = iter(numbers), {}
        for _ in range(self._count):
            self._next(busy, *self._start(), left)
        while busy:
            ready = wait(list(busy), timeout=1)
            for connection in list(busy):
                process, number, begun = busy[connection]
                if connection in ready:
                    try:
                        outcome, why = connection.recv()
                    except EOFError:
                        process.join()
                        outcome, why = "crashed", f"exit status {process.exitcode}"
                elif time.monotonic() - begun > SECONDS:
                    outcome, why = "hangs", f"more than {SECONDS:.0f} s"
                else:
                    continue
                del busy[connection]
                yield number, outcome, why
                if outcome in ("crashed", "hangs"):
                    process.kill()
                    process.join()
                    process, connection = self._start()
                if time.monotonic() > until:
                    left = iter(())
                self._next(busy, process, connection, left)

    def _start(self) -> Any:
        mine, its = self._context.Pipe()
        process = self._context.Process(target=serve, args=(its,), daemon=True)
        process.start()
        its.close()
        return process, mine

    def _next(self, busy: Any, process: Any, connection: Any, left: Iterator[int]) -> None:
        """Hand a process its next mutant, or end it."""
        number = next(left, None)
        connection.send(number)
        if number is not None:
            busy[connection] = (process, number, time.monotonic())
