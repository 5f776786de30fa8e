"""VERP return paths name their member, and only they do."""

import pytest

from gatepost.message.address import parse_address
from gatepost.message.verp import unverp, verp


@pytest.mark.parametrize("member", ["bob@far.test", "a.b+c=d@far.test", '"x y"@far.test', "o'n@far.test"])
def test_a_bounce_names_the_member_it_is_of(member: str) -> None:
    path = parse_address(verp("sales@here.test", member))
    assert path.domain == "here.test"
    assert unverp(path.local) == ("sales", member)


@pytest.mark.parametrize("member", ["x@[192.0.2.1]", "grüße@far.test", f"{'a' * 250}@far.test", "not an address"])
def test_a_member_that_does_not_fit_shares_the_path_of_the_list(member: str) -> None:
    assert verp("sales@here.test", member) == "sales-bounces@here.test"


def test_the_path_of_the_list_itself_has_no_member() -> None:
    assert unverp("sales-bounces") == ("sales", "")


@pytest.mark.parametrize(
    "local", ["sales", "-bounces", "sales-bounces+", "sales-bounces+x", "sales-bounces+=host", "sales-owner", "x+y-bounces"]
)
def test_other_addresses_are_no_bounces(local: str) -> None:
    assert unverp(local) is None
