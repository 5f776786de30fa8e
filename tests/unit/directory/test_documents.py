"""Rule documents in the directory: applied as one version or not at all, told as of any kept version, and gone back to."""

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gatepost.directory import ConflictInUse, Directory, EtagMismatch, InvalidValue, NotFound
from gatepost.directory.documents import normalised
from gatepost.directory.versions import KEEP
from gatepost.routing.document import Document, dotted, parse, render
from gatepost.routing.model import AddressHandler, DomainRule, HandlerKind, RuleKind, TlsPolicy

POLICY = '[[rules]]\nname = "x"\naction = "tag"\nextensions = ["exe"]\n'


def users_of(directory: Directory) -> Callable[[str], bool]:
    return lambda address: address in directory.snapshot().mailboxes


def apply(directory: Directory, text: str, **more: object) -> tuple[int, list[str]]:
    """Parse, normalise, apply: the version, and the changes as text."""
    parsed = parse(text)
    assert parsed.document is not None, parsed.problems
    document, faults = normalised(parsed.document, users_of(directory))
    assert document is not None, faults
    version, changes = directory.apply_document(document, author="ann", **more)  # type: ignore[arg-type]
    return version, [str(one) for one in changes]


HOSTED = '[rules."a.test"]\nkind = "hosted"\n'
WITH_HANDLERS = HOSTED + '[rules."a.test".handlers]\nx = { kind = "forward", targets = ["far@b.test"] }\ny = { kind = "discard" }\n'


# ---- applying --------------------------------------------------------------------------------------------------------


def test_applying_is_one_version_with_its_author_and_comment(directory: Directory) -> None:
    version, changes = apply(directory, WITH_HANDLERS + f"[policies]\nmine = '''{POLICY}'''", comment="moving house")
    assert changes == ["add policy mine", "add rule a.test"]
    assert [(one.version, one.author, one.comment) for one in directory.rule_versions()] == [(version, "ann", "moving house")]
    assert apply(directory, WITH_HANDLERS.replace("discard", "reject")) == (version + 1, ["remove policy mine", "change handler y@a.test"])
    assert directory.get_handler("a.test", "y").handler.kind is HandlerKind.REJECT


def test_applying_what_is_in_force_makes_no_version(directory: Directory) -> None:
    version, _ = apply(directory, WITH_HANDLERS)
    assert apply(directory, WITH_HANDLERS) == (version, [])
    assert len(directory.rule_versions()) == 1


def test_a_document_that_fails_at_its_last_check_changes_nothing(directory: Directory) -> None:
    apply(directory, HOSTED)
    before, seen = directory.document(), directory.data_version()
    loop = (
        HOSTED
        + '[rules."a.test".handlers]\nx = { kind = "forward", targets = ["y@a.test"] }\ny = { kind = "forward", targets = ["x@a.test"] }\n'
    )
    with pytest.raises(InvalidValue, match="in a loop") as refused:
        apply(directory, loop + '[rules."new.test"]\nkind = "mx"\n[policies]\nmine = "description = 1"')
    assert refused.value.field == 'rules."a.test".handlers.x.targets'
    assert (directory.document(), directory.data_version()) == (before, seen)


def test_the_order_of_rules_in_a_document_does_not_matter(directory: Directory) -> None:
    first = '[rules."a.test"]\nkind = "hosted"\n[rules."a.test".handlers.x]\nkind = "forward"\ntargets = ["y@z.test"]\n'
    apply(directory, first + '[rules."z.test"]\nkind = "hosted"\n[rules."z.test".handlers.y]\nkind = "discard"\n')
    assert {rule.rule.domain for rule in directory.list_rules()} == {"a.test", "z.test"}


def test_a_plan_for_another_version_is_refused(directory: Directory) -> None:
    planned, _ = apply(directory, HOSTED)
    directory.put_rule(DomainRule("b.test", RuleKind.MX), create=True, author="bob")
    with pytest.raises(EtagMismatch, match=f"planned for version {planned}"):
        apply(directory, WITH_HANDLERS, base=planned)
    apply(directory, WITH_HANDLERS, base=planned + 1)


def test_a_rule_whose_domain_has_users_stays(directory: Directory) -> None:
    apply(directory, HOSTED)
    directory.add_user("bob@a.test", None, author="ann")
    with pytest.raises(ConflictInUse, match="1 user"):
        apply(directory, "")


def test_faults_of_values_are_all_told_by_their_place(directory: Directory) -> None:
    text = """
[rules."a.test"]
kind = "gateway"
port = 70000
policy = "shiped"
[rules."A.test"]
kind = "mx"
[rules."b.test"]
kind = "mx"
[rules."b.test".handlers]
x = { kind = "forward" }
y = { kind = "mailbox", targets = ["nobody@b.test"] }
Z = { kind = "discard" }
z = { kind = "discard" }
[rules."c.test"]
kind = "mx"
[rules."C.test"]
kind = "mx"
[policies]
none = ""
"""
    parsed = parse(text).document
    assert parsed is not None
    document, faults = normalised(parsed, users_of(directory))
    assert document is None
    assert [dotted(one.path) for one in faults] == [
        "policies.none",
        'rules."a.test".policy',
        'rules."a.test".host',
        'rules."b.test".handlers.x.targets',
        'rules."b.test".handlers.y.targets',
        'rules."b.test".handlers.z',
        'rules."C.test"',
    ]
    assert "did you mean 'shipped'?" in faults[1].problem


def test_relaying_for_everybody_is_left_to_the_lint(directory: Directory) -> None:
    parsed = parse('[rules."*"]\nkind = "mx"\naccept_untrusted = true\n').document
    assert parsed is not None
    document, _ = normalised(parsed, users_of(directory))
    assert document is not None
    directory.apply_document(document, author="ann")
    assert directory.get_rule("*").rule.accept_untrusted


# ---- any set, there and back -----------------------------------------------------------------------------------------

labels = st.sampled_from(["a.test", "b.test", "*.b.test", "xn--bcher-kva.test"])
patterns = st.sampled_from(["x", "y", "sales*", "*-old", "*", "o'hara", "a+b"])
handlers = st.one_of(
    st.builds(
        lambda p, t: AddressHandler(p, HandlerKind.FORWARD, t), patterns, st.sampled_from([("q@far.test",), ("q@far.test", "r@far.test")])
    ),
    st.builds(lambda p, t: AddressHandler(p, HandlerKind.REJECT, (), t), patterns, st.sampled_from(["", "gone", 'say "no" \\ ü'])),
    st.builds(lambda p: AddressHandler(p, HandlerKind.DISCARD, policy="none"), patterns),
)
many_handlers = st.lists(handlers, max_size=4, unique_by=lambda one: one.pattern).map(tuple)
rules = st.one_of(
    st.builds(lambda d, h: DomainRule(d, RuleKind.HOSTED, handlers=h), labels, many_handlers),
    st.builds(lambda d, h: DomainRule(d, RuleKind.MX, handlers=h), labels, many_handlers),
    st.builds(
        lambda d, p, t, h: DomainRule(d, RuleKind.GATEWAY, "mx.far.test", p, t, lmtp=p == 24, username="u", password_ref="ref", handlers=h),
        labels,
        st.sampled_from([24, 25, 587]),
        st.sampled_from([one for one in TlsPolicy if one is not TlsPolicy.PINNED]),
        many_handlers,
    ),
)
rule_sets = st.builds(
    Document,
    st.lists(rules, max_size=4, unique_by=lambda one: one.domain).map(tuple),
    st.sampled_from([{}, {"mine": POLICY}, {"mine": POLICY + "# changed\n", "other": ""}]),
)


def stored(document: Document, directory: Directory) -> Document:
    made, faults = normalised(document, users_of(directory))
    assert made is not None, faults
    return made


@given(rule_sets)
@settings(max_examples=10, deadline=None)
def test_an_export_applied_to_an_empty_server_exports_the_same(document: Document) -> None:
    with TemporaryDirectory() as scratch:
        one = Directory(Path(scratch) / "one.db", migrate=True)
        one.apply_document(stored(document, one), author="ann")
        exported = render(one.document()[1])
        other = Directory(Path(scratch) / "other.db", migrate=True)
        parsed = parse(exported).document
        assert parsed is not None
        other.apply_document(stored(parsed, other), author="bob")
        assert render(other.document()[1]) == exported
        assert other.snapshot().rules == one.snapshot().rules
        one.close()
        other.close()


@given(st.lists(rule_sets, min_size=2, max_size=5))
@settings(max_examples=10, deadline=None)
def test_each_kept_version_is_told_as_it_was_and_can_be_gone_back_to(steps: list[Document]) -> None:
    with TemporaryDirectory() as scratch:
        directory = Directory(Path(scratch) / "d.db", migrate=True)
        known = {0: Document()}
        for step in steps:
            version, _ = directory.apply_document(stored(step, directory), author="ann")
            known[version] = directory.document()[1]
        for version, was in known.items():
            assert directory.document(version)[1] == was
        for version, was in known.items():
            directory.apply_document(was, author="ann", comment=f"back to {version}")
            assert directory.document()[1] == was
        directory.close()


def test_single_changes_are_walked_back_as_well(directory: Directory) -> None:
    directory.put_rule(DomainRule("a.test", RuleKind.HOSTED), create=True, author="a")
    directory.put_handler("a.test", AddressHandler("x", HandlerKind.DISCARD), create=True, author="a")
    directory.put_policy("mine", POLICY, author="a")
    directory.put_handler("a.test", AddressHandler("x", HandlerKind.REJECT, (), "no", "mine"), create=False, author="a")
    directory.delete_handler("a.test", "x", author="a")
    directory.delete_policy("mine", author="a")
    directory.delete_rule("a.test", author="a")
    told = [directory.document(version)[1] for version in range(8)]
    handler = AddressHandler("x", HandlerKind.REJECT, (), "no", "mine")
    rule = DomainRule("a.test", RuleKind.HOSTED)
    assert told[0] == told[7] == Document()
    assert told[1] == told[6] == Document((rule,))
    assert told[4] == Document((DomainRule("a.test", RuleKind.HOSTED, handlers=(handler,)),), {"mine": POLICY})


def test_a_version_that_is_not_kept_any_more_is_told_so(directory: Directory) -> None:
    for _ in range(KEEP // 2 + 1):
        directory.put_rule(DomainRule("a.test", RuleKind.MX), create=True, author="a")
        directory.delete_rule("a.test", author="a")
    assert directory.document(2)[1].rules == ()
    for version in (1, KEEP + 3, -1):
        with pytest.raises(NotFound, match=f"versions 2 to {KEEP + 2}"):
            directory.document(version)
