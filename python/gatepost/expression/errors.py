"""What can be wrong with an expression: with its text, when it is saved, or with its values, when it is evaluated."""

from collections.abc import Iterable
from difflib import get_close_matches


class ExpressionError(Exception):
    """The text is no valid condition here. `column` counts characters from 1."""

    def __init__(self, text: str, column: int) -> None:
        super().__init__(f"column {column}: {text}")
        self.column = column


class EvaluationError(Exception):
    """These values have no answer: division by zero, a number out of 64 bits, an index or a number in a text that is none."""


def hint(name: str, known: Iterable[str]) -> str:
    """The closest name, else all there are when these are few."""
    names = sorted(known)
    close = get_close_matches(name, names, 1, 0.5)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; there is {', '.join(names)}" if 0 < len(names) <= 30 else ""
