"""Route and rule values: the journal's form and the destination key."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatepost.message.plain import from_plain, to_plain
from gatepost.routing.model import DeliveryOptions, NextHop, Program, Route, RouteKind, TlsPolicy
from gatepost.routing.settings import HandlerOptions, ListSettings, RuleSettings, Transport, TransportKind


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
        (
            Route(RouteKind.SMTP, "a@b.test", host="h", port=587, username="me", password_ref="one"),
            "smtp:[h]:587:opportunistic:me:~327fb60b",
        ),
        (
            Route(RouteKind.SMTP, "a@b.test", host="h", port=587, username="me", password_ref="other"),
            "smtp:[h]:587:opportunistic:me:~84ca9e94",
        ),
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


OLD = b'["smtp","a@b.test","","","INBOX","h",587,"verified",false,"me","ref",true]'
words = st.text(max_size=12)
counts = st.integers(0, 2**40)
options = st.builds(
    DeliveryOptions,
    source_address=words,
    helo=words,
    pins=st.lists(words, max_size=3).map(tuple),
    retry_intervals=st.lists(counts, max_size=4).map(tuple),
    retry_factor=st.floats(0, 100),
    delay_notice=st.integers(-1, 1000),
    concurrency=counts,
    priority=st.integers(-100, 100),
)
hops = st.lists(st.builds(NextHop, words, st.integers(1, 65535), counts, counts), max_size=3).map(tuple)
programs = st.builds(Program, st.lists(words, min_size=1, max_size=3).map(tuple), counts, counts, counts)
routes = st.builds(
    Route,
    st.sampled_from(RouteKind),
    st.just("a@b.test"),
    host=words,
    tls=st.sampled_from(TlsPolicy),
    hold=st.booleans(),
    next_hops=hops,
    options=st.none() | options,
    return_path=words,
    edits=st.lists(st.tuples(words, words), max_size=3).map(tuple),
    program=st.none() | programs,
)


def test_a_route_of_an_older_journal_is_read_and_written_as_ever() -> None:
    route = Route.decode(OLD)
    assert route == Route(
        RouteKind.SMTP, "a@b.test", host="h", port=587, tls=TlsPolicy.VERIFIED, username="me", password_ref="ref", hold=True
    )
    assert route.encode() == OLD


@given(routes)
def test_every_route_comes_back_from_the_journal_as_it_was(route: Route) -> None:
    data = route.encode()
    assert Route.decode(data) == route
    plain = not (route.next_hops or route.options or route.return_path or route.edits or route.program)
    assert data.endswith(b"}]") is not plain
    assert len(json.loads(data)) == (12 if plain else 13)


@given(options, options)
def test_a_destination_has_one_set_of_options(first: DeliveryOptions, second: DeliveryOptions) -> None:
    names = {Route(RouteKind.SMTP, "a@b.test", host="h", options=one).destination for one in (first, second)}
    assert len(names) == (1 if first == second else 2)
    assert Route(RouteKind.SMTP, "a@b.test", host="h").destination not in names


@pytest.mark.parametrize(
    "value",
    [
        RuleSettings(),
        RuleSettings(next_hops=(NextHop("a"), NextHop("b", 26, 10, 5)), size_limit=7, delivery=DeliveryOptions(helo="x", retry_factor=2.0)),
        HandlerOptions(list=ListSettings(owners=("a@b.test",), verp=True)),
        HandlerOptions(transport=Transport(TransportKind.PIPE, program=Program(("/bin/cat", "-")))),
    ],
)
def test_settings_come_back_from_their_plain_form(value: object) -> None:
    plain = json.loads(json.dumps(to_plain(value)))
    assert from_plain(type(value), plain) == value


def test_what_is_default_is_not_written() -> None:
    assert to_plain(RuleSettings()) == {}
    assert to_plain(DeliveryOptions(helo="x")) == {"helo": "x"}


@pytest.mark.parametrize("plain", [[], {"unheard_of": 1}, {"size_limit": "7"}, {"size_limit": True}, {"next_hops": [{}]}, {"unknown": "x"}])
def test_a_damaged_plain_form_is_a_value_error(plain: object) -> None:
    with pytest.raises(ValueError):
        from_plain(RuleSettings, plain)
