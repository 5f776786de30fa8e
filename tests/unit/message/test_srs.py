"""SRS: what is encoded comes back, and nothing else does."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gatepost.message.address import MAX_LOCAL_OCTETS, parse_address
from gatepost.message.srs import MAX_AGE_DAYS, Srs, SrsError, is_srs

SRS = Srs(b"k" * 32)
DAY = 20_000
LOCAL = st.from_regex(r"\A[a-zA-Z0-9!#$%&'*+/=?^_`{|}~-]{1,30}\Z")


def local_of(address: str) -> str:
    return parse_address(address).local


@settings(deadline=None)
@given(LOCAL, st.integers(0, 40_000), st.integers(0, MAX_AGE_DAYS))
def test_a_bounce_within_the_time_finds_the_original_sender(local: str, day: int, age: int) -> None:
    encoded = SRS.encode(f"{local}@far.test", "here.test", day)
    assert encoded.endswith("@here.test")
    assert is_srs(local_of(encoded))
    if not is_srs(local):
        assert SRS.decode(local_of(encoded), day + age) == f"{local}@far.test"


def test_a_server_that_folds_case_does_not_break_the_way_back() -> None:
    encoded = SRS.encode("Alice.B@far.test", "here.test", DAY)
    assert SRS.decode(local_of(encoded).lower(), DAY).lower() == "alice.b@far.test"


def test_an_address_that_is_too_old_is_refused_for_good() -> None:
    encoded = SRS.encode("a@far.test", "here.test", DAY)
    with pytest.raises(SrsError) as refused:
        SRS.decode(local_of(encoded), DAY + MAX_AGE_DAYS + 1)
    assert (refused.value.reply.code, refused.value.reply.enhanced) == (550, "5.1.1")


@pytest.mark.parametrize(
    "local",
    [
        "SRS0=AAAAAAAA=XX=far.test=victim",
        "SRS0=AAAAAAAA=far.test=victim",
        "SRS1=AAAAAAAA=far.test==AAAA=XX=other.test=victim",
        "SRS0=",
        "SRS1=====",
        "SRS0=é=ü=ö=ä",
        "alice",
    ],
)
def test_what_we_did_not_make_is_refused(local: str) -> None:
    with pytest.raises(SrsError) as refused:
        SRS.decode(local, DAY)
    assert refused.value.reply.code == 550


@settings(deadline=None)
@given(st.text(max_size=60))
def test_any_text_decodes_or_is_refused(text: str) -> None:
    for prefix in ("", "SRS0=", "SRS1=", "SRS0=A=B="):
        with pytest.raises(SrsError):
            SRS.decode(prefix + text, DAY)


@settings(deadline=None)
@given(st.integers(0, 30), st.sampled_from("abcdefghij=@.ABC"))
def test_one_changed_character_breaks_the_hash(place: int, character: str) -> None:
    local = local_of(SRS.encode("somebody@far.test", "here.test", DAY))
    place %= len(local)
    changed = f"{local[:place]}{character}{local[place + 1 :]}"
    if changed.lower() != local.lower():
        with pytest.raises(SrsError):
            SRS.decode(changed, DAY)


def test_another_key_reads_nothing_of_it() -> None:
    with pytest.raises(SrsError):
        Srs(b"other").decode(local_of(SRS.encode("a@far.test", "here.test", DAY)), DAY)


def test_a_chain_of_forwarders_keeps_one_length_and_leads_back_to_the_first() -> None:
    first, second, third = SRS, Srs(b"2"), Srs(b"3")
    one = first.encode("alice@far.test", "one.test", DAY)
    two = second.encode(one, "two.test", DAY)
    three = third.encode(two, "three.test", DAY)
    assert local_of(two).startswith("SRS1=") and len(local_of(three)) == len(local_of(two))
    assert third.decode(local_of(three), DAY) == one
    assert second.decode(local_of(two), DAY) == one
    assert first.decode(local_of(one), DAY) == "alice@far.test"


def test_null_own_and_overlong_senders_stay_as_they_are() -> None:
    assert SRS.encode("", "here.test", DAY) == ""
    assert SRS.encode("bob@here.test", "here.test", DAY) == "bob@here.test"
    long = "a" * (MAX_LOCAL_OCTETS - 10) + "@far.test"
    assert SRS.encode(long, "here.test", DAY) == long


def test_a_local_part_that_needs_quotes_survives() -> None:
    encoded = SRS.encode('"a b"@far.test', "here.test", DAY)
    assert SRS.decode(local_of(encoded), DAY) == '"a b"@far.test'
