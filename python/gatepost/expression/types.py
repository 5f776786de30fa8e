"""Types of values in expressions, and the environment that names them. Made once by whoever takes conditions, read by the checker.

Invariant: every expression has one type known before it runs, so that there is no `dyn` and no type error at evaluation. Lists have an
upper bound of elements, from which the cost of an expression is worked out; whoever supplies values keeps to it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Scalar:
    """bool, int (64 bits, signed), double or string."""

    name: str

    def __str__(self) -> str:
        return self.name


BOOL = Scalar("bool")
INT = Scalar("int")
DOUBLE = Scalar("double")
STRING = Scalar("string")


@dataclass(frozen=True, slots=True)
class ListOf:
    """A list of at most `most` elements of one type; `element` is None for the empty literal."""

    element: "Type | None"
    most: int

    def __str__(self) -> str:
        return f"list({self.element or ''})"


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a record: its type, and how it is read from the value that stands for the record."""

    type: "Type"
    read: Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class Method:
    """A function of a record, e.g. `mail.header('subject')`: called with the record's value and the arguments."""

    arguments: tuple["Type", ...]
    type: "Type"
    call: Callable[..., Any]
    cost: int = 20


@dataclass(frozen=True)
class Record:
    """A value with named fields. Two records are the same type when they have the same name."""

    name: str
    fields: Mapping[str, Field]
    methods: Mapping[str, Method]

    def __str__(self) -> str:
        return self.name

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Record) and other.name == self.name

    def __hash__(self) -> int:
        return hash(self.name)


Type = Scalar | ListOf | Record


@dataclass(frozen=True, slots=True)
class Environment:
    """The variables of an expression. Their order is that of the values given to `Program.evaluate`."""

    variables: Mapping[str, Type]


def same(one: Type, other: Type) -> bool:
    """Whether values of the two may be compared or stand in one list."""
    if isinstance(one, ListOf) and isinstance(other, ListOf):
        return one.element is None or other.element is None or same(one.element, other.element)
    return one == other


Run = Callable[[list[Any]], Any]
"""Values of the variables → value."""


@dataclass(frozen=True, slots=True)
class Typed:
    """A checked piece of an expression. A constant one may be run without values."""

    type: Type
    cost: int
    run: Run
    constant: bool = False
