"""'host:port' texts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatepost.config import Endpoint, parse_endpoint


@pytest.mark.parametrize(
    ("text", "endpoint", "again"),
    [
        ("127.0.0.1:25", Endpoint("127.0.0.1", 25), "127.0.0.1:25"),
        ("[::1]:0", Endpoint("::1", 0), "[::1]:0"),
        ("[2001:DB8::0]:1", Endpoint("2001:db8::", 1), "[2001:db8::]:1"),
        ("*:25", Endpoint("0.0.0.0", 25), "0.0.0.0:25"),
        (" mail.example.org:587 ", Endpoint("mail.example.org", 587), "mail.example.org:587"),
    ],
)
def test_an_endpoint_is_read_and_written(text: str, endpoint: Endpoint, again: str) -> None:
    assert parse_endpoint(text) == endpoint
    assert str(endpoint) == again
    assert parse_endpoint(endpoint) is endpoint


@pytest.mark.parametrize(
    "text", ["", "25", ":25", "h:", "h:-1", "h:65536", "h:٣", "a b:1", "[::1:1", "[x]:1", "::1:1", "http://h:1", "u@h:1"]
)
def test_anything_else_is_refused_with_what_it_was(text: str) -> None:
    with pytest.raises(ValueError, match=r"\(got "):
        parse_endpoint(text)


@given(st.text(max_size=30))
def test_any_text_is_an_endpoint_or_a_value_error(text: str) -> None:
    try:
        endpoint = parse_endpoint(text)
    except ValueError:
        return
    assert parse_endpoint(str(endpoint)) == endpoint
