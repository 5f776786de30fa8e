"""Parsers of what scanners say take any octets: an answer, or ScannerFault, and nothing else."""

import json
from contextlib import suppress

from hypothesis import given
from hypothesis import strategies as st

from gatepost.scan.scanners import http, icap, rspamd
from gatepost.scan.scanners.checked import checked
from gatepost.scan.scanners.plugin import Outcome, ScanAnswer, ScannerFault

TELLING = [b"ICAP/1.0 200 OK", b"HTTP/1.1 204", b"X-Violations-Found: 1", b"\ta", b": x", b"X-Infection-Found: Threat=;", b""]
LINES = st.lists(st.sampled_from(TELLING) | st.binary(max_size=30), max_size=8).map(b"\r\n".join)
JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(LINES)
def test_a_head_is_parsed_or_refused(octets: bytes) -> None:
    with suppress(ScannerFault):
        head = http.parse_head(octets)
        name = icap.infection(head)
        assert name is None or name
        with suppress(ScannerFault):
            http.length_of(head)


@given(st.text(max_size=40) | st.from_regex(r"(req|res)-hdr=\d{1,9}(, ?(res|null|opt)-body=\d{1,9})?", fullmatch=True))
def test_places_ascend_from_zero_to_a_body(text: str) -> None:
    with suppress(ScannerFault):
        places = icap.places_of(text)
        offsets = [offset for _, offset in places]
        assert offsets == sorted(offsets)
        assert offsets[0] == 0
        assert places[-1][0].endswith("-body")


@given(
    st.binary(max_size=50)
    | st.fixed_dictionaries(
        {"action": st.sampled_from(sorted(rspamd.ACTIONS)) | JSON, "score": JSON}, optional={"symbols": JSON, "milter": JSON}
    ).map(lambda said: json.dumps(said).encode())
)
def test_rspamd_is_understood_or_not(body: bytes) -> None:
    with suppress(ScannerFault):
        answer = checked(rspamd.understood(body), "rspamd", "")
        assert answer.outcome in (Outcome.CLEAN, Outcome.SUSPICIOUS)
        assert answer.outcome != Outcome.CLEAN or answer.action in rspamd.CLEAN


@given(st.text(max_size=50), st.text(max_size=400), st.lists(st.tuples(st.text(max_size=9), st.text(max_size=30)), max_size=3))
def test_what_is_kept_of_an_answer_has_no_line_end_in_it(outcome: str, name: str, fields: list[tuple[str, str]]) -> None:
    for one in (outcome, "infected"):
        with suppress(ScannerFault):
            answer = checked(ScanAnswer("", one, name, fields=tuple(fields)), "plug", name)
            for text in (answer.name, answer.part, *(part for field in answer.fields for part in field)):
                assert not set(text) & set("\r\n\0\x85\u2028")
                text.encode()
