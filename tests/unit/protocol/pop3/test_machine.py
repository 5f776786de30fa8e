"""The POP3 machine against the dialogs of tests/dialogs (the running server plays the same ones), and against any octets."""

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gatepost.protocol.pop3 import machine as pop3
from support.dialogs import Dialog, load, unescape

DIALOGS = sorted((Path(__file__).parents[3] / "dialogs").glob("pop3-*.dialog"))
USER, PASSWORD = "alice@example.test", "correct horse battery staple"
MAILDROP = [
    b"Subject: one\r\nTo: alice@example.test\r\n\r\nfirst body\r\n",
    b"Subject: two\r\nTo: alice@example.test\r\n\r\n.hidden dot\r\nlast line\r\n",
    b"Subject: three\r\nTo: alice@example.test\r\n\r\n",
]


class Driver:
    """What server/pop3 does for the machine, without sockets: collects what is sent."""

    def __init__(self, *, plaintext: bool = True) -> None:
        self.tls = False
        self.plaintext = plaintext
        self.machine = pop3.Pop3Machine(self.offer())
        self.sent = bytearray(b"+OK ready\r\n")
        self.removed: list[int] = []
        self.closed = False

    def offer(self) -> pop3.Offer:
        allowed = self.plaintext or self.tls
        return pop3.Offer(stls=not self.tls, user=allowed, mechanisms=("PLAIN",) if allowed else ())

    def feed(self, data: bytes) -> None:
        self.machine.feed(data)
        while not self.closed and (event := self.machine.next_event()) is not None:
            self.act(event)

    def act(self, event: pop3.Event) -> None:
        if isinstance(event, pop3.Send):
            self.sent += event.data
        elif isinstance(event, pop3.Password):
            self.login(event.user, event.password)
        elif isinstance(event, pop3.SaslStart | pop3.SaslResponse):
            self.sasl(event.initial if isinstance(event, pop3.SaslStart) else event.data)
        elif isinstance(event, pop3.StartTls):
            self.sent += event.reply
            self.tls = True
            self.machine.tls_started(self.offer())
        elif isinstance(event, pop3.Retrieve):
            self.sent += b"+OK %d octets\r\n" % event.octets + self.dotted(MAILDROP[event.uid - 1], event.lines)
        elif isinstance(event, pop3.Update):
            self.removed = event.uids
            self.sent += self.machine.updated(len(event.uids), failed=False).data
        else:
            self.closed = True

    def sasl(self, response: bytes | None) -> None:
        if response is None:
            self.sent += self.machine.challenged(b"").data
            return
        _, user, password = response.split(b"\0")
        self.login(user.decode(), password.decode())

    def login(self, user: str, password: str) -> None:
        if (user, password) == (USER, PASSWORD):
            answer = self.machine.logged_in(1, [(n + 1, len(octets)) for n, octets in enumerate(MAILDROP)])
        else:
            answer = self.machine.refused("AUTH", "Login failed")
        self.sent += answer.data

    @staticmethod
    def dotted(message: bytes, lines: int) -> bytes:
        head, _, body = message.partition(b"\r\n\r\n")
        rest = body.split(b"\r\n")[:-1]
        shown = rest if lines < 0 else rest[:lines]
        every = [*head.split(b"\r\n"), b"", *shown]
        return b"".join((b"." if line.startswith(b".") else b"") + line + b"\r\n" for line in every) + b".\r\n"

    def line(self) -> str:
        text, end, rest = bytes(self.sent).partition(b"\r\n")
        assert end, f"no further line; sent so far: {text!r}"
        self.sent = bytearray(rest)
        return text.decode()


def test_there_are_dialogs() -> None:
    assert len(DIALOGS) >= 5


@pytest.mark.parametrize("path", DIALOGS, ids=lambda path: path.stem)
def test_the_machine_keeps_to_the_dialog(path: Path) -> None:
    dialog: Dialog = load(path)
    driver = Driver(plaintext=dialog.head.get("plaintext") != "no")
    for step in dialog.steps:
        where = f"{path.name}:{step.line}"
        if step.kind in "CR":
            driver.feed(step.text.encode() + b"\r\n" if step.kind == "C" else unescape(step.text))
        elif step.kind == "S":
            line = driver.line()
            if step.text.startswith("/"):
                assert re.fullmatch(step.text.strip("/"), line), where
            else:
                assert line.startswith(step.text), f"{where}: {line}"
        elif step.kind == "E":
            assert driver.closed, where
            assert not driver.sent, where


def test_without_quit_nothing_is_removed() -> None:
    driver = Driver()
    driver.feed(f"USER {USER}\r\nPASS {PASSWORD}\r\nDELE 1\r\n".encode())
    assert driver.removed == []
    driver.feed(b"QUIT\r\n")
    assert driver.removed == [1]


def test_unique_ids_stay_the_same_and_differ() -> None:
    def ids() -> list[str]:
        driver = Driver()
        driver.feed(f"USER {USER}\r\nPASS {PASSWORD}\r\nUIDL\r\n".encode())
        return [line.split(" ")[1] for line in driver.sent.decode().split("\r\n") if re.match(r"\d ", line)]

    assert ids() == ids()
    assert len(set(ids())) == 3


def test_a_long_listing_comes_in_parts() -> None:
    machine = pop3.Pop3Machine(pop3.Offer(stls=False, user=True, mechanisms=()))
    machine.logged_in(1, [(n, 10) for n in range(1, 2501)])
    machine.feed(b"UIDL\r\n")
    parts = []
    while (event := machine.next_event()) is not None:
        assert isinstance(event, pop3.Send)
        parts.append(event.data)
    assert len(parts) == 4
    assert b"".join(parts).count(b"\r\n") == 2502


def test_an_unending_line_is_not_kept() -> None:
    machine = pop3.Pop3Machine(pop3.Offer(stls=False, user=True, mechanisms=()))
    for _ in range(1000):
        machine.feed(b"x" * 1000)
        machine.next_event()
    assert machine.buffered <= 1000


@settings(max_examples=300)
@given(
    st.lists(
        st.one_of(
            st.binary(max_size=20), st.sampled_from([b"\r\n", b"\n", b"USER a\r\n", b"AUTH PLAIN\r\n", b"*\r\n", b"CAPA\r\n", b"x" * 600])
        ),
        max_size=30,
    )
)
def test_any_octets_are_answered_the_same_whatever_their_chunking(words: list[bytes]) -> None:
    class NoLogin(Driver):
        def sasl(self, response: bytes | None) -> None:
            self.sent += (self.machine.challenged(b"") if response is None else self.machine.refused("AUTH", "no")).data

    whole, single = NoLogin(), NoLogin()
    data = b"".join(words)
    whole.feed(data)
    for octet in data:
        single.feed(bytes([octet]))
    assert whole.sent == single.sent
    assert whole.closed == single.closed
