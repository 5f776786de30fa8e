"""Tree → checked program: every node gets its type, its cost and a Python function. Called where conditions are saved and loaded.

Invariants: a program that was made has the type bool; its cost, worked out from its text and the greatest lengths of lists, is at most
COST_MAX steps, so evaluation ends soon whatever the values are (regular expressions are RE2's, linear in the text). `&&` and `||` are
CEL's: an error on one side counts only if the other does not decide. Evaluation keeps no state: a program may be used from many threads.
"""

from collections.abc import Sequence
from typing import Any

from gatepost.expression import functions, macros
from gatepost.expression.errors import EvaluationError, ExpressionError, hint
from gatepost.expression.syntax import Call, Items, Literal, Name, Node, Select, parse
from gatepost.expression.types import BOOL, DOUBLE, INT, STRING, Environment, ListOf, Method, Record, Run, Scalar, Type, Typed, same

COST_MAX = 100_000
"""Steps of one evaluation at most: some milliseconds."""
DEPTH_MAX = 200
"""Levels of the tree."""

_LITERALS: dict[type, Scalar] = {bool: BOOL, int: INT, float: DOUBLE, str: STRING}


Touch = tuple[str, str, tuple[Any, ...] | None]
"""What is named of a record: (record, field or function, arguments). The arguments of a function are None unless all are literals."""


class Program:
    """A condition that has been checked. `uses` holds the variables it names, `touches` what of them."""

    __slots__ = ("_run", "cost", "source", "touches", "uses")

    def __init__(self, source: str, run: Run, cost: int, uses: frozenset[str], touches: frozenset[Touch] = frozenset()) -> None:
        self.source = source
        self.cost = cost
        self.uses = uses
        self.touches = touches
        self._run = run

    def evaluate(self, *values: Any) -> bool:
        """Whether it holds for these values, given in the order of the environment's variables. Raises EvaluationError."""
        return bool(self._run(list(values)))


def compile_expression(source: str, environment: Environment) -> Program:
    """Check and compile. Raises ExpressionError."""
    checker = Checker(environment)
    made = checker.check(parse(source))
    if made.type != BOOL:
        raise ExpressionError(f"a condition is true or false, and this is a {made.type}", 1)
    if made.cost > COST_MAX:
        raise ExpressionError(f"might take {made.cost:,} steps, of {COST_MAX:,} allowed; nest fewer lists", 1)
    return Program(source, made.run, made.cost, frozenset(checker.used), frozenset(checker.touched))


class Checker:
    """Types and compiles one tree. Macros put their own variables into `scope` while their body is checked."""

    def __init__(self, environment: Environment) -> None:
        self.scope: dict[str, tuple[int, Type]] = {name: (n, kind) for n, (name, kind) in enumerate(environment.variables.items())}
        self.width = len(self.scope)
        self.used: set[str] = set()
        self.touched: set[Touch] = set()
        self._known = frozenset(self.scope)
        self._depth = 0

    def check(self, node: Node) -> Typed:
        """Type, cost and function of a node."""
        self._depth += 1
        if self._depth > DEPTH_MAX:
            raise ExpressionError(f"more than {DEPTH_MAX} levels deep", node.column)
        try:
            match node:
                case Literal(_, value):
                    return Typed(_LITERALS[type(value)], 1, lambda _: value, constant=True)
                case Name(column, name):
                    return self._name(column, name)
                case Select(column, of, name):
                    return self._select(self.check(of), column, name)
                case Items(column, items):
                    return self._list(column, [self.check(item) for item in items])
                case Call():
                    return self._call(node)
            raise ExpressionError("not understood", node.column)
        finally:
            self._depth -= 1

    def _name(self, column: int, name: str) -> Typed:
        if name not in self.scope:
            raise ExpressionError(f"nothing is called {name!r}{hint(name, self.scope)}", column)
        slot, kind = self.scope[name]
        if name in self._known:
            self.used.add(name)
        return Typed(kind, 1, lambda values: values[slot])

    def _select(self, of: Typed, column: int, name: str) -> Typed:
        if not isinstance(of.type, Record):
            raise ExpressionError(f"a {of.type} has no field {name!r}", column)
        if name not in of.type.fields:
            if name in of.type.methods:
                raise ExpressionError(f"{of.type}.{name} is a function: {name}(…)", column)
            raise ExpressionError(f"{of.type} has no field {name!r}{hint(name, of.type.fields)}", column)
        found = of.type.fields[name]
        self.touched.add((of.type.name, name, ()))
        read, run = found.read, of.run
        return Typed(found.type, of.cost + 1, lambda values: read(run(values)))

    def _list(self, column: int, items: Sequence[Typed]) -> Typed:
        for item in items[1:]:
            if not same(items[0].type, item.type):
                raise ExpressionError(f"a list of {items[0].type} and {item.type}", column)
        runs = [item.run for item in items]
        kind = ListOf(items[0].type if items else None, len(items))
        cost = 1 + sum(item.cost for item in items)
        if all(item.constant for item in items):
            made = [run([]) for run in runs]
            return Typed(kind, 1, lambda _: made, constant=True)
        return Typed(kind, cost, lambda values: [run(values) for run in runs])

    def _call(self, node: Call) -> Typed:
        if node.name == "has" and node.of is None:
            return macros.has(self, node)
        if node.name in macros.MACROS and node.of is not None:
            return macros.comprehension(self, node)
        if node.name in ("&&", "||"):
            return self._logic(node)
        if node.name == "?":
            return self._choice(node)
        arguments = [self.check(one) for one in ((node.of,) if node.of is not None else ()) + node.arguments]
        if node.of is not None and isinstance(arguments[0].type, Record):
            return self._method(node, arguments[0].type, arguments)
        return functions.apply(node, arguments)

    def _method(self, node: Call, record: Record, arguments: Sequence[Typed]) -> Typed:
        method = record.methods.get(node.name)
        if method is None:
            raise ExpressionError(f"{record} has no function {node.name!r}{hint(node.name, record.methods)}", node.column)
        _check_arguments(node, f"{record}.{node.name}", method, arguments[1:])
        literal = all(isinstance(one, Literal) for one in node.arguments)
        given = tuple(one.value for one in node.arguments if isinstance(one, Literal)) if literal else None
        self.touched.add((record.name, node.name, given))
        runs, call = [one.run for one in arguments], method.call
        return Typed(method.type, method.cost + sum(one.cost for one in arguments), lambda values: call(*[run(values) for run in runs]))

    def _logic(self, node: Call) -> Typed:
        left, right = (self._bool(one) for one in node.arguments)
        return Typed(BOOL, 1 + left.cost + right.cost, _and(left.run, right.run) if node.name == "&&" else _or(left.run, right.run))

    def _choice(self, node: Call) -> Typed:
        test, yes, no = self._bool(node.arguments[0]), self.check(node.arguments[1]), self.check(node.arguments[2])
        if not same(yes.type, no.type):
            raise ExpressionError(f"one side of '?' is a {yes.type}, the other a {no.type}", node.column)
        first, second, third = test.run, yes.run, no.run
        kind = max(yes.type, no.type, key=lambda one: one.most if isinstance(one, ListOf) else 0)
        cost = 1 + test.cost + max(yes.cost, no.cost)
        return Typed(kind, cost, lambda values: second(values) if first(values) else third(values))

    def _bool(self, node: Node) -> Typed:
        made = self.check(node)
        if made.type != BOOL:
            raise ExpressionError(f"true or false expected, not a {made.type}", node.column)
        return made


def _check_arguments(node: Call, name: str, method: Method, given: Sequence[Typed]) -> None:
    wanted = ", ".join(str(one) for one in method.arguments)
    if len(given) != len(method.arguments) or not all(same(one.type, kind) for one, kind in zip(given, method.arguments, strict=True)):
        raise ExpressionError(f"{name} takes ({wanted}), not ({', '.join(str(one.type) for one in given)})", node.column)


def _and(left: Run, right: Run) -> Run:
    def run(values: list[Any]) -> bool:
        try:
            if not left(values):
                return False
        except EvaluationError:
            if not right(values):
                return False
            raise
        return bool(right(values))

    return run


def _or(left: Run, right: Run) -> Run:
    def run(values: list[Any]) -> bool:
        try:
            if left(values):
                return True
        except EvaluationError:
            if right(values):
                return True
            raise
        return bool(right(values))

    return run
