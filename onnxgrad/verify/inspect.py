"""What stands between a tensor and its gradient: every operator on the way, and its state."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import onnx_ir as ir
from typing_extensions import Unpack

from onnxgrad.declare.registry import State
from onnxgrad.emit.builder import Builder
from onnxgrad.emit.subgraphs import captures
from onnxgrad.emit.tensor import RankUnknown, Refusal, Tensor
from onnxgrad.engine.flow import Edge, Flow, edge, operand_name, operands
from onnxgrad.engine.reverse import vjp
from onnxgrad.engine.straight_through import entry_of
from onnxgrad.graph import io
from onnxgrad.graph.errors import NoRuleError, RuleError
from onnxgrad.graph.facts import carries, cotangent_dtype, subgraphs
from onnxgrad.passes.written import write_opset
from onnxgrad.transforms.job import Job
from onnxgrad.transforms.options import Of, Options, Traced, Wrt, spelt_out
from onnxgrad.verify.table import aligned
from onnxgrad.verify.tensors import TensorTable, tensors_of

# What a node without a rule lacks: the type of an operand, which the operator before it does not
# tell; the number of axes of one, which an example tells; or the rule. "" where it lacks nothing.
Lack: TypeAlias = Literal["", "type", "rank", "rule"]
_Judged: TypeAlias = tuple[State, str, Lack]

_ORDER = {"none": 0, "zero": 1, "rule": 2}
_MEANING = {"none": "no rule", "zero": "zero derivative", "rule": "rule"}


@dataclass(frozen=True)
class OperatorRow:
    """One operator on the way, in one state."""

    operator: str
    domain: str
    state: State
    reason: str
    count: int
    nodes: tuple[str, ...]
    lack: Lack = ""
    """What a node without a rule lacks: "rule", or the "type" or "rank" of an operand."""


@dataclass(frozen=True)
class InspectReport:
    """Every operator on the paths from `wrt` to `of`, those without a rule first."""

    wrt: tuple[str, ...]
    of: tuple[str, ...]
    rows: tuple[OperatorRow, ...]
    unreached: tuple[str, ...]
    """The tensors of `wrt` that no gradient reaches, unless `gradient` is told to give zeros."""
    caution: str = ""
    """What to know of a gradient that means next to nothing; else empty."""
    rounds: bool = False
    """Whether that is so because the gradient leaves out what is rounded on the paths."""
    unranked: tuple[str, ...] = ()
    """The tensors on a path from which on nothing tells how many axes there are, without `example`.
    """
    opset: int = 0
    """The opset of what a transform writes."""
    ir_version: int = 0
    """The IR version of what a transform writes."""
    _net: ir.Model | None = field(default=None, repr=False, compare=False)

    @functools.cached_property
    def tensors(self) -> TensorTable:
        """Every tensor of the net that can be named, with its dtype, shape and node.

        print(og.inspect("model.onnx").tensors.matching("Conv"))
        """
        return tensors_of(self._net)

    @property
    def ok(self) -> bool:
        """Whether every operator on a path has a rule or is known to have a zero derivative."""
        return all(row.state != "none" for row in self.rows)

    def __iter__(self) -> Iterator[OperatorRow]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __str__(self) -> str:
        cells = [("operator", "nodes", "state", "reason")]
        for r in self.rows:
            name = f"{r.domain}::{r.operator}" if r.domain else r.operator
            where = f"{r.reason} ({', '.join(r.nodes[:3])}{', ...' if r.count > 3 else ''})"
            reason = where if r.state == "none" else r.reason
            cells.append((name, str(r.count), _MEANING[r.state], reason))
        lines = aligned(cells, right={1})
        if self.unreached:
            lines.append(f"No gradient reaches {', '.join(self.unreached)}.")
        refused = sum(r.count for r in self.rows if r.state == "none")
        if refused:
            lines.append(f"Refused at {refused} nodes.")
        elif not self.unreached:
            lines.append("Can be differentiated.")
        if self.caution:
            lines.append(self.caution)
        return "\n".join(lines)


@spelt_out
def inspect(model: Any, wrt: Wrt = None, of: Of = None, **options: Unpack[Traced]) -> InspectReport:
    """Every operator on the paths from `wrt` to `of`: with a rule, of zero derivative, or without.

    A rule may refuse a particular node, so every rule on the way is tried. The opset of the model
    is raised and its functions are inlined first, but for declared ones: operators can be others
    than those of the file.

    Args:
        model: A path, an `onnx.ModelProto`, its bytes or an `onnx_ir.Model`; it is not changed.
        wrt, of, straight_through, constant, example: As for `gradient`.

    Raises:
        ModelError: The model cannot be read or is not valid.
        UnknownNameError: No tensor of that name; the nearest are listed.
        ArgumentError: The arguments make no sense together.
    """
    source = io.load(model)
    net = io.load(source)
    job = Job(net, wrt, Options(of=of, **options))
    flow = Flow.of(net.graph, job.wrt, job.of)
    unranked = _unranked(flow)
    op = Builder(net.graph)
    blocked: dict[ir.Node, list[Edge]] = {}
    for e in flow.blocked:
        blocked.setdefault(e.node, []).append(e)
    found: dict[ir.Node, _Judged] = {}
    for node in flow.nodes:
        found |= _within(node, flow)  # before the trial, which can add to the inner graphs
        found[node] = _judge(op, node, flow, blocked.pop(node, []))
    found |= {node: ("zero", edges[0].reason, "") for node, edges in blocked.items()}
    rounding = job.caution_of_rounding(flow)
    write_opset(net)
    return InspectReport(
        tuple(v.name or "" for v in job.wrt),
        tuple(v.name or "" for v in job.of),
        _rows(found),
        tuple(v.name or "" for v in job.wrt if not flow.matters(v)),
        " ".join(filter(None, [job.caution, rounding])),
        bool(rounding),
        unranked,
        net.opset_imports[""],
        net.ir_version,
        source,
    )


def _unranked(flow: Flow) -> tuple[str, ...]:
    """The first tensors of unknown rank on each path, but for those that a Reshape tells of."""
    return tuple(
        v.name or ""
        for node in flow.nodes
        for v in node.outputs
        if carries(v)
        and isinstance(v.type, ir.TensorType)
        and v.shape is None
        and not any(u is not None and _is_open(u) for u in node.inputs)
        and not any(
            u.op_type == "Reshape" and u.outputs[0].shape is not None for u in v.consumers()
        )
    )


def _is_open(value: ir.Value) -> bool:
    """Whether nothing tells the rank of a tensor, or not even that it is one."""
    return value.shape is None and isinstance(value.type, ir.TensorType | type(None))


def _judge(op: Builder, node: ir.Node, flow: Flow, blocked: list[Edge]) -> _Judged:
    """The state of one node on a path, found by a trial of its rules."""
    edges = _edges(node, flow)
    if missing := _missing(edges):
        return "none", missing, "rule"
    if untyped := next((v for v in node.inputs if v is not None and v.type is None), None):
        reason = f"the type of {untyped.name!r} is unknown without a rule for what gives it"
        return "none", reason, "type"
    gs = [_stand_in(op, v) if flow.matters(v) else None for v in node.outputs]
    try:
        vjp(op, node, gs, [e.index for e in edges if e.state == "rule"])
    except (Refusal, NoRuleError, RuleError) as e:
        return "none", str(e), "rank" if _asks_for_rank(e) else "rule"
    reasons = [*dict.fromkeys(e.reason for e in edges if e.reason), *map(_remark, blocked)]
    return "rule", "; ".join(reasons), ""


def _asks_for_rank(error: BaseException | None) -> bool:
    """Whether a rank was asked for, in an inner graph too, which raises another error for it."""
    return error is not None and (
        isinstance(error, RankUnknown) or _asks_for_rank(error.__cause__ or error.__context__)
    )


def _stand_in(op: Builder, value: ir.Value) -> Tensor:
    """What can stand for the cotangent of a value, of which only the type matters here: itself."""
    dtype = cotangent_dtype(value)
    return op.tensor(value) if dtype is None else op.cast(op.tensor(value), dtype)


def _within(node: ir.Node, flow: Flow) -> dict[ir.Node, _Judged]:
    """The operators in the graphs of a node on a path, by what is declared of them."""
    found: dict[ir.Node, _Judged] = {}
    outer = [v for v in captures(node) if flow.matters(v)]
    for graph in subgraphs(node):
        sources = [*outer, *(v for v in graph.inputs if carries(v))]
        inner = Flow.of(graph, sources, [v for v in graph.outputs if carries(v)])
        found |= {e.node: ("zero", e.reason, "") for e in inner.blocked}
        for n in inner.nodes:
            missing = _missing(_edges(n, inner))
            found[n] = ("none", missing, "rule") if missing else ("rule", "", "")
            found |= _within(n, inner)
    return found


def _edges(node: ir.Node, flow: Flow) -> list[Edge]:
    values = enumerate(operands(node))
    return [edge(node, k, v) for k, v in values if v is not None and flow.matters(v)]


def _missing(edges: list[Edge]) -> str:
    return "; ".join(dict.fromkeys(_remark(e) for e in edges if e.state == "none"))


def _remark(e: Edge) -> str:
    if entry_of(e.node) is None:  # nothing is known of its operands
        return e.reason
    return f"{operand_name(e.node, e.index)}: {e.reason}"


def _rows(found: dict[ir.Node, _Judged]) -> tuple[OperatorRow, ...]:
    groups: dict[tuple[str, str, State, str, Lack], list[str]] = {}
    for node, (state, reason, lack) in found.items():
        key = (node.op_type, node.domain, state, reason, lack)
        groups.setdefault(key, []).append(node.name or "")
    rows = [
        OperatorRow(name, domain, state, reason, len(nodes), tuple(nodes), lack)
        for (name, domain, state, reason, lack), nodes in groups.items()
    ]
    return tuple(sorted(rows, key=lambda r: (_ORDER[r.state], r.domain, r.operator)))
