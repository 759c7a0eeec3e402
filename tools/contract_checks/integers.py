"""Proves that a bit-vector formula of Halmos is unsatisfiable by interpreting it over the integers.

Bit-blasting cannot solve products of amounts and shares. Over the integers, with known bounds of each term,
most wrap-arounds are impossible, which leaves linear arithmetic over the products. A term that this module
cannot interpret becomes an unknown within its bounds, so only "unsatisfiable" is conclusive: it then holds
for the bit vectors too. Runs in Halmos's environment, which has z3.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

import z3

if TYPE_CHECKING:
    from collections.abc import Callable

# Halmos first asks with unknown functions in place of the EVM's products, quotients and remainders.
UNDEFINED = re.compile(r"^\(declare-fun (f_evm_(bvmul|bvudiv|bvurem)_(\d+)) .*\)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Number:
    """The integer value of a bit vector, and an upper bound of it."""

    value: Any
    most: int


class Reading:
    """Interprets one formula over the integers; `facts` are the bounds of the unknowns."""

    def __init__(self, formula: list[Any]) -> None:
        self.facts: list[Any] = []
        # The arrays that the formula defines as another one with one element stored. Kept with the terms that
        # are created here: a term's id is its own only as long as the term lives.
        self._stores = {each.arg(0).get_id(): each.arg(1) for each in formula if _is_definition(each)}
        self._kept: list[Any] = [formula]
        self._elements: dict[int, list[tuple[Any, Number]]] = {}
        self._numbers: dict[int, Number] = {}
        self._truths: dict[int, Any] = {}
        self._number_readers = {
            z3.Z3_OP_BNUM: lambda t: Number(z3.IntVal(t.as_long()), t.as_long()),
            z3.Z3_OP_CONCAT: self._concat,
            z3.Z3_OP_EXTRACT: self._extract,
            z3.Z3_OP_ZERO_EXT: lambda t: self.number(t.arg(0)),
            z3.Z3_OP_BADD: self._sum,
            z3.Z3_OP_BSUB: lambda t: self._wrapped(t, [self.number(t.arg(0))], [self.number(t.arg(1))]),
            z3.Z3_OP_BNEG: lambda t: self._wrapped(t, [], [self.number(t.arg(0))]),
            z3.Z3_OP_BMUL: self._product,
            z3.Z3_OP_BUDIV: self._quotient,
            z3.Z3_OP_BUDIV_I: self._quotient,
            z3.Z3_OP_ITE: self._choice,
            z3.Z3_OP_SELECT: self._element,
        }
        self._truth_readers: dict[int, Callable[[Any], Any]] = {
            z3.Z3_OP_TRUE: lambda _: z3.BoolVal(True),
            z3.Z3_OP_FALSE: lambda _: z3.BoolVal(False),
            z3.Z3_OP_AND: lambda t: z3.And(*map(self.truth, t.children())),
            z3.Z3_OP_OR: lambda t: z3.Or(*map(self.truth, t.children())),
            z3.Z3_OP_NOT: lambda t: z3.Not(self.truth(t.arg(0))),
            z3.Z3_OP_IMPLIES: lambda t: z3.Implies(*map(self.truth, t.children())),
            z3.Z3_OP_EQ: self._equal,
            z3.Z3_OP_ULEQ: lambda t: self.number(t.arg(0)).value <= self.number(t.arg(1)).value,
            z3.Z3_OP_ULT: lambda t: self.number(t.arg(0)).value < self.number(t.arg(1)).value,
            z3.Z3_OP_UGEQ: lambda t: self.number(t.arg(0)).value >= self.number(t.arg(1)).value,
            z3.Z3_OP_UGT: lambda t: self.number(t.arg(0)).value > self.number(t.arg(1)).value,
        }

    def truth(self, term: Any) -> Any:
        key = term.get_id()
        if key not in self._truths:
            reader = self._truth_readers.get(term.decl().kind())
            read = None if reader is None else reader(term)
            self._truths[key] = z3.FreshBool() if read is None else read
        return self._truths[key]

    def number(self, term: Any) -> Number:
        key = term.get_id()
        if key not in self._numbers:
            reader = self._number_readers.get(term.decl().kind())
            read = None if reader is None else reader(term)
            self._numbers[key] = self._unknown(term.size()) if read is None else read
        return self._numbers[key]

    def _unknown(self, width: int) -> Number:
        unknown = z3.FreshInt()
        self.facts += [unknown >= 0, unknown < 2**width]
        return Number(unknown, 2**width - 1)

    def _equal(self, term: Any) -> Any:
        (left, right) = term.children()
        if z3.is_bv(left):
            return self.number(left).value == self.number(right).value
        return self.truth(left) == self.truth(right) if z3.is_bool(left) else None

    def _choice(self, term: Any) -> Number:
        (yes, no) = (self.number(term.arg(1)), self.number(term.arg(2)))
        return Number(z3.If(self.truth(term.arg(0)), yes.value, no.value), max(yes.most, no.most))

    def _concat(self, term: Any) -> Number:
        (value, most) = (z3.IntVal(0), 0)
        for part in term.children():
            (read, factor) = (self.number(part), 2 ** part.size())
            (value, most) = (value * factor + read.value, most * factor + read.most)
        return Number(value, most)

    def _extract(self, term: Any) -> Number:
        (high, low) = term.params()
        whole = self.number(term.arg(0))
        shifted = whole if low == 0 else Number(whole.value / 2**low, whole.most >> low)
        return _within(shifted, high - low + 1)

    def _sum(self, term: Any) -> Number:
        plus: list[Number] = []
        minus: list[Number] = []
        for part in term.children():
            negated = self._negated(part)
            (plus if negated is None else minus).append(self.number(part) if negated is None else negated)
        return self._wrapped(term, plus, minus)

    def _negated(self, term: Any) -> Number | None:
        """Return `t` if a summand is `-t`: a constant in the upper half, alone or times a term."""
        (size, kind) = (term.size(), term.decl().kind())
        if kind == z3.Z3_OP_BNEG:
            return self.number(term.arg(0))
        if kind == z3.Z3_OP_BNUM and term.as_long() >= 2 ** (size - 1):
            return Number(z3.IntVal(2**size - term.as_long()), 2**size - term.as_long())
        if kind == z3.Z3_OP_BMUL and term.num_args() == 2 and (factor := self._negated(term.arg(0))):
            other = self.number(term.arg(1))
            return Number(factor.value * other.value, factor.most * other.most)
        return None

    def _element(self, term: Any) -> Number:
        (array, at) = term.children()
        stored = self._stores.get(array.get_id(), array)
        if z3.is_store(stored):
            (base, key, value) = stored.children()
            unchanged = z3.Select(base, at)
            self._kept.append(unchanged)
            (new, old) = (self.number(value), self.number(unchanged))
            is_new = self.number(key).value == self.number(at).value
            return Number(z3.If(is_new, new.value, old.value), max(new.most, old.most))
        element = self._unknown(term.size())
        known = self._elements.setdefault(array.get_id(), [])
        index = self.number(at).value
        self.facts += [z3.Implies(index == other, element.value == each.value) for (other, each) in known]
        known.append((index, element))
        return element

    def _wrapped(self, term: Any, plus: list[Number], minus: list[Number]) -> Number:
        (up, down, size) = (_total(plus), _total(minus), 2 ** term.size())
        if down.most == 0:
            return _within(up, term.size())
        difference = up.value - down.value
        if up.most < size and down.most < size:
            return Number(z3.If(up.value >= down.value, difference, difference + size), size - 1)
        return Number(difference % size, size - 1)

    def _product(self, term: Any) -> Number:
        if negated := self._negated(term):
            return self._wrapped(term, [], [negated])
        factors = [self.number(part) for part in term.children()]
        whole = reduce(lambda x, y: Number(x.value * y.value, x.most * y.most), factors)
        return _within(whole, term.size())

    def _quotient(self, term: Any) -> Number:
        (upper, lower, size) = (term.arg(0), self.number(term.arg(1)), 2 ** term.size())
        quotient = self._cancelled(upper, term.arg(1)) or Number(
            self.number(upper).value / lower.value, self.number(upper).most
        )
        if z3.is_bv_value(term.arg(1)) and term.arg(1).as_long() != 0:
            return Number(quotient.value, self.number(upper).most // term.arg(1).as_long())
        return Number(z3.If(lower.value == 0, size - 1, quotient.value), size - 1)

    def _cancelled(self, product: Any, divisor: Any) -> Number | None:
        """Return the other factor of a product that does not wrap around, as in a checked multiplication."""
        if product.decl().kind() != z3.Z3_OP_BMUL or product.num_args() != 2:
            return None
        (left, right) = (self.number(product.arg(0)), self.number(product.arg(1)))
        if left.most * right.most >= 2 ** product.size():
            return None
        if product.arg(1).eq(divisor):
            return left
        return right if product.arg(0).eq(divisor) else None


def _is_definition(claim: Any) -> bool:
    return bool(z3.is_eq(claim) and z3.is_array(claim.arg(0)) and z3.is_store(claim.arg(1)))


def _total(numbers: list[Number]) -> Number:
    return reduce(lambda x, y: Number(x.value + y.value, x.most + y.most), numbers, Number(z3.IntVal(0), 0))


def _within(number: Number, width: int) -> Number:
    return number if number.most < 2**width else Number(number.value % 2**width, 2**width - 1)


def _definition(declared: re.Match[str]) -> str:
    """Define a function as the operation of the EVM, whose quotients and remainders by zero are zero."""
    (name, operation, size) = declared.groups()
    (sort, zero, result) = (f"(_ BitVec {size})", f"(_ bv0 {size})", f"({operation} x y)")
    if operation != "bvmul":
        result = f"(ite (= y {zero}) {zero} {result})"
    return f"(define-fun {name} ((x {sort}) (y {sort})) {sort} {result})"


def has_no_solution(path: str, timeout_seconds: int) -> bool:
    """Return whether the SMT-LIB file at `path` is proved to be unsatisfiable."""
    formula = list(z3.parse_smt2_string(UNDEFINED.sub(_definition, Path(path).read_text())))
    reading = Reading(formula)
    claims = [reading.truth(each) for each in formula]
    solver = z3.Solver()
    solver.set("timeout", timeout_seconds * 1000)
    solver.add(*claims, *reading.facts)
    return bool(solver.check() == z3.unsat)


if __name__ == "__main__":
    import sys

    print("unsat" if has_no_solution(sys.argv[1], int(sys.argv[2])) else "unknown")
