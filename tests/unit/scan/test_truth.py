"""The truth table of policies: tests/corpus/policy has rules, attachment and facts in each row, and what is to become of the message."""

import base64
import gzip
import hashlib
import io
import tomllib
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatepost.message.verdict import Action, Answer
from gatepost.routing.model import RuleSet
from gatepost.scan.facts import Direction, MailFacts
from gatepost.scan.files import parse_policy
from gatepost.scan.header import header_of
from gatepost.scan.judge import judge
from gatepost.scan.policies import SHIPPED, Policies
from gatepost.scan.policy import SEVERITY, Policy, Rule, Seen, decide
from gatepost.scan.report import Report, inspect
from support import archives

TABLE = Path(__file__).parent.parent.parent / "corpus" / "policy"
TEXT = b"hello\n"
HEADER = (
    "From: a@remote.test\r\nX-List: one\r\nX-List: two\r\nSubject: =?utf-8?q?Gr=C3=BC=C3=9Fe?= aus\r\n K\r\n"
    "MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=xxx\r\n\r\n--xxx\r\n\r\nsee there\r\n--xxx\r\n"
)


def zipped(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return out.getvalue()


PLAIN: dict[str, Callable[[], bytes]] = {
    "text": lambda: TEXT,
    "pdf": lambda: b"%PDF-1.4\n1 0 obj\n<<>>\nendobj\n",
    "jpeg": lambda: b"\xff\xd8\xff\xe0\x00\x10JFIF" + bytes(64),
    "program": lambda: archives.PROGRAM,
    "shell script": lambda: b"#!/bin/sh\necho\n",
    "encrypted 7z": lambda: archives.seven_zip({"a.txt": b"x"}, method="aes"),
    "encrypted 7z of an archive": lambda: archives.seven_zip({"in.zip": b"x"}, method="aes"),
    "truncated zip": lambda: zipped({"a.txt": TEXT * 50})[:200],
    "bomb": lambda: gzip.compress(bytes(64 << 20), 9),
}
PACKERS: dict[str, Callable[[dict[str, bytes]], bytes]] = {
    "zip of ": zipped,
    "7z of ": archives.seven_zip,
    "tnef of ": archives.tnef,
    "iso of ": archives.iso,
    "mail with ": lambda files: message(*next(iter(files.items()))),
}


@cache
def made(what: str) -> bytes:
    """'zip of text as a.txt and program as b.exe', 'document with AutoOpen', 'gzip of program', or a name of PLAIN."""
    for lead, pack in PACKERS.items():
        if what.startswith(lead):
            files = [one.rsplit(" as ", 1) for one in what.removeprefix(lead).split(" and ")]
            return pack({name: made(content) for content, name in files})
    if what.startswith("document with "):
        return archives.word_with_macro(f"Sub {what.removeprefix('document with ')}()\r\nEnd Sub\r\n")
    if what.startswith("gzip of "):
        return gzip.compress(made(what.removeprefix("gzip of ")))
    return PLAIN[what]()


def message(name: str, content: bytes, declared: str = "application/octet-stream") -> bytes:
    part = f'Content-Type: {declared}\r\nContent-Disposition: attachment; filename="{name}"\r\nContent-Transfer-Encoding: base64\r\n\r\n'
    return (HEADER + part).encode() + base64.encodebytes(content).replace(b"\n", b"\r\n") + b"--xxx--\r\n"


def rows() -> list[Any]:
    found = []
    for file in sorted(TABLE.glob("*.toml")):
        table = tomllib.loads(file.read_text("utf-8"))
        for number, case in enumerate(table["cases"], 1):
            found.append(pytest.param({"policy": table.get("policy", ""), **case}, id=f"{file.stem}-{number}"))
    return found


def policy_of(case: dict[str, Any], hashes: Path) -> Policy:
    if case["policy"] in SHIPPED:
        return SHIPPED[case["policy"]]
    if case["policy"]:
        return parse_policy(case["policy"])
    lines = case.get("rules", "").replace("{text}", hashlib.sha256(TEXT).hexdigest()).replace("{hashes}", str(hashes))
    when = f'when = """{case["when"]}"""' if "when" in case else ""
    return parse_policy(f'[[rules]]\nname = "it"\naction = "reject"\n{lines}\n{when}\n')


def answer(text: str) -> Answer:
    scanner, outcome, *rest = text.split()
    return Answer(scanner, outcome, rest[0] if rest else "", float(rest[1]) if len(rest) > 1 else 0.0)


def facts(case: dict[str, Any], data: bytes) -> MailFacts:
    given = {"sender": "a@Remote.test", "direction": "inbound", "client_address": "192.0.2.9", **case.get("mail", {})}
    direction = Direction(given.pop("direction"))
    trusted = direction is not Direction.INBOUND
    return MailFacts(recipients=("b@here.test",), direction=direction, trusted=trusted, size=len(data), header=header_of(data), **given)


def test_the_table_is_whole() -> None:
    assert len(rows()) >= 100
    names = " ".join(str(row.values[0].get("rules", "")) for row in rows())
    own = {"name", "action", "reason", "when", "subject", "copy_to"}
    assert [field for field in Rule.model_fields if field not in own and f"{field} =" not in names] == []


@pytest.mark.parametrize("case", rows())
def test_each_row_comes_out_as_written(case: dict[str, Any], tmp_path: Path) -> None:
    hashes = tmp_path / "hashes.txt"
    hashes.write_text(f"# ours\n\n{hashlib.sha256(TEXT).hexdigest()}  notes.txt\nnot a digest\n")
    data = message(case["attach"], made(case["content"]), case.get("declared", "application/octet-stream"))
    report = inspect(data, "message.eml")
    policies = Policies(RuleSet(1, {}, {}), {"it": policy_of(case, hashes)}).only("it")
    found = judge(policies, facts(case, data), report, [answer(one) for one in case.get("answers", ())], 1.0)
    out = {
        "action": str(found.verdict.action),
        "rule": found.verdict.rule,
        "fates": [str(fate) for fate in found.fates],
        "strip": [one.removed.path for one in found.strip],
        "subject": found.subject,
        "copies": list(found.copies),
    }
    assert {key: out[key] for key in out if key in case} == {key: case[key] for key in out if key in case}
    assert (found.refused is not None) == (case["action"] == "reject")


NESTED = inspect(message("a.zip", made("zip of text as a.txt and program as b.exe and shell script as c.sh")), "message.eml")
_rules = st.lists(
    st.builds(
        lambda action, extensions, number: Rule(name=f"r{number}", action=action, extensions=tuple(extensions)),
        st.sampled_from(list(Action)),
        st.lists(st.sampled_from(["txt", "exe", "sh", "zip", "eml"]), min_size=1, max_size=3),
        st.integers(0, 9),
    ),
    max_size=8,
)


def by_hand(rules: list[Rule], report: Report) -> list[Action]:
    """For each entry the action of the first rule that names its extension."""
    firsts = [next((rule for rule in rules if entry.extension in rule.extensions), None) for entry in report.entries]
    return [rule.action for rule in firsts if rule is not None]


@given(_rules)
def test_the_first_rule_decides_for_an_entry_and_the_severest_entry_for_the_message(rules: list[Rule]) -> None:
    decision = decide(Policy(rules=tuple(rules)), Seen(NESTED))
    actions = by_hand(rules, NESTED)
    assert [hit.action for hit in decision.hits] == actions
    assert SEVERITY[decision.action] == max((SEVERITY[action] for action in actions), default=0)


@given(_rules, st.integers(0, 8))
def test_a_rule_behind_others_never_changes_what_they_decided(rules: list[Rule], cut: int) -> None:
    fewer = {hit.path: hit for hit in decide(Policy(rules=tuple(rules[:cut])), Seen(NESTED)).hits}
    more = {hit.path: hit for hit in decide(Policy(rules=tuple(rules)), Seen(NESTED)).hits}
    assert all(more[path] == hit for path, hit in fewer.items())
