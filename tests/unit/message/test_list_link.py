"""Signed words of mailing lists: what was signed is what is read, and nothing else."""

import pytest

from gatepost.message.list_link import NEVER, ListAction, ListLink, ListLinkError, read_list_link

KEY = b"k" * 32
LINK = ListLink(ListAction.UNSUBSCRIBE, "team@here.test", "grüße+1@far.test", 1000)


def test_a_link_says_what_was_signed() -> None:
    token = LINK.sign(KEY)
    assert read_list_link(token, KEY, 999) == LINK
    assert all(one.isalnum() or one in "-_" for one in token)


@pytest.mark.parametrize("place", range(0, len(LINK.sign(KEY)), 7))
def test_a_link_that_was_changed_is_none(place: int) -> None:
    token = LINK.sign(KEY)
    changed = token[:place] + ("A" if token[place] != "A" else "B") + token[place + 1 :]
    with pytest.raises(ListLinkError, match="no link of this server"):
        read_list_link(changed, KEY, 0)


@pytest.mark.parametrize("token", ["", "x", "ä", "A" * 5000, "====", "AAAA\n"])
def test_nonsense_is_no_link(token: str) -> None:
    with pytest.raises(ListLinkError, match="no link of this server"):
        read_list_link(token, KEY, 0)


def test_a_link_of_another_key_or_of_none_is_no_link() -> None:
    for key in (b"x" * 32, b""):
        with pytest.raises(ListLinkError):
            read_list_link(LINK.sign(KEY), key, 0)


def test_a_link_ends_with_its_time_unless_it_has_none() -> None:
    with pytest.raises(ListLinkError, match="expired") as told:
        read_list_link(LINK.sign(KEY), KEY, 1001)
    assert told.value.expired
    forever = ListLink(ListAction.UNSUBSCRIBE, "team@here.test", "a@far.test")
    assert read_list_link(forever.sign(KEY), KEY, NEVER - 1) == forever
