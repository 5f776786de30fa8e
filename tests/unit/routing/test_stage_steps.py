"""What the native side says of a condition is what the condition says; of typical ones it has an answer for plain mail."""

import random

import pytest

from gatepost.expression import EvaluationError, ExpressionError, compile_expression
from gatepost.message.fields import HeaderView
from gatepost.native import Condition
from gatepost.routing.stage_facts import ClientFacts, Facts, MessageFacts
from gatepost.routing.stage_steps import OPEN, steps
from gatepost.routing.stages import ENVIRONMENT

LEAVES = (
    "message.size > 1000",
    "1000 >= message.size",
    "message.size != 17",
    "message.size > 1.5",
    "message.header('Subject').size() == 0",
    "size(message.header('received')) > 1",
    "message.header('subject').exists(s, s.contains('offer'))",
    "message.header('subject').exists(s, s.lowerAscii().startsWith('cheap'))",
    "message.header('subject').exists(s, s == 'x' || s.endsWith('now') || 'y' == s)",
    "message.header('subject').exists(s, s.contains('a') && s.contains('b'))",
    "message.header('subject').exists(s, !s.contains('a'))",
    "message.header('subject').exists(s, s.matches('(?i)casino|lottery'))",
    "message.header('subject').exists(s, s.matches(r'^re:.*win\\.\\d+$|kasse?n'))",
    "message.header('subject').exists(s, s.matches('(a|b)c'))",
    "message.header('subject').exists(s, s.matches('ab*|c?d+e'))",
    "message.header('x-mailer')[0] == 'Bulk'",
    "message.header('x-mailer')[1].lowerAscii() != 'bulk'",
    "message.header('x-mailer')[0].matches('(?i)bulk')",
    "message.header('x-mailer')[0].size() > 3",
    "client.trusted",
    "client.helo == 'x'",
)
WORDS = (
    "Cheap",
    "offer",
    "now",
    "x",
    "a b",
    "CASINO",
    "lottery",
    "kaſino",
    "re: you win.1",
    "=?utf-8?q?casino?=",
    "bücher",
    "\udcff",
    "bulk",
    "",
)
NAMES = ("Subject", "subject ", "SUBJECT", "X-Mailer", "Received", "To", "Kopf")


def _header(dice: random.Random) -> bytes:
    lines = []
    for _ in range(dice.randrange(6)):
        value = " ".join(dice.choice(WORDS) for _ in range(dice.randrange(3)))
        folded = dice.choice(("", "", "\r\n\t", "\r\n ")) + dice.choice(WORDS)
        lines.append(f"{dice.choice(NAMES)}:{dice.choice((' ', '', chr(11)))}{value}{folded}\r\n")
    octets = "".join(lines).encode("utf-8", "surrogateescape")
    if dice.random() < 0.2:
        odd = dice.choice((b"no field\r\n", b" folded\r\n", b"\n", b"\r", b"Subject: x\n", b"\x00: y\r\n"))
        at = dice.randrange(len(octets) + 1)
        octets = octets[:at] + odd + octets[at:]
    return octets + dice.choice((b"", b"\r\n"))


def _condition(dice: random.Random, depth: int = 0) -> str:
    if depth == 3 or dice.random() < 0.3:
        return dice.choice(LEAVES)
    kind = dice.choice(("&&", "||", "!", "?"))
    if kind == "!":
        return f"!({_condition(dice, depth + 1)})"
    if kind == "?":
        return f"({dice.choice(LEAVES)} ? {dice.choice(LEAVES)} : {dice.choice(LEAVES)})"
    return f"({_condition(dice, depth + 1)}) {kind} ({_condition(dice, depth + 1)})"


def _asked(source: str, size: int, header: bytes) -> bool | None:
    """What the condition says; None: it cannot be worked out."""
    client = ClientFacts("192.0.2.1", helo="x", trusted=True)
    message = MessageFacts(size, ("a@b.test",), HeaderView(header).texts)
    try:
        return compile_expression(source, ENVIRONMENT).evaluate(*Facts(client=client, message=message).values())
    except EvaluationError:
        return None


def test_what_is_answered_natively_is_what_the_condition_says() -> None:
    dice = random.Random(5)
    answers = {True: 0, False: 0, None: 0}
    for _ in range(1_000):
        source, size, header = _condition(dice), dice.choice((0, 17, 999, 1000, 1001)), _header(dice)
        found = Condition(steps(source)).holds(size, header)
        answers[found] += 1
        assert found is None or found is _asked(source, size, header), f"{source} of {size} octets, {header!r}"
    assert min(answers.values()) > 50, answers


@pytest.mark.parametrize(
    "source",
    [
        "message.size > 20000000 && !client.trusted",
        "message.header('subject').exists(s, s.matches('(?i)casino|lottery'))",
        r"message.header('subject').exists(s, s.matches(r'(?i)\b(cheap|free)\b.*(casino|lotter(y|ies))'))",
        "message.header('x-mailer').exists(m, m.lowerAscii().contains('bulk')) || message.header('precedence').exists(p, p == 'junk')",
        "message.header('list-id').size() > 0 && client.helo == 'lists.test'",
    ],
)
def test_typical_conditions_are_told_not_to_hold_for_plain_mail(source: str) -> None:
    assert Condition(steps(source)).holds(9_000, b"From: a@b.test\r\nSubject: Good morning\r\n\r\n") is False


@pytest.mark.parametrize("source", ["", "message.size >", "message.size > 'x'", " || ".join(["message.size > 1"] * 79)])
def test_what_is_not_understood_is_open(source: str) -> None:
    assert Condition(steps(source)).holds(0, b"") in (None, False)
    assert Condition([OPEN]).holds(0, b"") is None
    assert Condition([("new", "", 0, "")]).holds(0, b"") is None


def _pattern(dice: random.Random, depth: int = 0) -> str:
    pieces = []
    for _ in range(dice.randrange(1, 5)):
        kind = dice.randrange(8)
        if kind == 0 and depth < 3:
            piece = f"{dice.choice(('(', '(?:'))}{_pattern(dice, depth + 1)})"
        elif kind == 1:
            piece = dice.choice(("[ab]", "[^]a]", "[a\\]b]", r"\d", r"\b", "^", "$", ".", r"\.", r"\|", "[[:alpha:]]"))
        else:
            piece = dice.choice(("a", "b", "ab", "K", "s", ".", "é"))
        pieces.append(piece + dice.choice(("", "", "", "*", "?", "+", "{0,2}", "{1}", "+?", "*?")))
    return "".join(pieces) if dice.random() < 0.7 else "|".join(pieces)


def test_a_regular_expression_needs_what_is_asked_for_natively() -> None:
    """Of random expressions and texts: where the native side says that nothing matches, RE2 finds nothing."""
    dice = random.Random(9)
    told = 0
    for _ in range(1_500):
        pattern = dice.choice(("", "(?i)")) + _pattern(dice)
        source = f"message.header('s').exists(s, s.matches({pattern!r}))"
        try:
            compile_expression(source, ENVIRONMENT)
        except ExpressionError:
            continue
        text = "".join(dice.choice("aAbBksKS.|1é\u212a\u017f ") for _ in range(dice.randrange(6)))
        header = f"S: {text}\r\n".encode()
        found = Condition(steps(source)).holds(1, header)
        told += found is False
        assert found is None or found is _asked(source, 1, header), f"{pattern!r} of {text!r}"
    assert told > 100
