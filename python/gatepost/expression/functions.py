"""Operators and functions of the language, by name and types of arguments. Called by the checker.

Integers are 64 bits, division rounds towards zero (CEL), strings are counted in characters. `matches` is RE2: no expression of it takes
more than linear time, and one that is constant is compiled when the condition is saved.
"""

import math
import operator
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

from gatepost.expression.errors import EvaluationError, ExpressionError, hint
from gatepost.expression.syntax import Call
from gatepost.expression.types import BOOL, DOUBLE, INT, STRING, ListOf, Run, Type, Typed, same

INT_LIMIT = 1 << 63
STRING_MAX = 65_536
"""Characters of a text that an expression puts together."""
REGEX_BYTES = 1 << 20
"""Memory of one compiled regular expression."""

Function = Callable[..., Any]


def apply(node: Call, arguments: Sequence[Typed]) -> Typed:
    """The call of a function, a method of a text or list, or an operator. Raises ExpressionError when there is none for these types."""
    kinds = [one.type for one in arguments]
    found = _SPECIAL[node.name](node, arguments) if node.name in _SPECIAL else _overload(node, kinds)
    if found is None:
        raise ExpressionError(_unknown(node, kinds), node.column)
    kind, function, cost = found
    runs = [one.run for one in arguments]
    return Typed(kind, cost + sum(one.cost for one in arguments), _runner(function, runs, arguments))


def _runner(function: Function, runs: Sequence[Run], arguments: Sequence[Typed]) -> Run:
    if len(runs) == 1:
        only = runs[0]
        return lambda values: function(only(values))
    if len(runs) == 2:
        left, right = runs
        if arguments[1].constant:
            value = right([])
            return lambda values: function(left(values), value)
        return lambda values: function(left(values), right(values))
    return lambda values: function(*[run(values) for run in runs])


Found = tuple[Type, Function, int] | None


def _overload(node: Call, kinds: Sequence[Type]) -> Found:
    method = node.of is not None
    for name, as_method, wanted, kind, function, cost in _OVERLOADS:
        if name == node.name and (as_method is None or as_method is method) and list(wanted) == list(kinds):
            return kind, function, cost
    return None


def _unknown(node: Call, kinds: Sequence[Type]) -> str:
    names = {one[0] for one in _OVERLOADS} | set(_SPECIAL)
    told = ", ".join(str(kind) for kind in kinds)
    sign = node.name.rstrip("_")
    if not sign.isidentifier():
        return f"{sign!r} is not defined for {' and '.join(str(kind) for kind in kinds)}"
    if node.name in names:
        return f"{node.name} is not defined for ({told})"
    return f"there is no function {node.name!r}{hint(node.name, [one for one in names if one.isidentifier()])}"


# ---- those that take many types --------------------------------------------------------------------------------------


def _equality(node: Call, arguments: Sequence[Typed]) -> Found:
    one, other = (argument.type for argument in arguments)
    numbers = {one, other} <= {INT, DOUBLE}
    if not numbers and not same(one, other):
        raise ExpressionError(f"a {one} is never equal to a {other}", node.column)
    return BOOL, operator.eq if node.name == "==" else operator.ne, 1 + _most(one)


def _order(node: Call, arguments: Sequence[Typed]) -> Found:
    one, other = (argument.type for argument in arguments)
    if {one, other} <= {INT, DOUBLE} or (one == other and one in (STRING, BOOL)):
        return BOOL, {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}[node.name], 1
    return None


def _contains(node: Call, arguments: Sequence[Typed]) -> Found:
    one, other = (argument.type for argument in arguments)
    if not isinstance(other, ListOf):
        return None
    if other.element is not None and not same(one, other.element):
        raise ExpressionError(f"a {one} is never in a {other}", node.column)
    return BOOL, lambda value, items: value in items, 1 + other.most // 8


def _index(node: Call, arguments: Sequence[Typed]) -> Found:
    one, other = (argument.type for argument in arguments)
    return (one.element, _at, 1) if isinstance(one, ListOf) and one.element is not None and other == INT else None


def _size(node: Call, arguments: Sequence[Typed]) -> Found:
    return (INT, len, 1) if len(arguments) == 1 and (arguments[0].type == STRING or isinstance(arguments[0].type, ListOf)) else None


def _matches(node: Call, arguments: Sequence[Typed]) -> Found:
    if [one.type for one in arguments] != [STRING, STRING]:
        return None
    if arguments[1].constant:
        try:
            found = _finder(arguments[1].run([]))
        except EvaluationError as fault:
            raise ExpressionError(str(fault), node.column) from None
        return BOOL, found, 20
    return BOOL, _match, 200


def _most(kind: Type) -> int:
    return kind.most if isinstance(kind, ListOf) else 0


def _joined(node: Call, arguments: Sequence[Typed]) -> Found:
    """`+`: numbers, texts, lists."""
    one, other = (argument.type for argument in arguments)
    if isinstance(one, ListOf) and isinstance(other, ListOf) and same(one, other):
        return ListOf(one.element or other.element, one.most + other.most), operator.add, 1 + one.most + other.most
    if one == other == STRING:
        return STRING, _concatenated, 10
    return _overload(node, (one, other))


_SPECIAL: dict[str, Callable[[Call, Sequence[Typed]], Found]] = {
    **dict.fromkeys(("==", "!="), _equality),
    **dict.fromkeys(("<", "<=", ">", ">="), _order),
    "in": _contains,
    "[]": _index,
    "size": _size,
    "matches": _matches,
    "+": _joined,
}


# ---- what they do ----------------------------------------------------------------------------------------------------


def _int(value: int) -> int:
    if -INT_LIMIT <= value < INT_LIMIT:
        return value
    raise EvaluationError("a number of more than 64 bits")


def _divided(one: int, other: int) -> int:
    if not other:
        raise EvaluationError("division by zero")
    quotient = abs(one) // abs(other)
    return _int(quotient if (one < 0) == (other < 0) else -quotient)


def _rest(one: int, other: int) -> int:
    if not other:
        raise EvaluationError("division by zero")
    return one - other * _divided(one, other) if other != -1 else 0


def _ratio(one: float, other: float) -> float:
    if other:
        return one / other
    return math.nan if not one or math.isnan(one) else math.copysign(math.inf, one) * math.copysign(1.0, other)


def _at(items: Sequence[Any], index: int) -> Any:
    if 0 <= index < len(items):
        return items[index]
    raise EvaluationError(f"no element {index} in a list of {len(items)}")


def _concatenated(one: str, other: str) -> str:
    if len(one) + len(other) > STRING_MAX:
        raise EvaluationError("a text that is too long")
    return one + other


@lru_cache(maxsize=64)
def _regex(pattern: str) -> Any:
    import re2  # 8 ms that only those pay who use it

    options = re2.Options()
    options.log_errors = False
    options.max_mem = REGEX_BYTES
    try:
        return re2.compile(pattern, options)
    except re2.error as fault:
        first = fault.args[0] if fault.args else ""
        words = first.decode("utf-8", "replace") if isinstance(first, bytes) else str(first)
        raise EvaluationError(f"{pattern!r} is no regular expression: {words}") from None


def _finder(pattern: str) -> Callable[[str, str], bool]:
    """Whether a text has what fits; its second argument is the pattern again. Asked with octets, since of a text the module works out in
    Python at which characters it was found, which nobody wants to know, and at its native object where it has one: what is around that
    takes twice as long as the search.
    """
    import re2

    compiled = _regex(pattern)
    native, anchor = getattr(compiled, "_regexp", None), getattr(re2, "_Anchor", None)
    if native is None or anchor is None:
        return lambda text, _: compiled.search(text.encode("utf-8", "replace")) is not None
    match, anywhere = native.Match, anchor.UNANCHORED

    def find(text: str, _: str) -> bool:
        octets = text.encode("utf-8", "replace")
        return bool(match(anywhere, octets, 0, len(octets))[0][0] >= 0)

    return find


def _match(text: str, pattern: str) -> bool:
    return _finder(pattern)(text, pattern)


def _to_int(value: float | str) -> int:
    try:
        return _int(int(value))
    except (ValueError, OverflowError):
        raise EvaluationError(f"{value!r:.40} is no int") from None


def _to_double(value: int | str) -> float:
    try:
        return float(value)
    except (ValueError, OverflowError):
        raise EvaluationError(f"{value!r:.40} is no double") from None


def _to_string(value: bool | float | str) -> str:
    return ("true" if value else "false") if isinstance(value, bool) else format(value, "g") if isinstance(value, float) else str(value)


def _ascii(change: Callable[[str], str]) -> Callable[[str], str]:
    return lambda text: "".join(change(c) if c.isascii() else c for c in text) if not text.isascii() else change(text)


_Row = tuple[str, bool | None, tuple[Type, ...], Type, Function, int]

_OVERLOADS: tuple[_Row, ...] = (
    *(
        (sign, None, (kind, kind), kind, function, 1)
        for sign, kind, function in (
            ("+", INT, lambda one, other: _int(one + other)),
            ("-", INT, lambda one, other: _int(one - other)),
            ("*", INT, lambda one, other: _int(one * other)),
            ("/", INT, _divided),
            ("%", INT, _rest),
            ("+", DOUBLE, operator.add),
            ("-", DOUBLE, operator.sub),
            ("*", DOUBLE, operator.mul),
            ("/", DOUBLE, _ratio),
        )
    ),
    ("-_", None, (INT,), INT, lambda value: _int(-value), 1),
    ("-_", None, (DOUBLE,), DOUBLE, operator.neg, 1),
    ("!_", None, (BOOL,), BOOL, operator.not_, 1),
    ("contains", True, (STRING, STRING), BOOL, lambda text, part: part in text, 5),
    ("startsWith", True, (STRING, STRING), BOOL, str.startswith, 1),
    ("endsWith", True, (STRING, STRING), BOOL, str.endswith, 1),
    ("lowerAscii", True, (STRING,), STRING, _ascii(str.lower), 5),
    ("upperAscii", True, (STRING,), STRING, _ascii(str.upper), 5),
    ("trim", True, (STRING,), STRING, str.strip, 5),
    *(("int", False, (kind,), INT, _to_int, 2) for kind in (INT, DOUBLE, STRING)),
    *(("double", False, (kind,), DOUBLE, _to_double, 2) for kind in (INT, DOUBLE, STRING)),
    *(("string", False, (kind,), STRING, _to_string, 2) for kind in (BOOL, INT, DOUBLE, STRING)),
)
