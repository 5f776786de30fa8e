"""VERP return paths name their member."""

import pytest

from gatepost.message.address import Address, parse_address
from gatepost.message.verp import verp


@pytest.mark.parametrize("member", ["bob@far.test", "a.b+c=d@far.test", '"x y"@far.test', "o'n@far.test"])
def test_a_bounce_names_the_member_it_is_of(member: str) -> None:
    path = parse_address(verp("sales@here.test", member))
    name, _, rest = path.local.partition("+")
    user, _, host = rest.rpartition("=")
    assert (name, path.domain) == ("sales-bounces", "here.test")
    assert str(Address(user, host)) == member


@pytest.mark.parametrize("member", ["x@[192.0.2.1]", "grüße@far.test", f"{'a' * 250}@far.test", "not an address"])
def test_a_member_that_does_not_fit_shares_the_path_of_the_list(member: str) -> None:
    assert verp("sales@here.test", member) == "sales-bounces@here.test"
