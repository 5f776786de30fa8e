"""Text → tree, after the grammar of the CEL specification. Called by `compile_expression`.

Takes any text: what is no expression is an ExpressionError with its column. Bounds: SOURCE_MAX characters, DEPTH_MAX levels, and so the
recursion here and in the checker. Macros stay calls; the checker knows them.
"""

import re
from dataclasses import dataclass, field

from gatepost.expression.errors import ExpressionError

SOURCE_MAX = 4_000
DEPTH_MAX = 40
INT_MAX = (1 << 63) - 1

RESERVED = {"as", "break", "const", "continue", "else", "for", "function", "if", "import", "let", "loop", "package", "namespace", "null"}
RESERVED |= {"return", "var", "void", "while"}


@dataclass(frozen=True, slots=True)
class Node:
    """A piece of the tree; `column` is where it begins."""

    column: int


@dataclass(frozen=True, slots=True)
class Literal(Node):
    """A constant."""

    value: bool | int | float | str


@dataclass(frozen=True, slots=True)
class Name(Node):
    """A variable."""

    name: str


@dataclass(frozen=True, slots=True)
class Select(Node):
    """`of.name`."""

    of: Node
    name: str


@dataclass(frozen=True, slots=True)
class Call(Node):
    """A function (`of` None), a method, a macro, or an operator named by its sign."""

    name: str
    of: Node | None
    arguments: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Items(Node):
    """A list literal."""

    items: tuple[Node, ...] = field(default=())


_TOKEN = re.compile(
    r"""
    (?P<space>[ \t\r\n\f]+|//[^\n]*)
  | (?P<double>\d+\.\d+(?:[eE][+-]?\d+)?|\d+[eE][+-]?\d+|\.\d+(?:[eE][+-]?\d+)?)
  | (?P<int>0x[0-9a-fA-F]+|\d+)
  | (?P<string>[rR]?(?:'''(?:[^\\]|\\.)*?'''|\"\"\"(?:[^\\]|\\.)*?\"\"\"|'(?:[^'\\\n]|\\.)*'|"(?:[^"\\\n]|\\.)*"))
  | (?P<name>[A-Za-z_][A-Za-z0-9_]*)
  | (?P<sign>&&|\|\||[<>=!]=|[-+*/%!<>?:.,()\[\]{}])
    """,
    re.VERBOSE | re.DOTALL,
)
_ESCAPE = re.compile(r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|([0-3][0-7]{2})|(.))", re.DOTALL)
_SHORT = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v", **{c: c for c in "\\?\"'`"}}

Token = tuple[str, str, int]
"""Kind, text, column."""


def parse(source: str) -> Node:
    """The tree of a whole expression."""
    if len(source) > SOURCE_MAX:
        raise ExpressionError(f"longer than {SOURCE_MAX} characters", SOURCE_MAX)
    parser = _Parser(_tokens(source))
    tree = parser.conditional()
    parser.expect("end", "")
    return tree


def _tokens(source: str) -> list[Token]:
    found: list[Token] = []
    at = 0
    while at < len(source):
        match = _TOKEN.match(source, at)
        if match is None:
            what = "a text without its closing quote" if source[at] in "\"'" else f"{source[at]!r} means nothing here"
            raise ExpressionError(what, at + 1)
        if match.lastgroup != "space":
            found.append((match.lastgroup or "", match.group(), at + 1))
        at = match.end()
    found.append(("end", "", len(source) + 1))
    return found


_LEVELS = (("||",), ("&&",), ("<", "<=", ">", ">=", "==", "!=", "in"), ("+", "-"), ("*", "/", "%"))


class _Parser:
    """Recursive descent; `at` is the next token."""

    def __init__(self, tokens: list[Token]) -> None:
        self.tokens = tokens
        self.at = 0
        self.depth = 0

    def peek(self) -> str:
        kind, text, _ = self.tokens[self.at]
        return text if kind in ("sign", "name") else ""

    def next(self) -> Token:
        token = self.tokens[self.at]
        self.at += 1
        return token

    def take(self, sign: str) -> bool:
        if self.peek() != sign:
            return False
        self.at += 1
        return True

    def expect(self, kind: str, text: str) -> Token:
        token = self.tokens[self.at]
        if token[0] != kind or (text and token[1] != text):
            wanted = repr(text) if text else {"end": "the end", "name": "a name"}.get(kind, kind)
            raise ExpressionError(f"{wanted} expected, not {repr(token[1]) if token[1] else 'the end'}", token[2])
        self.at = min(self.at + 1, len(self.tokens) - 1)
        return token

    def conditional(self) -> Node:
        self.depth += 1
        if self.depth > DEPTH_MAX:
            raise ExpressionError(f"more than {DEPTH_MAX} levels deep", self.tokens[self.at][2])
        node = self.binary(0)
        if self.take("?"):
            yes = self.binary(0)
            self.expect("sign", ":")
            node = Call(node.column, "?", None, (node, yes, self.conditional()))
        self.depth -= 1
        return node

    def binary(self, level: int) -> Node:
        if level == len(_LEVELS):
            return self.unary()
        node = self.binary(level + 1)
        chained = 0
        while (sign := self.peek()) in _LEVELS[level]:
            column = self.next()[2]
            chained += 1
            if chained > DEPTH_MAX * 2:
                raise ExpressionError(f"more than {DEPTH_MAX * 2} operators in a row; use a list and 'in'", column)
            node = Call(column, sign, None, (node, self.binary(level + 1)))
        return node

    def unary(self) -> Node:
        sign = self.peek()
        if sign not in ("!", "-"):
            return self.member()
        column = self.next()[2]
        self.depth += 1
        if self.depth > DEPTH_MAX:
            raise ExpressionError(f"more than {DEPTH_MAX} levels deep", column)
        kind, text, _ = self.tokens[self.at]
        if sign == "-" and kind in ("int", "double"):  # so that the least int can be written
            self.next()
            node: Node = Literal(column, -_number(kind, text, column, INT_MAX + 1))
            node = self.suffixes(node)
        else:
            node = Call(column, f"{sign}_", None, (self.unary(),))
        self.depth -= 1
        return node

    def member(self) -> Node:
        return self.suffixes(self.primary())

    def suffixes(self, node: Node) -> Node:
        count = 0
        while self.peek() in (".", "["):
            column = self.next()[2]
            count += 1
            if count > DEPTH_MAX:
                raise ExpressionError(f"more than {DEPTH_MAX} levels deep", column)
            if self.tokens[self.at - 1][1] == "[":
                node = Call(column, "[]", None, (node, self.conditional()))
                self.expect("sign", "]")
                continue
            _, name, column = self.expect("name", "")
            node = Call(column, name, node, self.arguments(")")) if self.take("(") else Select(column, node, name)
        return node

    def primary(self) -> Node:
        kind, text, column = self.tokens[self.at]
        if kind in ("int", "double"):
            self.next()
            return Literal(column, _number(kind, text, column, INT_MAX))
        if kind == "string":
            self.next()
            return Literal(column, _unquoted(text, column))
        if kind == "name":
            return self.named()
        if self.take("("):
            node = self.conditional()
            self.expect("sign", ")")
            return node
        if self.take("["):
            return Items(column, self.arguments("]"))
        raise ExpressionError(f"a value expected, not {repr(text) if text else 'the end'}", column)

    def named(self) -> Node:
        _, text, column = self.next()
        if text in ("true", "false"):
            return Literal(column, text == "true")
        if text in RESERVED or text == "in":
            raise ExpressionError(f"{text!r} is no name", column)
        return Call(column, text, None, self.arguments(")")) if self.take("(") else Name(column, text)

    def arguments(self, end: str) -> tuple[Node, ...]:
        found: list[Node] = []
        while not self.take(end):
            if found:
                self.expect("sign", ",")
                if end == "]" and self.take(end):
                    break
            found.append(self.conditional())
        return tuple(found)


def _number(kind: str, text: str, column: int, most: int) -> int | float:
    if kind == "double":
        return float(text)
    value = int(text, 16) if text.startswith("0x") else int(text)
    if value > most:
        raise ExpressionError("a number of more than 64 bits", column)
    return value


def _unquoted(text: str, column: int) -> str:
    raw = text[0] in "rR"
    text = text[1:] if raw else text
    width = 3 if text[:3] in ("'''", '"""') else 1
    text = text[width:-width]
    return text if raw else _ESCAPE.sub(lambda match: _unescaped(match, column), text)


def _unescaped(match: "re.Match[str]", column: int) -> str:
    two, four, eight, octal, short = match.groups()
    if short is not None:
        if short not in _SHORT:
            raise ExpressionError(f"\\{short} in a text means nothing; write \\\\{short}, or r'…'", column)
        return _SHORT[short]
    code = int(octal, 8) if octal else int(two or four or eight, 16)
    if code > 0x10FFFF or 0xD800 <= code <= 0xDFFF:
        raise ExpressionError(f"{match.group()} is no character", column)
    return chr(code)
