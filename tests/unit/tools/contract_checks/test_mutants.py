from typing import Any

from tools.contract_checks.mutants import Mutant, Mutator, quotas, shuffled

SOURCE = b"function f() { require(a <= b, E()); x += 1; }"


def node(node_type: str, text: str, **fields: Any) -> dict[str, Any]:
    return spanning(text, text, nodeType=node_type, **fields)


def spanning(text: str, context: str, **fields: Any) -> dict[str, Any]:
    """Return a node for `text` at the first occurrence of `context`, which starts with it."""
    return {"src": f"{SOURCE.index(context.encode())}:{len(text)}:0", **fields}


def tree() -> dict[str, Any]:
    names = {each: node("Identifier", each, name=each) for each in ("require", "x")}
    a = spanning("a", "a <=", nodeType="Identifier", name="a")
    b = spanning("b", "b, E", nodeType="Identifier", name="b")
    condition = node("BinaryOperation", "a <= b", operator="<=", leftExpression=a, rightExpression=b)
    check = node("FunctionCall", "require(a <= b, E())", expression=names["require"], arguments=[condition])
    one = node("Literal", "1", kind="number", value="1")
    addition = node("Assignment", "x += 1", operator="+=", leftHandSide=names["x"], rightHandSide=one)
    statements = [
        node("ExpressionStatement", "require(a <= b, E())", expression=check),
        node("ExpressionStatement", "x += 1", expression=addition),
    ]
    return node(
        "FunctionDefinition", SOURCE.decode(), name="f", kind="function", body={"statements": statements}
    )


def changed() -> dict[str, str]:
    """Return mutated source -> operator."""
    return {mutant.apply(SOURCE): mutant.operator for mutant in Mutator("F.sol", SOURCE).mutants(tree())}


def test_every_operator_changes_only_its_range() -> None:
    assert changed() == {
        "function f() { require(a < b, E()); x += 1; }": "comparison",
        "function f() { require(a > b, E()); x += 1; }": "comparison",
        "function f() { {} x += 1; }": "check-removal",
        "function f() { require(a <= b, E()); {} }": "statement-deletion",
        "function f() { require(a <= b, E()); x -= 1; }": "arithmetic",
        "function f() { require(a <= b, E()); x = 1; }": "arithmetic",
        "function f() { require(a <= b, E()); x += (1 + 1); }": "constant",
        "function f() { require(a <= b, E()); x += 0; }": "constant",
    }


def test_a_mutant_knows_its_function_and_line() -> None:
    mutants = Mutator("F.sol", SOURCE).mutants(tree())
    assert {mutant.function for mutant in mutants} == {"f"}
    assert {mutant.line(SOURCE) for mutant in mutants} == {1}


def test_the_quotas_sum_to_the_total_and_follow_the_sizes() -> None:
    shares = quotas({"a": 333, "b": 333, "c": 1}, 200)
    assert sum(shares.values()) == 200
    assert shares["a"] == shares["b"] == 100


def test_the_order_depends_only_on_the_seed() -> None:
    mutants = [Mutant("F.sol", "f", "constant", i, i + 1, "0", "1") for i in range(50)]
    assert shuffled(mutants, 1) == shuffled(mutants[::-1], 1)
    assert shuffled(mutants, 1) != shuffled(mutants, 2)
