"""CEL's macros: has, and those that go over a list (all, exists, exists_one, filter, map). Called by the checker.

The variable of a macro is a slot of its own behind the environment's; a program's values are a fresh list at each evaluation, so that a
slot is simply written. Invariant: the cost of a body is counted as often as the list may be long.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from gatepost.expression.errors import EvaluationError, ExpressionError
from gatepost.expression.syntax import Call, Name, Select
from gatepost.expression.types import BOOL, STRING, ListOf, Run, Typed

if TYPE_CHECKING:
    from gatepost.expression.program import Checker

MACROS = ("all", "exists", "exists_one", "filter", "map")
Bodies = list[Run]


def has(checker: "Checker", node: Call) -> Typed:
    """`has(entry.name)`: the field is not empty, not 0 and not false, as for fields without presence in CEL."""
    if len(node.arguments) != 1 or not isinstance(node.arguments[0], Select):
        raise ExpressionError("has() takes a field: has(entry.name)", node.column)
    field = checker.check(node.arguments[0])
    run = field.run
    return Typed(BOOL, 1 + field.cost, lambda values: bool(run(values)))


def comprehension(checker: "Checker", node: Call) -> Typed:
    """`list.exists(x, condition)` and its kin."""
    assert node.of is not None
    over = checker.check(node.of)
    if not isinstance(over.type, ListOf):
        raise ExpressionError(f"{node.name} goes over a list, not over a {over.type}", node.column)
    most = 3 if node.name == "map" else 2
    if not 2 <= len(node.arguments) <= most or not isinstance(node.arguments[0], Name):
        raise ExpressionError(f"{node.name} takes a name and a condition: {node.name}(x, …)", node.column)
    slot, bodies = _bodies(checker, node, node.arguments[0].name, over.type)
    for body, given in zip(bodies[: 1 if node.name != "map" else len(bodies) - 1], node.arguments[1:], strict=False):
        if body.type != BOOL:
            raise ExpressionError(f"true or false expected, not a {body.type}", given.column)
    cost = over.cost + 2 + over.type.most * (2 + sum(body.cost for body in bodies))
    kind = {"filter": over.type, "map": ListOf(bodies[-1].type, over.type.most)}.get(node.name, BOOL)
    return Typed(kind, cost, _LOOPS[node.name](over.run, slot, [body.run for body in bodies]))


def _bodies(checker: "Checker", node: Call, name: str, over: ListOf) -> tuple[int, list[Typed]]:
    """The conditions, checked with the variable in scope."""
    slot = checker.width
    hidden = checker.scope.get(name)
    checker.width += 1
    checker.scope[name] = slot, over.element or STRING
    try:
        return slot, [checker.check(one) for one in node.arguments[1:]]
    finally:
        checker.scope.pop(name)
        if hidden is not None:
            checker.scope[name] = hidden


def _room(values: list[Any], slot: int) -> None:
    """Have the slot be there."""
    values.extend([None] * (slot + 1 - len(values)))


def _decides(over: Run, slot: int, bodies: Bodies, wanted: bool) -> Run:
    """all (until one is false) and exists (until one is true): an error counts only if no other element decides."""
    body = bodies[0]

    def run(values: list[Any]) -> bool:
        failure: EvaluationError | None = None
        items = over(values)
        _room(values, slot)
        for value in items:
            values[slot] = value
            try:
                if bool(body(values)) is wanted:
                    return wanted
            except EvaluationError as fault:
                failure = fault
        if failure is not None:
            raise failure
        return not wanted

    return run


def _exists_one(over: Run, slot: int, bodies: Bodies) -> Run:
    return lambda values: sum(1 for _ in _chosen(over(values), slot, bodies[0], values)) == 1


def _filter(over: Run, slot: int, bodies: Bodies) -> Run:
    return lambda values: list(_chosen(over(values), slot, bodies[0], values))


def _map(over: Run, slot: int, bodies: Bodies) -> Run:
    test, made = (bodies[0] if len(bodies) > 1 else (lambda _: True)), bodies[-1]
    return lambda values: [made(values) for _ in _chosen(over(values), slot, test, values)]


def _chosen(items: Any, slot: int, test: Run, values: list[Any]) -> Any:
    _room(values, slot)
    for value in items:
        values[slot] = value
        if test(values):
            yield value


_LOOPS: dict[str, Callable[[Run, int, Bodies], Run]] = {
    "all": lambda over, slot, bodies: _decides(over, slot, bodies, False),
    "exists": lambda over, slot, bodies: _decides(over, slot, bodies, True),
    "exists_one": _exists_one,
    "filter": _filter,
    "map": _map,
}
