"""Rules, their order, and what the shipped ones decide."""

import io
import re
import zipfile
from pathlib import Path
from typing import get_args

import pytest
from pydantic import ValidationError

from gatepost.message.verdict import Action, Answer, Verdict
from gatepost.scan.edits import field_of
from gatepost.scan.files import PolicyError, load_policy, parse_policy
from gatepost.scan.gate import Passage
from gatepost.scan.judge import Fate
from gatepost.scan.policy import DEFAULT, Policy, Rule, Seen, decide
from gatepost.scan.report import inspect
from gatepost.scan.spelling import Defect, Family
from support import archives
from support.archives import PROGRAM


def zipped(**files: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in files.items():
            archive.writestr(name.replace("__", "."), content)
    return out.getvalue()


def mail(name: str, content: bytes, kind: str = "application/octet-stream") -> bytes:
    head = f"From: a@example.test\r\nTo: b@example.test\r\nMIME-Version: 1.0\r\nContent-Type: {kind}\r\n"
    return f'{head}Content-Disposition: attachment; filename="{name}"\r\n\r\n'.encode() + content


@pytest.mark.parametrize(
    ("data", "action", "rule"),
    [
        (mail("notes.txt", b"hello"), Action.ACCEPT, None),
        (mail("setup.exe", b"hello"), Action.REJECT, "blocked name"),
        (mail("setup.exe. ", b"hello"), Action.REJECT, "blocked name"),
        (mail("setup.jpg", PROGRAM), Action.REJECT, "program"),
        (mail("a.zip", zipped(run__js=b"x")), Action.REJECT, "blocked name"),
        (mail("a.zip", zipped(deep__zip=zipped(photo__jpg=PROGRAM))), Action.REJECT, "program"),
        (mail("a.7z", archives.seven_zip({"a.txt": b"x"}, method="aes")), Action.TAG, "encrypted"),
        (mail("a.doc", archives.word_with_macro("Sub AutoOpen()\r\nEnd Sub\r\n")), Action.TAG, "macro that runs by itself"),
        (mail("a.doc", archives.word_with_macro("Sub Helper()\r\nEnd Sub\r\n")), Action.ACCEPT, None),
        (mail("plan.txt", b"#!/bin/sh\necho\n"), Action.REJECT, "disguised script"),
        (mail("build.sh", b"#!/bin/sh\necho\n"), Action.ACCEPT, None),
        (mail("old.lz", b"LZIP\x01\x0c" + bytes(40)), Action.TAG, "partly seen"),
    ],
)
def test_the_shipped_rules_decide(data: bytes, action: Action, rule: str | None) -> None:
    decision = decide(DEFAULT, Seen(inspect(data, "message.eml")))
    assert decision.action == action
    assert (decision.hits[0].rule.name if decision.hits else None) == rule


def test_the_first_rule_that_matches_an_entry_decides_for_it() -> None:
    data = mail("tool.exe", PROGRAM)
    digest = inspect(data).entries[1].sha256
    exception = Rule(name="our tool", action=Action.ACCEPT, sha256=(digest,))
    assert decide(Policy(rules=(exception, *DEFAULT.rules)), Seen(inspect(data))).action == Action.ACCEPT
    assert decide(Policy(rules=(*DEFAULT.rules, exception)), Seen(inspect(data))).action == Action.REJECT


def test_the_severest_action_of_all_entries_counts() -> None:
    rules = Policy(rules=(Rule(name="t", action=Action.TAG, extensions=("txt",)), Rule(name="h", action=Action.HOLD, extensions=("pdf",))))
    decision = decide(rules, Seen(inspect(zipped(a__txt=b"x", b__pdf=b"%PDF-1.4", c__txt=b"y"), "a.zip")))
    assert decision.action == Action.HOLD
    assert [hit.path for hit in decision.hits] == ["a.zip / a.txt", "a.zip / b.pdf", "a.zip / c.txt"]


@pytest.mark.parametrize(
    ("conditions", "matches"),
    [
        ({"names": ("*INVOICE*.pdf",)}, True),
        ({"names": ("*.doc",)}, False),
        ({"types": ("application/pdf",), "min_bytes": 3}, True),
        ({"types": ("pdf",), "min_bytes": 3_000}, False),
        ({"declared": ("image/*",)}, True),
        ({"signs": ("pdf:*",)}, True),
        ({"flags": ("script", "macro")}, True),
        ({"families": ("document",), "min_depth": 2}, False),
        ({"defects": ("damaged",)}, False),
        ({"verdicts": ("complete",), "min_entries": 2}, True),
        ({"verdicts": ("complete",), "min_entries": 3}, False),
    ],
)
def test_each_condition_narrows(conditions: dict[str, object], matches: bool) -> None:
    report = inspect(mail("invoice 1.PDF", b"%PDF-1.4 1 0 obj <</JS (x)>>", "image/png"))
    policy = Policy(rules=(Rule.model_validate({"name": "x", "action": "reject", **conditions}),))
    assert (decide(policy, Seen(report)).action == Action.REJECT) == matches


def test_a_policy_file_is_read_and_its_faults_name_the_key(tmp_path: Path) -> None:
    file = tmp_path / "policy.toml"
    file.write_text('[[rules]]\nname = "no pictures"\naction = "hold"\ntypes = ["image/*"]\n')
    assert load_policy(file).rules[0].action == Action.HOLD
    file.write_text('[[rules]]\nname = "x"\naction = "explode"\n')
    with pytest.raises(PolicyError, match=r"rule 1 \(x\): action: must be one of accept,"):
        load_policy(file)
    with pytest.raises(PolicyError, match="No such file"):
        load_policy(tmp_path / "none.toml")
    with pytest.raises(ValidationError):
        Rule.model_validate({"name": "x", "action": "hold", "flags": ["unheard-of"]})


@pytest.mark.parametrize(
    "condition",
    [
        'extensions = [".pdf"]',
        'extensions = ["PDF"]',
        'extensions = ["\uff30df"]',
        'declared = ["Image/PNG"]',
        'types = ["Application/PDF"]',
        'signs = ["PDF:*"]',
        'sha256 = ["{digest}"]',
    ],
)
def test_values_are_taken_however_they_are_spelt(condition: str) -> None:
    report = inspect(mail("invoice 1.PDF", b"%PDF-1.4 1 0 obj <</JS (x)>>", "IMAGE/png"))
    text = condition.replace("{digest}", report.entries[1].sha256.upper())
    assert decide(parse_policy(f'[[rules]]\nname = "x"\naction = "reject"\n{text}\n'), Seen(report)).action == Action.REJECT, text


@pytest.mark.parametrize(
    ("condition", "fault"),
    [
        ('extensions = ["tar.gz"]', r"extensions.0: an extension is what follows the last dot .* names = \[\"\*.tar.gz\"\]"),
        ('extensions = ["x*"]', "extensions.0: must be an extension"),
        ('extensions = [""]', "extensions.0: must be an extension"),
        ('families = ["programs"]', "families.0: must be one of archive,"),
        ('defects = ["damanged"]', "defects.0: must be one of .*; did you mean 'damaged'"),
        ('sha256 = ["d41d8cd98f00b204e9800998ecf8427e"]', "sha256.0: must be a SHA-256, 64 hexadecimal digits"),
        ("min_score = nan", "min_score: "),
        ('when = "true"\ncopy_to = "not an address"', "copy_to: must be an address"),
    ],
)
def test_a_value_that_can_match_nothing_is_refused_by_its_key(condition: str, fault: str) -> None:
    with pytest.raises(PolicyError, match=rf"rule 1 \(x\): {fault}"):
        parse_policy(f'[[rules]]\nname = "x"\naction = "reject"\n{condition}\n')


@pytest.mark.parametrize("glob", ["*eicar*", "SECOND", "first second"])
def test_signatures_are_compared_without_case_and_one_by_one(glob: str) -> None:
    rule = Rule(name="x", action=Action.REJECT, signatures=(glob,))
    answers = (Answer("a", "infected", "Win.Test.EICAR_HDB-1"), Answer("b", "suspicious", "FIRST SECOND"))
    report = inspect(mail("a.txt", b"x"))
    assert decide(Policy(rules=(rule,)), Seen(report, answers=answers)).action == Action.REJECT
    assert decide(Policy(rules=(rule,)), Seen(report, answers=(Answer("c", "infected", "SECONDS"),))).action == Action.ACCEPT


def test_families_and_defects_of_rules_are_those_of_the_inspection() -> None:
    source = Path(__file__).parents[3] / "rust_core" / "scan" / "src"
    defects = (source / "report.rs").read_text().partition("impl Defect")[2].partition("fn hides")[0]
    assert set(get_args(Defect)) == set(re.findall(r'=> "([a-z-]+)"', defects))
    families = re.findall(r'Self::\w+ => "([a-z]+)",', (source / "kind.rs").read_text().partition("impl Class")[2].partition("\n}\n")[0])
    assert set(get_args(Family)) == set(families)


def test_a_refusal_is_said_in_ascii_and_a_field_says_nothing_twice() -> None:
    verdict = Verdict(Action.REJECT, reason="grün: ЯÅ.exe", answers=(Answer("spam", "clean", "no action", action="no action"),))
    refusal = Passage(verdict).refusal(Fate.REJECT)
    assert refusal is not None and refusal.encode() == b"550 5.7.1 grun: ?A.exe\r\n"
    assert field_of("mx.test", verdict) == b"X-Gatepost-Scan: mx.test; reject; spam=clean (no action)\r\n"
