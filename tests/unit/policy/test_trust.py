"""Trust by address."""

import pytest

from gatepost.policy.trust import TrustedNetworks, is_loopback


@pytest.mark.parametrize("client", ["10.1.2.3", "::ffff:10.1.2.3", "2001:db8::5", "192.0.2.7"])
def test_addresses_inside_the_networks_are_trusted(client: str) -> None:
    assert client in TrustedNetworks(["10.0.0.0/8", "2001:db8::/32", "192.0.2.7"])


@pytest.mark.parametrize("client", ["11.1.2.3", "127.0.0.1", "::1", "2001:db9::5", "", "nonsense", "::ffff:11.1.2.3"])
def test_others_are_not(client: str) -> None:
    assert client not in TrustedNetworks(["10.0.0.0/8", "2001:db8::/32", "192.0.2.7"])


def test_by_default_nobody_is_trusted() -> None:
    assert "127.0.0.1" not in TrustedNetworks([])


def test_loopback_is_known_in_all_its_forms() -> None:
    for client in ("127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1", ""):
        assert is_loopback(client)
    assert not is_loopback("10.0.0.1")


def test_what_is_remembered_is_bounded() -> None:
    networks = TrustedNetworks(["10.0.0.0/8"])
    for n in range(30_000):
        assert f"11.0.{n // 250}.{n % 250}" not in networks
    assert len(networks._known) <= 10_000
