"""Writes the tables of operators: docs/operators.md, and the summary in README.md.

python tools/operators.py            writes both
python tools/operators.py --check    exit code 1 if one is not current
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx

from onnxgrad.declare import registry
from onnxgrad.declare.expansions import expandable, module_of
from onnxgrad.graph.functions import has_body

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "operators.md"
README = ROOT / "README.md"
BEGIN, END = "<!-- operators: made by tools/operators.py -->", "<!-- /operators -->"

STATES = {
    "rule": "rule",
    "body": "through its function body",
    "expanded": "replaced by others",
    "zero": "zero derivative",
    "none": "not implemented",
}
HEAD = f"""
Made from the registry by `make operators`, with the newest opset of onnx {onnx.__version__}.
A model of an opset below 21 is raised to 21 before it is differentiated, and the result is written
in an older one again.

- **rule**: a gradient with respect to the operands listed.
- **through its function body**: the standard defines the operator by others, whose rules apply.
- **replaced by others**: deprecated, or of another domain, and replaced by the standard's own.
- **zero derivative**: zero wherever it exists, or no floating-point path leads through it.
- **not implemented**: refused, with the reason in the last column, when it lies on a path.

The module is the one of the folder `onnxgrad` that declares the operator.

"""


@dataclass(frozen=True)
class Line:
    """One operator of the table."""

    domain: str
    operator: str
    since: int | None
    state: str
    operands: tuple[str, ...]
    module: str
    note: str


def newest_schemas() -> dict[tuple[str, str], onnx.defs.OpSchema]:
    """The newest schema of every operator of the installed onnx."""
    found: dict[tuple[str, str], onnx.defs.OpSchema] = {}
    for schema in onnx.defs.get_all_schemas_with_history():
        key = (schema.domain, schema.name)
        if key not in found or found[key].since_version < schema.since_version:
            found[key] = schema
    return found


def floating(schema: onnx.defs.OpSchema, operand: str) -> bool:
    """Whether the standard allows the operand to be float32 or a container of it."""
    kinds = {c.type_param_str: c.allowed_type_strs for c in schema.type_constraints}
    types = next(p.type_str for p in schema.inputs if p.name == operand)
    return any("tensor(float)" in kind for kind in kinds.get(types, [types]))


def first_versions() -> dict[tuple[str, str], int]:
    """The opset in which every operator first appeared."""
    found: dict[tuple[str, str], int] = {}
    for schema in onnx.defs.get_all_schemas_with_history():
        key = (schema.domain, schema.name)
        found[key] = min(schema.since_version, found.get(key, schema.since_version))
    return found


def remarks(entry: registry.Entry) -> str:
    """Why some of an operator's operands have no gradient."""
    operands: dict[str, list[str]] = {}
    for operand, reason in (entry.zeros | entry.nones).items():
        operands.setdefault(reason, []).append(operand)
    return "; ".join(f"{', '.join(names)}: {reason}" for reason, names in operands.items())


def line(domain: str, operator: str, schema: onnx.defs.OpSchema | None, since: int | None) -> Line:
    """What the registry knows of an operator."""
    entry = registry.lookup(domain, operator)
    if entry is None:
        floats = [p.name for p in schema.inputs if floating(schema, p.name)] if schema else []
        if (domain, operator) in expandable():
            note, module = expandable()[domain, operator], module_of(domain, operator)
            return Line(domain, operator, since, "expanded", tuple(floats), module, note)
        if schema and schema.deprecated:
            note = "by raising the opset"
            return Line(domain, operator, since, "expanded", tuple(floats), "", note)
        if has_body(domain, operator):
            return Line(domain, operator, since, "body", tuple(floats), "", "")
        return Line(domain, operator, since, "none", (), "", "no rule yet")
    state, note = entry.state
    if state == "rule":
        note = remarks(entry)
    operands = tuple(
        name
        for name in entry.schema.inputs
        if entry.operand_state(name)[0] == "rule" and (schema is None or floating(schema, name))
    )
    return Line(domain, operator, since, state, operands, entry.module, note)


def lines() -> list[Line]:
    """Every operator of the installed onnx and of the registry, by domain and name."""
    schemas, since = newest_schemas(), first_versions()
    known = set(schemas) | {(e.domain, e.op_type) for e in registry.entries()} | set(expandable())
    return [line(*key, schemas.get(key), since.get(key)) for key in sorted(known)]


def summary(table: list[Line]) -> str:
    """How many operators are in which state, by domain."""
    counts = Counter((entry.domain, entry.state) for entry in table)
    rows = [
        "| domain | " + " | ".join(STATES.values()) + " | all |",
        "| --- |" + " ---: |" * (len(STATES) + 1),
    ]
    for domain in sorted({entry.domain for entry in table}):
        numbers = [counts[domain, state] for state in STATES]
        cells = " | ".join(map(str, [*numbers, sum(numbers)]))
        rows.append(f"| {domain or 'ai.onnx'} | {cells} |")
    return "\n".join(rows) + "\n"


def page(table: list[Line]) -> str:
    """What docs/operators.md says of the operators."""
    parts = [HEAD, summary(table)]
    for domain in sorted({entry.domain for entry in table}):
        parts.append(f"\n## {domain or 'ai.onnx'}\n\n")
        parts.append(
            "| operator | since opset | state | gradient with respect to | module | remarks |\n"
        )
        parts.append("| --- | ---: | --- | --- | --- | --- |\n")
        parts.extend(row(entry) for entry in table if entry.domain == domain)
    return "".join(parts)


def row(entry: Line) -> str:
    """One line of the table, as Markdown."""
    since = "" if entry.since is None else str(entry.since)
    module = entry.module.removeprefix("onnxgrad.").replace(".", "/")
    operands = ", ".join(entry.operands)
    cells = [entry.operator, since, STATES[entry.state], operands, module, entry.note]
    return "| " + " | ".join(c.replace("|", "\\|") for c in cells) + " |\n"


def pages() -> Iterator[tuple[Path, str]]:
    """The files that hold a generated part, with the text that they should have."""
    table = lines()
    yield PAGE, between(PAGE.read_text(), BEGIN, END, page(table))
    yield README, between(README.read_text(), BEGIN, END, f"\n{summary(table)}")


def between(page: str, begin: str, end: str, text: str) -> str:
    """A page with another text, of whole lines, between two lines of it."""
    before, _, rest = page.partition(begin)
    _, _, after = rest.partition(end)
    return f"{before}{begin}\n{text}\n{end}{after}"


def main(arguments: list[str]) -> int:
    """The exit code."""
    stale = [(p, text) for p, text in pages() if p.read_text() != text]
    for path, text in stale:
        name = path.relative_to(ROOT)
        if "--check" in arguments:
            print(f"{name} is not current: run `make operators`")
        else:
            path.write_text(text)
            print(f"wrote {name}")
    return int(bool(stale) and "--check" in arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
