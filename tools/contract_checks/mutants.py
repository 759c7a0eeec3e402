"""Derives mutants of a Solidity source from its syntax tree.

Each mutant replaces one range of the source text. The operators change a comparison or its boundary, an
arithmetic or bit operation, negate a condition, swap `&&` and `||`, remove a check or a statement, or change
a constant. In assembly they change functions and remove statements.
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

COMPARISONS = {
    "<": ("<=", ">="),
    "<=": ("<", ">"),
    ">": (">=", "<="),
    ">=": (">", "<"),
    "==": ("!=",),
    "!=": ("==",),
}
ARITHMETIC = {
    "+": "-",
    "-": "+",
    "*": "/",
    "/": "*",
    "%": "*",
    "<<": ">>",
    ">>": "<<",
    "&": "|",
    "|": "&",
    "^": "&",
}
LOGIC = {"&&": "||", "||": "&&"}
YUL = {
    "add": "sub",
    "sub": "add",
    "mul": "add",
    "div": "mul",
    "shl": "shr",
    "shr": "shl",
    "and": "or",
    "or": "and",
}
YUL |= {"lt": "gt", "gt": "lt", "eq": "lt"}
DELETABLE = (
    "ExpressionStatement",
    "EmitStatement",
    "Return",
    "IfStatement",
    "RevertStatement",
    "Break",
    "Continue",
)
# An empty block replaces a removed statement, because Solidity has no empty statement.
NOTHING = "{}"

Node = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Mutant:
    """Replaces the bytes `source[start:end]` by `after`."""

    file: str
    function: str
    operator: str
    start: int
    end: int
    before: str
    after: str

    @property
    def key(self) -> str:
        return f"{self.file}:{self.start}:{self.end}:{self.operator}:{self.after}"

    def apply(self, source: bytes) -> str:
        return (source[: self.start] + self.after.encode() + source[self.end :]).decode()

    def line(self, source: bytes) -> int:
        return source[: self.start].count(b"\n") + 1


class Mutator:
    """Finds the mutants of one source."""

    def __init__(self, file: str, source: bytes) -> None:
        self._file = file
        self._source = source
        self._function = ""
        self._makers: dict[str, Callable[[Node], Iterator[Mutant]]] = {
            "BinaryOperation": self._binary,
            "Assignment": self._assignment,
            "Literal": self._literal,
            "FunctionCall": self._call,
            "Conditional": lambda node: self._negation(node["condition"]),
            "YulFunctionCall": self._yul_call,
            "YulLiteral": self._yul_literal,
            "YulExpressionStatement": lambda node: self._gone("statement-deletion", node),
            "YulAssignment": lambda node: self._gone("statement-deletion", node),
        }

    def mutants(self, tree: Node) -> list[Mutant]:
        found = {mutant.key: mutant for mutant in self._walk(tree)}
        return [mutant for mutant in found.values() if mutant.before != mutant.after]

    def _walk(self, node: Any) -> Iterator[Mutant]:
        if isinstance(node, list):
            for each in node:
                yield from self._walk(each)
        if not isinstance(node, dict) or node.get("nodeType") in (
            "ImportDirective",
            "StructuredDocumentation",
        ):
            return
        outer = self._function
        if node.get("nodeType") in ("FunctionDefinition", "ModifierDefinition"):
            self._function = node["name"] or node["kind"]
        yield from self._of(node)
        for value in node.values():
            yield from self._walk(value)
        self._function = outer

    def _of(self, node: Node) -> Iterator[Mutant]:
        kind = node.get("nodeType", "")
        if kind in self._makers:
            yield from self._makers[kind](node)
        if kind in DELETABLE:
            yield from self._gone("check-removal" if _is_check(node) else "statement-deletion", node)
        if kind in ("IfStatement", "WhileStatement"):
            yield from self._negation(node["condition"])
        if (
            kind == "Return"
            and (node.get("expression") or {}).get("typeDescriptions", {}).get("typeString") == "bool"
        ):
            yield from self._negation(node["expression"])

    def _binary(self, node: Node) -> Iterator[Mutant]:
        (name, left, right) = (node["operator"], node["leftExpression"], node["rightExpression"])
        for other in COMPARISONS.get(name, ()):
            yield self._between("comparison", left, right, name, other)
        if name in ARITHMETIC:
            yield self._between("arithmetic", left, right, name, ARITHMETIC[name])
        if name in LOGIC:
            yield self._between("logic", left, right, name, LOGIC[name])

    def _assignment(self, node: Node) -> Iterator[Mutant]:
        name = node["operator"]
        if name != "=" and name[:-1] in ARITHMETIC:
            (left, right) = (node["leftHandSide"], node["rightHandSide"])
            yield self._between("arithmetic", left, right, name, ARITHMETIC[name[:-1]] + "=")
            yield self._between("arithmetic", left, right, name, "=")

    def _literal(self, node: Node) -> Iterator[Mutant]:
        (kind, text) = (node["kind"], self._text(node))
        if kind == "bool":
            yield self._replaced("constant", node, "false" if text == "true" else "true")
        elif kind == "number":
            yield self._replaced("constant", node, f"({text} + 1)")
            yield self._replaced("constant", node, "1" if text == "0" else "0")
        elif kind == "string":
            yield self._replaced("constant", node, '"mutant"')

    def _call(self, node: Node) -> Iterator[Mutant]:
        if node["expression"].get("name") in ("require", "assert"):
            yield from self._negation(node["arguments"][0])

    def _yul_call(self, node: Node) -> Iterator[Mutant]:
        name = node["functionName"]
        if name["name"] in YUL:
            yield self._replaced("assembly", name, YUL[name["name"]])

    def _yul_literal(self, node: Node) -> Iterator[Mutant]:
        if node["kind"] == "number":
            yield self._replaced("constant", node, str(int(node["value"], 0) + 1))

    def _negation(self, condition: Node) -> Iterator[Mutant]:
        # The mutants of comparisons include their negation.
        if condition.get("operator") not in COMPARISONS:
            yield self._replaced("negation", condition, f"!({self._text(condition)})")

    def _gone(self, operator: str, node: Node) -> Iterator[Mutant]:
        (start, end) = _span(node)
        # The range of a statement ends before its semicolon.
        if self._source[end : end + 1] == b";":
            end += 1
        yield self._mutant(operator, start, end, NOTHING)

    def _between(self, operator: str, left: Node, right: Node, before: str, after: str) -> Mutant:
        (low, high) = (_span(left)[1], _span(right)[0])
        start = self._source.index(before.encode(), low, high)
        return self._mutant(operator, start, start + len(before), after)

    def _replaced(self, operator: str, node: Node, after: str) -> Mutant:
        return self._mutant(operator, *_span(node), after)

    def _mutant(self, operator: str, start: int, end: int, after: str) -> Mutant:
        before = self._source[start:end].decode()
        return Mutant(self._file, self._function, operator, start, end, before, after)

    def _text(self, node: Node) -> str:
        (start, end) = _span(node)
        return self._source[start:end].decode()


def _span(node: Node) -> tuple[int, int]:
    (start, length, _) = map(int, node["src"].split(":"))
    return start, start + length


def _is_check(node: Node) -> bool:
    call = node.get("expression") or {}
    return node["nodeType"] == "RevertStatement" or (call.get("expression") or {}).get("name") in (
        "require",
        "assert",
    )


def quotas(sizes: dict[str, int], total: int) -> dict[str, int]:
    """Distribute `total` over the files by size, by the largest-remainder method."""
    whole = sum(sizes.values())
    shares = {file: total * size // whole for file, size in sizes.items()}
    by_rest = sorted(sizes, key=lambda file: (-(total * sizes[file] % whole), file))
    for file in by_rest[: total - sum(shares.values())]:
        shares[file] += 1
    return shares


def shuffled(mutants: list[Mutant], seed: int) -> list[Mutant]:
    """Return the mutants of a file in the order in which they are tested."""
    order = sorted(mutants, key=lambda mutant: mutant.key)
    random.Random(f"{seed}:{order[0].file}" if order else seed).shuffle(order)  # noqa: S311  # not for secrets
    return order
