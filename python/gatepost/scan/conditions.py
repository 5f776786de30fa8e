"""What a condition of an attachment policy may name: entry, report, mail and answers, with their types. Used by `policy`.

docs/scanning.md lists the names; a test holds the two to each other. Invariant: every list given is no longer than its type says.
"""

from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any

from gatepost.expression import BOOL, DOUBLE, INT, STRING, Environment, Field, ListOf, Method, Program, Record, compile_expression
from gatepost.message.verdict import Answer
from gatepost.native import analyse_name
from gatepost.scan.facts import MailFacts
from gatepost.scan.report import Found, Report

MANY = 1_000
"""Recipients, or other things of a message, that a condition sees at most."""
FEW = 100
TEXT_MAX = 10_000
"""Characters of a header field that a condition sees."""


def _few(read: Callable[[Any], Any], most: int = FEW) -> Callable[[Any], list[Any]]:
    """As a list, so that it compares with a literal one."""
    return lambda value: list(read(value))[:most]


def _plain(name: str, kind: Any = STRING) -> Field:
    return Field(kind, attrgetter(name))


def _texts(name: str, most: int = FEW) -> Field:
    return Field(ListOf(STRING, most), _few(attrgetter(name), most))


def _header(mail: MailFacts, name: str) -> list[str]:
    return [text[:TEXT_MAX] for text in mail.header(name)[:FEW]]


ENTRY = Record(
    "entry",
    {
        **{name: _plain(name) for name in ("name", "path", "extension", "declared", "media_type", "family", "sha256")},
        "folded": Field(STRING, lambda entry: analyse_name(entry.name)[0]),
        "type": _plain("kind"),
        "size": _plain("size", INT),
        "depth": _plain("depth", INT),
        **{name: _texts(name) for name in ("flags", "signs", "defects")},
    },
    {},
)
REPORT = Record(
    "report",
    {
        "verdict": _plain("verdict"),
        "stop": _plain("stop"),
        "produced": _plain("produced", INT),
        "entries": Field(INT, lambda report: len(report.entries)),
        "flags": _texts("flags"),
    },
    {},
)
MAIL = Record(
    "mail",
    {
        **{name: _plain(name) for name in ("sender", "client_address", "helo", "user")},
        "sender_domain": Field(STRING, lambda mail: mail.sender.rpartition("@")[2].lower()),
        "direction": Field(STRING, lambda mail: mail.direction.value),
        "trusted": _plain("trusted", BOOL),
        "size": _plain("size", INT),
        "recipients": _texts("recipients", MANY),
    },
    {"header": Method((STRING,), ListOf(STRING, FEW), _header)},
)
ANSWER = Record(
    "answer",
    {
        **{name: _plain(name) for name in ("scanner", "outcome", "name", "action")},
        "score": Field(DOUBLE, lambda answer: float(answer.score)),
    },
    {},
)
ENVIRONMENT = Environment({"entry": ENTRY, "report": REPORT, "mail": MAIL, "answers": ListOf(ANSWER, 16)})


class Condition:
    """A checked condition. Raises ExpressionError when made."""

    __slots__ = ("_program", "about_entry")

    def __init__(self, source: str) -> None:
        self._program: Program = compile_expression(source, ENVIRONMENT)
        self.about_entry = "entry" in self._program.uses

    def holds(self, entry: Found, report: Report, mail: MailFacts, answers: Sequence[Answer]) -> bool:
        """Raises EvaluationError."""
        return self._program.evaluate(entry, report, mail, list(answers[:16]))
