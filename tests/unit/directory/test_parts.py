"""The small ordered lists in the directory: checked, kept in order, versioned, part of documents."""

import pytest

from gatepost.directory import Directory, EtagMismatch, InvalidValue, NotFound
from gatepost.directory.documents import normalised
from gatepost.routing.document import Document, of, parse, render
from gatepost.routing.parts import MAX_ENTRIES
from gatepost.routing.trust import TrustAction, TrustEntry

OFFICE = TrustEntry(TrustAction.TRUST, "office", networks=("10.0.0.0/24",))
PRINTER = TrustEntry(TrustAction.DISTRUST, "printer", networks=("10.0.0.9/32",), comment="sends nonsense")


def names(directory: Directory) -> list[str]:
    return [one.name for one in directory.get_part("trust").entries]


def test_entries_keep_the_order_they_are_put_in(directory: Directory) -> None:
    directory.put_entry("trust", OFFICE, author="ann")
    directory.put_entry("trust", PRINTER, position=1, author="ann")
    assert names(directory) == ["printer", "office"]
    assert directory.snapshot().trust == (PRINTER, OFFICE)
    directory.put_entry("trust", TrustEntry(TrustAction.TRUST, "printer", networks=("10.0.0.9/32",)), author="ann")
    assert names(directory) == ["printer", "office"], "a changed entry stays where it is"
    directory.put_entry("trust", PRINTER, position=2, author="ann")
    assert names(directory) == ["office", "printer"]
    assert [one.comment for one in directory.rule_versions()][:2] == ["change trust entry printer", "change trust entry printer"]


def test_an_etag_of_an_older_list_is_refused(directory: Directory) -> None:
    etag = directory.put_entry("trust", OFFICE, author="ann")
    newer = directory.put_entry("trust", PRINTER, etag=etag, author="ann")
    with pytest.raises(EtagMismatch):
        directory.put_entry("trust", OFFICE, etag=etag, author="bob")
    with pytest.raises(EtagMismatch):
        directory.delete_entry("trust", "office", etag=etag, author="bob")
    directory.delete_entry("trust", "office", etag=newer, author="bob")
    assert names(directory) == ["printer"]


def test_an_unknown_entry_is_told_with_the_closest_name(directory: Directory) -> None:
    directory.put_entry("trust", OFFICE, author="ann")
    with pytest.raises(NotFound, match="did you mean 'office'"):
        directory.delete_entry("trust", "offise", author="ann")


@pytest.mark.parametrize(
    ("entry", "field"),
    [
        (TrustEntry(TrustAction.TRUST, "Office", networks=("10.0.0.0/24",)), "name"),
        (TrustEntry(TrustAction.TRUST, "x", networks=("10.0.0.1/24",)), r"networks\[0\]"),
        (TrustEntry(TrustAction.TRUST, "x", users=("*@*", "not an address")), r"users\[1\]"),
        (TrustEntry(TrustAction.TRUST, "x", certificates=("sha256:abcd",)), r"certificates\[0\]"),
        (TrustEntry(TrustAction.TRUST, "x", senders=("*@example.org",)), "senders"),
        (TrustEntry(TrustAction.TRUST, "x", networks=("0.0.0.0/0",)), "networks"),
        (TrustEntry(TrustAction.TRUST, "x", networks=("::/0",), senders=("a@b.test",)), "networks"),
        (TrustEntry(TrustAction.TRUST, "x"), "networks"),
        (TrustEntry(TrustAction.DISTRUST, "x", networks=("10.0.0.0/8",), comment="two\nlines"), "comment"),
    ],
)
def test_an_entry_that_fits_nobody_or_everybody_is_refused(directory: Directory, entry: TrustEntry, field: str) -> None:
    with pytest.raises(InvalidValue, match=f"^{field}:?"):
        directory.put_entry("trust", entry, author="ann")
    assert names(directory) == []


def test_a_list_has_a_bound(directory: Directory) -> None:
    many = tuple(TrustEntry(TrustAction.TRUST, f"n{n}", networks=("10.0.0.0/24",)) for n in range(MAX_ENTRIES + 1))
    document, faults = normalised(Document(trust=many), lambda _: False)
    assert document is None
    assert [fault.path for fault in faults] == [("trust",)]


def test_a_rule_file_carries_the_lists_in_their_order_and_goes_back_to_earlier_ones(directory: Directory) -> None:
    directory.put_entry("trust", OFFICE, author="ann")
    first = directory.rule_versions()[0].version
    text = render(Document(trust=(PRINTER, OFFICE)))
    parsed = parse(text)
    assert parsed.document is not None, parsed.problems
    assert parsed.document.trust == (PRINTER, OFFICE)
    document, faults = normalised(parsed.document, lambda _: False)
    assert document is not None, faults
    _, changes = directory.apply_document(document, author="bob")
    assert [str(one) for one in changes] == ["add trust printer"]
    assert directory.snapshot().trust == (PRINTER, OFFICE)
    assert of(directory.snapshot()).trust == (PRINTER, OFFICE)
    _, changes = directory.apply_document(Document(trust=(OFFICE, PRINTER)), author="bob")
    assert [str(one) for one in changes] == ["change trust order"]
    assert directory.document(first)[1].trust == (OFFICE,)


def test_a_fault_in_a_rule_file_is_told_with_its_line() -> None:
    parsed = parse('[[trust]]\naction = "trust"\nname = "a"\nnetworks = ["10.0.0.0/8"]\n\n[[trust]]\naction = "trusted"\nname = "b"\n')
    assert [(one.line, one.field) for one in parsed.problems] == [(7, "trust.1.action")]
    assert "did you mean" in parsed.problems[0].problem
