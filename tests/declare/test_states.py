"""Every operator of the standard has one state, and what the rules emit has rules itself."""

from __future__ import annotations

import onnx
import pytest

import onnxgrad as og
from onnxgrad.declare import registry
from onnxgrad.declare.expansions import expandable
from onnxgrad.graph.functions import has_body
from tests.rules.test_rules import CASES, float_outputs, floats, sample_model
from tools.operators import floating, newest_schemas

SCHEMAS = {key: s for key, s in newest_schemas().items() if not s.deprecated}


@pytest.mark.parametrize(("domain", "operator"), sorted(SCHEMAS))
def test_has_a_state(domain: str, operator: str) -> None:
    entry = registry.lookup(domain, operator)
    if entry is None:
        found = has_body(domain, operator) or (domain, operator) in expandable()
        assert found, "declare a rule, zero or not_implemented"
        return
    state, reason = entry.state
    # A rule beside an expansion is for what that leaves.
    assert (domain, operator) not in expandable() or state == "rule"
    assert state == "rule" or reason


@pytest.mark.parametrize("entry", registry.entries(), ids=lambda entry: entry.name)
def test_every_floating_operand_has_a_state(entry: registry.Entry) -> None:
    schema = newest_schemas().get((entry.domain, entry.op_type))
    if schema is None:
        pytest.skip("no operator of the standard")
    declared = entry.functions.keys() | entry.zeros.keys() | entry.nones.keys()
    missing = [n for n in entry.schema.inputs if floating(schema, n) and n not in declared]
    assert not missing or "" in declared


def test_what_the_rules_emit_has_rules_itself() -> None:
    """Rules are closed: a gradient can be differentiated again, whatever shapes are known."""
    emitted: dict[str, str] = {}
    variants: dict[int, list[tuple]] = {}
    for case in CASES:
        variants.setdefault(id(case.values[0]), []).append(case.values)
    # What is known most and what is known least: between them a rule takes all of its ways.
    for sample, symbolic, fed in (v for many in variants.values() for v in (many[0], many[-1])):
        model, _ = sample_model(sample, symbolic, fed)
        wrt, of = floats(sample), float_outputs(model, sample)
        backward = og.gradient(model, wrt, of=of, unreachable="zeros")
        forward = {n.op_type for n in model.graph.node}
        for node in every_node(backward.graph):
            if node.op_type not in forward:
                emitted.setdefault(node.op_type, str(sample))
    assert emitted
    open_ends = {
        name: sample
        for name, sample in emitted.items()
        if not has_body("", name)
        and ((entry := registry.lookup("", name)) is None or entry.state[0] == "none")
    }
    assert not open_ends


def every_node(graph: onnx.GraphProto):
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (*attribute.graphs, attribute.g):
                yield from every_node(inner)
