"""docs/rules.md: its set-up is built in a real directory, and its tables are put to decide()."""

import argparse
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from gatepost.directory import Directory
from gatepost.routing.decide import decide
from gatepost.routing.model import AddressHandler, DomainRule, HandlerKind, Question, RouteKind, RuleKind, RuleSet, RuleSettings, TlsPolicy

PAGE = (Path(__file__).parents[3] / "docs" / "rules.md").read_text()
CODE = re.compile(r"`([^`]+)`")


def set_up(directory: Directory) -> None:
    """Carry out the commands of the page's console block."""
    parser = argparse.ArgumentParser()
    parser.add_argument("words", nargs="+")
    for option in ("--kind", "--host", "--tls", "--text", "--alias-of"):
        parser.add_argument(option, default="")
    parser.add_argument("--target", action="append", default=[])
    parser.add_argument("--accept-untrusted", action="store_true")
    block = PAGE.split("```console\n")[1].split("```")[0]
    for line in block.splitlines():
        prompt, program, noun, verb, *rest = shlex.split(line)
        assert (prompt, program, verb) == ("$", "gatepost", "add")
        carry_out(directory, noun, parser.parse_args(rest))


def carry_out(directory: Directory, noun: str, options: argparse.Namespace) -> None:
    match noun:
        case "user":
            directory.add_user(options.words[0], None, author="page")
        case "handler":
            domain, pattern = options.words
            handler = AddressHandler(pattern, HandlerKind(options.kind), tuple(options.target), options.text)
            directory.put_handler(domain, handler, create=True, author="page")
        case _:
            rule = DomainRule(
                options.words[0],
                RuleKind(options.kind or "hosted"),
                host=options.host,
                tls=TlsPolicy(options.tls or "opportunistic"),
                text=options.text,
                accept_untrusted=options.accept_untrusted,
                settings=RuleSettings(alias_of=options.alias_of),
            )
            directory.put_rule(rule, create=True, author="page")


def outcome(rule_set: RuleSet, recipient: str, *, trusted: bool) -> set[str]:
    decision = decide(rule_set, Question("", recipient, trusted))
    if decision.reply:
        return {f"{decision.reply.code} {decision.reply.enhanced}"}
    words = {RouteKind.LOCAL: "local", RouteKind.SMTP: "smtp", RouteKind.LMTP: "lmtp", RouteKind.DISCARD: "discard"}
    return {f"{words[route.kind]} {route.address}{' held' if route.hold else ''}" for route in decision.routes}


def rows(heading: str) -> Iterator[list[str]]:
    """The cells of the table that begins with `heading`."""
    lines = PAGE.split(f"{heading}\n")[1].splitlines()[1:]
    for line in lines:
        if not line.startswith("|"):
            return
        yield [cell.strip() for cell in line.strip("|").split("|")]


@pytest.fixture(scope="module")
def rule_set(tmp_path_factory: pytest.TempPathFactory) -> RuleSet:
    directory = Directory(tmp_path_factory.mktemp("page") / "directory.db", migrate=True)
    set_up(directory)
    made = directory.snapshot()
    directory.close()
    return made


def test_the_precedence_table_is_what_decide_does(rule_set: RuleSet) -> None:
    checked, last = 0, set[str]()
    for _, _, example, expected in rows("| order | what is looked at | example | outcome |"):
        if not example:
            continue
        wanted = last if expected == "as above" else set(CODE.findall(expected))
        assert outcome(rule_set, CODE.findall(example)[0], trusted=False) == wanted, example
        checked, last = checked + 1, wanted
    assert checked >= 8


def test_the_table_of_senders_is_what_decide_does(rule_set: RuleSet) -> None:
    checked = 0
    for recipient, stranger, trusted in rows("| mail to | stranger | trusted sender |"):
        address = CODE.findall(recipient)[0]
        assert outcome(rule_set, address, trusted=False) == set(CODE.findall(stranger)), address
        assert outcome(rule_set, address, trusted=True) == set(CODE.findall(trusted)), address
        checked += 1
    assert checked >= 10


def test_the_page_names_every_kind_of_rule_and_handler() -> None:
    assert [row[0] for row in rows("| kind | what happens | options |")] == list(RuleKind)
    assert [row[0] for row in rows("| kind | what happens |")] == list(HandlerKind)
