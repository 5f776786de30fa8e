"""What of a condition on a message can be answered without the interpreter: as steps for the native side (rust_core/wire/src/condition.rs).

Called where the plain path's terms are made (server/smtp/stages.py), for conditions that passed the checks at saving. Pure. Invariant: the
steps have an answer only where the condition has the same one; what is not understood here is OPEN, and the condition itself is asked.
"""

from gatepost.expression import ExpressionError
from gatepost.expression.syntax import Call, Literal, Name, Node, Select, parse

Step = tuple[str, str, int, str]
"""(what, name of a header field, number, text), in postfix order."""
OPEN: Step = ("?", "", 0, "")
NOT: Step = ("!", "", 0, "")
AND: Step = ("&&", "", 0, "")
OR: Step = ("||", "", 0, "")
MOST = 200
"""Steps of a condition; a longer one is OPEN as a whole."""
DEEP = 20
"""Groups in groups of a regular expression."""
ANY = -1
"""Of any field of the name, not of the one at a place."""

_INT = 1 << 63
_TURNED = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "==": "==", "!=": "!="}
_ORDERS: dict[str, tuple[str, bool]] = {
    "<": ("<", True),
    "<=": ("<=", True),
    ">": ("<=", False),
    ">=": ("<", False),
    "==": ("==", True),
    "!=": ("==", False),
}
"""How it is said natively, and whether that is meant or its opposite."""
_TESTS = {"contains": "contains", "startsWith": "starts", "endsWith": "ends"}
_BREAKS = frozenset("dDsSwWbBAz")
"""Letters that stand for no text behind a backslash."""


def steps(source: str) -> list[Step]:
    """Of a condition. Never raises."""
    try:
        made = _of(parse(source))
    except ExpressionError:
        return [OPEN]
    return made if len(made) <= MOST else [OPEN]


def _of(node: Node) -> list[Step]:
    match node:
        case Call(_, "&&" | "||" as sign, None, (left, right)):
            return [*_of(left), *_of(right), AND if sign == "&&" else OR]
        case Call(_, "!_", None, (of,)):
            return [*_of(of), NOT]
        case Call(_, "<" | "<=" | ">" | ">=" | "==" | "!=" as sign, None, (left, right)):
            return _compared(left, sign, right)
        case Call(_, "exists", Node() as of, (Name(_, name), body)) if (field := _field(of)) is not None:
            return _texts(body, name, field, ANY)
    return _of_value(node) or [OPEN]


def _compared(left: Node, sign: str, right: Node) -> list[Step]:
    if isinstance(left, Literal):
        left, sign, right = right, _TURNED[sign], left
    if not isinstance(right, Literal):
        return [OPEN]
    value = right.value
    if isinstance(value, str):
        found = _value(left)
        return _is(found, sign, value) if found is not None and sign in ("==", "!=") else [OPEN]
    if isinstance(value, bool) or not isinstance(value, int) or not -_INT <= value < _INT:
        return [OPEN]
    how, meant = _ORDERS[sign]
    match left:
        case Select(_, Name(_, "message"), "size"):
            made: Step = (f"size {how}", "", value, "")
        case Call(_, "size", Node() as of, ()) | Call(_, "size", None, (of,)) if (field := _field(of)) is not None:
            made = (f"count {how}", field, value, "")
        case _:
            return [OPEN]
    return [made] if meant else [made, NOT]


def _field(node: Node | None) -> str | None:
    """The name of `message.header('…')`."""
    match node:
        case Call(_, "header", Name(_, "message"), (Literal(_, str() as name),)) if name.isascii():
            return name.lower()
    return None


# ---- one value: `message.header('…')[n]`, or the variable of `exists` ---------------------------------------------------

_Value = tuple[str, int, bool]
"""Field, place, folded."""


def _value(node: Node) -> _Value | None:
    match node:
        case Call(_, "[]", None, (of, Literal(_, int() as at))) if (field := _field(of)) is not None and not isinstance(at, bool):
            return (field, at, False) if 0 <= at < _INT else None
        case Call(_, "lowerAscii", Node() as of, ()):
            found = _value(of)
            return (found[0], found[1], True) if found is not None else None
    return None


def _of_value(node: Node) -> list[Step] | None:
    """A test of `message.header('…')[n]`."""
    match node:
        case Call(_, name, Node() as of, (Literal(_, str() as text),)):
            found = _value(of)
            return _test(found, name, text) if found is not None else None
    return None


def _is(value: _Value, sign: str, text: str) -> list[Step]:
    field, at, folded = value
    made: list[Step] = [(_folded("is", folded), field, at, text)]
    return made if sign == "==" else [*made, NOT]


def _folded(test: str, folded: bool) -> str:
    return f"lower {test}" if folded else test


def _test(value: _Value, name: str, text: str) -> list[Step] | None:
    field, at, folded = value
    if name in _TESTS:
        return [(_folded(_TESTS[name], folded), field, at, text)]
    needed = _needed(text) if name == "matches" and not folded else None
    if needed is None:
        return None
    of_any, parts = needed
    made: list[Step] = [(_folded("needs", of_any), field, at, part) for part in parts]
    return made + [OR] * (len(parts) - 1)


def _texts(body: Node, variable: str, field: str, at: int) -> list[Step]:
    """`exists(variable, body)`: what is true of one of the values. Of `&&` only that it needs both."""
    match body:
        case Call(_, "||", None, (left, right)):
            return [*_texts(left, variable, field, at), *_texts(right, variable, field, at), OR]
        case Call(_, "&&", None, (left, right)):
            return [*_texts(left, variable, field, at), *_texts(right, variable, field, at), AND, OPEN, AND]
        case Call(_, "==", None, (of, Literal(_, str() as text))) | Call(_, "==", None, (Literal(_, str() as text), of)):
            found = _named(of, variable, field, at)
            return _is(found, "==", text) if found is not None else [OPEN]
        case Call(_, name, Node() as of, (Literal(_, str() as text),)):
            found = _named(of, variable, field, at)
            return (_test(found, name, text) if found is not None else None) or [OPEN]
    return [OPEN]


def _named(node: Node, variable: str, field: str, at: int) -> _Value | None:
    match node:
        case Name(_, name) if name == variable:
            return field, at, False
        case Call(_, "lowerAscii", Name(_, name), ()) if name == variable:
            return field, at, True
    return None


# ---- regular expressions -------------------------------------------------------------------------------------------------


def _needed(pattern: str) -> tuple[bool, list[str]] | None:
    """Whether a regular expression is one without regard to case, and texts (then in small letters) of which one at least is in all that it
    matches. None: not known.
    """
    of_any = pattern.startswith("(?i)")
    try:
        found = _Needed(pattern[4:] if of_any else pattern).all()
    except _NotUnderstood:
        return None
    if found is None or len(found) > MOST or (of_any and not all(one.isascii() for one in found)):
        return None
    return of_any, [one.lower() if of_any else one for one in found]


class _NotUnderstood(Exception):
    """A part of a regular expression of which nothing is said here."""


class _Needed:
    """Reads a regular expression of RE2. A set of texts is needed when one of them is in all that is matched; None: no set is known."""

    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        self._at = 0
        self._depth = 0

    def all(self) -> list[str] | None:
        found = self._alternatives()
        if self._at < len(self._pattern):
            raise _NotUnderstood
        return found

    def _alternatives(self) -> list[str] | None:
        sets = [self._sequence()]
        while self._next("|"):
            sets.append(self._sequence())
        known = [one for one in sets if one is not None]
        return [text for one in known for text in one] if len(known) == len(sets) else None

    def _sequence(self) -> list[str] | None:
        """What stands one behind the other: the set of which the shortest text is longest."""
        sets, run = [], ""
        while (one := self._peek()) not in ("", "|", ")"):
            self._at += 1
            text, inner = self._piece(one)
            optional, ends = self._count()
            if text is not None and not optional:
                run += text
            if inner is not None and not optional:
                sets.append(inner)
            if text is None or ends:
                sets.append([run])
                run = ""
        sets.append([run])
        best = max(sets, key=lambda texts: min(map(len, texts)))
        return best if all(best) else None

    def _piece(self, one: str) -> tuple[str | None, list[str] | None]:
        """A character that stands for itself, or the set that a group needs."""
        if one == "(":
            return None, self._group()
        if one == "[":
            self._skip_class()
            return None, None
        if one in "{}])*+?":
            raise _NotUnderstood
        if one == "\\":
            return self._escaped(), None
        return (None if one in ".^$" else one), None

    def _group(self) -> list[str] | None:
        if self._next("?") and not self._next(":"):
            raise _NotUnderstood  # flags, names
        self._depth += 1
        if self._depth > DEEP:
            raise _NotUnderstood
        inner = self._alternatives()
        self._depth -= 1
        if not self._next(")"):
            raise _NotUnderstood
        return inner

    def _skip_class(self) -> None:
        self._next("^")
        self._next("]")
        while not self._next("]"):
            one = self._peek()
            if one in ("", "["):
                raise _NotUnderstood
            self._at += 2 if one == "\\" else 1

    def _escaped(self) -> str | None:
        one = self._peek()
        self._at += 1
        if one in _BREAKS:
            return None
        if not one.isascii() or not one or one.isalnum():
            raise _NotUnderstood
        return one

    def _count(self) -> tuple[bool, bool]:
        """Whether the last piece may be left out, and whether the text ends with it since it may come more than once."""
        optional = ends = False
        while (one := self._peek()) in ("*", "?", "+", "{") and one:
            self._at += 1
            if one == "{":
                optional, end = True, self._pattern.find("}", self._at)
                if end < 0:
                    raise _NotUnderstood
                self._at = end + 1
            optional, ends = optional or one in "*?", True
        return optional, ends

    def _peek(self) -> str:
        return self._pattern[self._at : self._at + 1]

    def _next(self, one: str) -> bool:
        found = self._peek() == one
        self._at += found
        return found
