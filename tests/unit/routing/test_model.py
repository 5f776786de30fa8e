"""Route and rule values: the journal's form and the destination key."""

import pytest

from gatepost.routing.model import Route, RouteKind, TlsPolicy


@pytest.mark.parametrize(
    ("route", "destination"),
    [
        (Route(RouteKind.LOCAL, "a@b.test", b"0" * 16, "main"), "local:main"),
        (Route(RouteKind.SMTP, "a@B.test"), "smtp:b.test:opportunistic"),
        (Route(RouteKind.SMTP, "a@b.test", host="10.0.0.1", port=26, tls=TlsPolicy.NONE), "smtp:[10.0.0.1]:26:none"),
        (
            Route(RouteKind.SMTP, "a@b.test", host="h", port=465, tls=TlsPolicy.VERIFIED, implicit_tls=True),
            "smtp:[h]:465:verified-implicit",
        ),
        (Route(RouteKind.SMTP, "a@b.test", host="h", port=587, username="me"), "smtp:[h]:587:opportunistic:me"),
        (Route(RouteKind.LMTP, "a@b.test", host="h", port=24), "lmtp:[h]:24:opportunistic"),
        (Route(RouteKind.DISCARD, "a@b.test"), ""),
    ],
)
def test_the_destination_tells_apart_what_retries_apart(route: Route, destination: str) -> None:
    assert route.destination == destination
    assert Route.decode(route.encode()) == route


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b"[1]", b'["local"]', b'["local",1,2,3,4,5,6,7]', b"\xff"])
def test_a_damaged_route_is_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError):
        Route.decode(data)
