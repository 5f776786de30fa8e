"""Logins against a real directory: passwords, SASL (scramp's client is the peer), guessing, overload, what is remembered."""

import asyncio
import statistics
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scramp import ScramClient, ScramException

from gatepost.config import Settings, load_settings
from gatepost.directory import (
    Authenticator,
    AuthResult,
    Challenge,
    Directory,
    DirectoryError,
    Failure,
    SaslExchange,
    Success,
    auth,
    passwords,
)
from gatepost.directory.auth import BUSY, network_of
from gatepost.directory.sasl import BAD_LOGIN, TOO_MANY

ALICE = "alice@example.test"
PASSWORD = "correct horse"
CLIENT = "192.0.2.1"
NON_ASCII = "p\u00e4ssw\u00f6rd \u20ac"


class Clock:
    """Monotonic seconds that the test moves."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def users(hosting: Directory) -> Directory:
    hosting.add_user(ALICE, PASSWORD, author="a")
    hosting.add_user("nopass@example.test", None, author="a")
    hosting.add_user("off@example.test", PASSWORD, author="a")
    hosting.set_enabled("off@example.test", False, author="a")
    return hosting


@pytest.fixture
async def authenticator(users: Directory, path: Path, clock: Clock) -> AsyncIterator[Authenticator]:
    """As a worker has it: over a directory opened for reading."""
    reader = Directory(path)
    made = Authenticator(reader, configured(), clock=clock)
    yield made
    made.close()
    reader.close()


def configured(**overrides: object) -> Callable[[], Settings]:
    made: Settings = load_settings(overrides={"hostname": "mail.example.test", "auth": overrides}, environ={})
    return lambda: made


async def scram(exchange: SaslExchange, user: str, password: str) -> Success | Failure:
    """A whole exchange with scramp as the client, which also checks the server's signature."""
    client = ScramClient(["SCRAM-SHA-256"], user, password)
    first = await exchange.step(client.get_client_first().encode())
    assert isinstance(first, Challenge), first
    client.set_server_first(first.data.decode())
    last = await exchange.step(client.get_client_final().encode())
    assert not isinstance(last, Challenge)
    if isinstance(last, Success):
        client.set_server_final(last.final.decode())
    return last


async def test_the_right_password_logs_in_by_the_address_in_any_case(authenticator: Authenticator) -> None:
    assert await authenticator.verify_plain("Alice@Example.TEST", PASSWORD, CLIENT) == AuthResult(ALICE)
    assert await authenticator.verify_plain("alice@example.test.", PASSWORD, CLIENT) == AuthResult(ALICE)


@pytest.mark.parametrize(
    ("login", "password"),
    [
        (ALICE, "wrong"),
        (ALICE, ""),
        (ALICE, PASSWORD + " "),
        (ALICE, PASSWORD.upper()),
        ("nobody@example.test", PASSWORD),
        ("nopass@example.test", ""),
        ("nopass@example.test", PASSWORD),
        ("off@example.test", PASSWORD),
        ("alice", PASSWORD),
        ("", ""),
        ("@", "x"),
        ("\ud800@x", "\ud800"),
        (ALICE, "x" * 100_000),
        ("x" * 100_000, "x"),
        (ALICE + "\0", PASSWORD),
    ],
)
async def test_anything_else_gets_the_same_answer(authenticator: Authenticator, login: str, password: str) -> None:
    assert await authenticator.verify_plain(login, password, CLIENT) == AuthResult(reason=BAD_LOGIN)


async def test_a_password_is_the_same_however_its_characters_are_composed(users: Directory, authenticator: Authenticator) -> None:
    users.set_password(ALICE, NON_ASCII, author="a")
    decomposed = "pa\u0308sswo\u0308rd \u20ac"
    assert (await authenticator.verify_plain(ALICE, decomposed, CLIENT)).user == ALICE
    assert isinstance(await scram(authenticator.sasl("SCRAM-SHA-256", tls=False, channel=CLIENT), ALICE, NON_ASCII), Success)


async def test_unknown_disabled_and_passwordless_users_take_as_long_as_known_ones(authenticator: Authenticator) -> None:
    async def took(login: str) -> float:
        start = time.process_time()  # of all threads: what other processes do does not count
        await authenticator.verify_plain(login, "wrong password", f"10.0.0.{next(number)}")
        return time.process_time() - start

    number = iter(range(1, 250))
    logins = [ALICE, "nobody@example.test", "off@example.test", "nopass@example.test", "not an address"]
    medians = [statistics.median([await took(login) for _ in range(7)]) for login in logins]
    assert min(medians) > 0.3 * max(medians), medians


def test_the_hash_for_nobody_has_the_parameters_in_force() -> None:
    assert passwords.has_current_parameters(passwords.NOBODYS_HASH)
    assert not passwords.verify_password(passwords.NOBODYS_HASH, "")
    for nonsense in ("", "x", "$argon2id$v=19$m=19456,t=2,p=1$", "$argon2id$\ud800"):
        assert not passwords.verify_password(nonsense, PASSWORD)


# ---- SASL ------------------------------------------------------------------------------------------------------------


async def test_plain_text_mechanisms_are_offered_only_where_passwords_may_travel(users: Directory) -> None:
    authenticator = Authenticator(users, configured())
    assert authenticator.mechanisms(True) == ("SCRAM-SHA-256", "PLAIN", "LOGIN")
    assert authenticator.mechanisms(False) == ("SCRAM-SHA-256",)
    for mechanism in ("PLAIN", "LOGIN", "SCRAM-SHA-1", "", "plain "):
        with pytest.raises(ValueError, match="not offered"):
            authenticator.sasl(mechanism, tls=False, channel=CLIENT)
    relaxed = load_settings(overrides={"hostname": "h", "smtp.require_tls_for_plaintext_auth": False}, environ={})
    assert "PLAIN" in Authenticator(users, lambda: relaxed).mechanisms(False)


async def test_plain_takes_an_initial_response_or_asks_for_one(authenticator: Authenticator) -> None:
    response = f"\0{ALICE}\0{PASSWORD}".encode()
    assert await authenticator.sasl("PLAIN", tls=True, channel=CLIENT).step(response) == Success(ALICE)
    exchange = authenticator.sasl("plain", tls=True, channel=CLIENT)
    assert await exchange.step(None) == Challenge(b"")
    assert await exchange.step(response) == Success(ALICE)
    assert isinstance(await exchange.step(response), Failure)


@pytest.mark.parametrize(
    "response",
    [
        b"",
        b"\0\0",
        b"alice",
        b"\0alice@example.test",
        b"\0alice@example.test\0",
        b"a\0b\0c\0d",
        b"\xff\0\xff\0\xff",
        b"bob@example.test\0alice@example.test\0correct horse",
        b"x" * 5000,
    ],
)
async def test_a_plain_response_that_is_not_one_fails(authenticator: Authenticator, response: bytes) -> None:
    outcome = await authenticator.sasl("PLAIN", tls=True, channel=CLIENT).step(response)
    assert isinstance(outcome, Failure)
    assert not outcome.temporary


async def test_plain_takes_an_authorization_identity_that_is_the_user_itself(authenticator: Authenticator) -> None:
    response = f"Alice@example.test\0{ALICE}\0{PASSWORD}".encode()
    assert await authenticator.sasl("PLAIN", tls=True, channel=CLIENT).step(response) == Success(ALICE)


async def test_login_asks_for_name_and_password(authenticator: Authenticator) -> None:
    exchange = authenticator.sasl("LOGIN", tls=True, channel=CLIENT)
    assert await exchange.step(None) == Challenge(b"Username:")
    assert await exchange.step(ALICE.encode()) == Challenge(b"Password:")
    assert await exchange.step(PASSWORD.encode()) == Success(ALICE)
    early = authenticator.sasl("LOGIN", tls=True, channel=CLIENT)
    assert await early.step(ALICE.encode()) == Challenge(b"Password:")
    assert await early.step(b"wrong") == Failure(BAD_LOGIN)


async def test_scram_proves_both_sides(authenticator: Authenticator) -> None:
    outcome = await scram(authenticator.sasl("SCRAM-SHA-256", tls=False, channel=CLIENT), ALICE, PASSWORD)
    assert isinstance(outcome, Success)
    assert outcome.user == ALICE
    assert outcome.final.startswith(b"v=")


@pytest.mark.parametrize(
    ("user", "password"),
    [
        (ALICE, "wrong"),
        ("nobody@example.test", PASSWORD),
        ("alice", PASSWORD),
        ("off@example.test", PASSWORD),
        ("nopass@example.test", PASSWORD),
    ],
)
async def test_scram_refuses_at_the_last_step_whatever_the_reason(authenticator: Authenticator, user: str, password: str) -> None:
    outcome = await scram(authenticator.sasl("SCRAM-SHA-256", tls=False, channel=CLIENT), user, password)
    assert isinstance(outcome, Failure)
    assert not outcome.temporary


async def test_scram_shows_the_same_salt_for_an_unknown_user_each_time_and_in_each_worker(users: Directory, path: Path) -> None:
    async def salt(authenticator: Authenticator, user: str) -> str:
        client = ScramClient(["SCRAM-SHA-256"], user, PASSWORD)
        step = await authenticator.sasl("SCRAM-SHA-256", tls=False, channel=CLIENT).step(client.get_client_first().encode())
        assert isinstance(step, Challenge)
        return step.data.decode().partition(",")[2]

    one, two = Authenticator(Directory(path), configured()), Authenticator(Directory(path), configured())
    assert await salt(one, "nobody@example.test") == await salt(one, "NOBODY@example.test") == await salt(two, "nobody@example.test")
    assert await salt(one, "nobody@example.test") != await salt(one, "somebody@example.test")
    assert (await salt(one, "nobody@example.test")).partition(",i=")[2] == (await salt(one, ALICE)).partition(",i=")[2]


@pytest.mark.parametrize(
    ("flag", "taken"), [("n", True), ("y", True), ("p=tls-server-end-point", False), ("p=tls-exporter", False), ("z", False)]
)
async def test_scram_channel_binding_is_not_offered_and_refused_when_asked_for(
    authenticator: Authenticator, flag: str, taken: bool
) -> None:
    step = await authenticator.sasl("SCRAM-SHA-256", tls=True, channel=CLIENT).step(f"{flag},,n={ALICE},r=abcdefgh".encode())
    assert isinstance(step, Challenge) is taken


async def test_a_client_that_was_cheated_out_of_channel_binding_is_let_in_when_we_really_have_none(authenticator: Authenticator) -> None:
    """'y' in client-first: the client supports binding and thinks we do not (RFC 5802 6). The whole exchange must work."""
    client = ScramClient(["SCRAM-SHA-256"], ALICE, PASSWORD, channel_binding=("tls-unique", b"x" * 12))
    exchange = authenticator.sasl("SCRAM-SHA-256", tls=True, channel=CLIENT)
    first = client.get_client_first()
    assert first.startswith("y,,")
    step = await exchange.step(first.encode())
    assert isinstance(step, Challenge)
    client.set_server_first(step.data.decode())
    last = await exchange.step(client.get_client_final().encode())
    assert isinstance(last, Success)


@pytest.mark.parametrize(
    "first",
    [
        b"",
        b"\xff",
        b"n,,",
        b"n,,n=,r=x",
        b"n,,n=alice,r=x,r=y",
        b"n,,n=a\0b,r=x",
        b"n,,n=alice,r=\xc3\xa4",
        b"n,,m=x,n=alice,r=x",
        b"n,,r=x,n=a",
        b"x" * 5000,
    ],
)
async def test_scram_nonsense_is_a_failure(authenticator: Authenticator, first: bytes) -> None:
    assert isinstance(await authenticator.sasl("SCRAM-SHA-256", tls=True, channel=CLIENT).step(first), Failure)


async def test_a_scram_proof_for_another_exchange_is_refused(authenticator: Authenticator) -> None:
    client = ScramClient(["SCRAM-SHA-256"], ALICE, PASSWORD)
    exchange = authenticator.sasl("SCRAM-SHA-256", tls=True, channel=CLIENT)
    step = await exchange.step(client.get_client_first().encode())
    assert isinstance(step, Challenge)
    client.set_server_first(step.data.decode())
    final = client.get_client_final().encode()
    replay = authenticator.sasl("SCRAM-SHA-256", tls=True, channel=CLIENT)
    assert isinstance(await replay.step(f"n,,n={ALICE},r=abcdefgh".encode()), Challenge)
    assert isinstance(await replay.step(final), Failure)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(["PLAIN", "LOGIN", "SCRAM-SHA-256"]), st.lists(st.none() | st.binary(max_size=60), max_size=4))
def test_no_octets_raise(path: Path, mechanism: str, responses: list[bytes | None]) -> None:
    async def talk() -> None:
        directory = Directory(path, migrate=True)
        authenticator = Authenticator(directory, configured())
        exchange = authenticator.sasl(mechanism, tls=True, channel=CLIENT)
        for response in responses:
            assert isinstance(await exchange.step(response), Challenge | Success | Failure)
        authenticator.close()
        directory.close()

    asyncio.run(talk())


# ---- guessing --------------------------------------------------------------------------------------------------------


async def test_after_five_failures_tries_are_put_off_even_with_the_right_password(authenticator: Authenticator, clock: Clock) -> None:
    for n in range(5):
        assert (await authenticator.verify_plain(ALICE, f"guess {n}", CLIENT)).reason == BAD_LOGIN
    blocked = AuthResult(reason=TOO_MANY, temporary=True)
    assert await authenticator.verify_plain(ALICE, PASSWORD, CLIENT) == blocked
    assert await authenticator.verify_plain("ALICE@example.test", "x", CLIENT) == blocked
    assert await scram(authenticator.sasl("SCRAM-SHA-256", tls=True, channel=CLIENT), ALICE, PASSWORD) == Failure(TOO_MANY, True)
    clock.now += 601
    assert (await authenticator.verify_plain(ALICE, PASSWORD, CLIENT)).user == ALICE


async def test_the_right_one_cannot_be_told_from_a_wrong_one_while_put_off_though_it_is_remembered(authenticator: Authenticator) -> None:
    assert (await authenticator.verify_plain(ALICE, PASSWORD, "192.0.2.9")).user == ALICE
    for n in range(5):
        await authenticator.verify_plain(ALICE, f"guess {n}", CLIENT)
    assert (await authenticator.verify_plain(ALICE, PASSWORD, CLIENT)).reason == TOO_MANY


async def test_other_clients_and_other_users_are_not_held_up(authenticator: Authenticator) -> None:
    for n in range(6):
        await authenticator.verify_plain(ALICE, f"guess {n}", CLIENT)
    assert (await authenticator.verify_plain(ALICE, PASSWORD, "192.0.2.2")).user == ALICE
    assert (await authenticator.verify_plain("nobody@example.test", "x", CLIENT)).reason == BAD_LOGIN


async def test_a_success_forgets_the_failures_before_it(authenticator: Authenticator) -> None:
    for _ in range(3):
        for n in range(4):
            assert (await authenticator.verify_plain(ALICE, f"guess {n}", CLIENT)).reason == BAD_LOGIN
        assert (await authenticator.verify_plain(ALICE, PASSWORD, CLIENT)).user == ALICE


async def test_scram_failures_count_too(authenticator: Authenticator) -> None:
    for _ in range(5):
        await scram(authenticator.sasl("SCRAM-SHA-256", tls=True, channel=CLIENT), ALICE, "wrong")
    assert (await authenticator.verify_plain(ALICE, PASSWORD, CLIENT)).reason == TOO_MANY


async def test_parallel_guesses_get_no_more_tries_than_single_ones(authenticator: Authenticator) -> None:
    results = await asyncio.gather(*(authenticator.verify_plain(ALICE, f"guess {n}", CLIENT) for n in range(30)))
    assert sum(result.reason == BAD_LOGIN for result in results) == 5
    assert sum(result.reason == TOO_MANY for result in results) == 25


async def test_a_mail_program_that_opens_many_connections_at_once_gets_them_all(authenticator: Authenticator) -> None:
    results = await asyncio.gather(*(authenticator.verify_plain(ALICE, PASSWORD, CLIENT) for _ in range(40)))
    assert {result.user for result in results} == {ALICE}


async def test_a_client_that_goes_away_takes_nobody_with_it(authenticator: Authenticator) -> None:
    first = asyncio.ensure_future(authenticator.verify_plain(ALICE, PASSWORD, CLIENT))
    await asyncio.sleep(0)
    second = asyncio.ensure_future(authenticator.verify_plain(ALICE, PASSWORD, CLIENT))
    await asyncio.sleep(0)
    first.cancel()
    assert (await second).user == ALICE


async def test_failures_are_counted_by_the_ipv6_network_and_a_mapped_address_is_ipv4() -> None:
    assert network_of("2001:db8::1") == network_of("2001:db8:0:0:ffff::2") != network_of("2001:db8:0:1::1")
    assert network_of("::ffff:192.0.2.1") == network_of("192.0.2.1") == "192.0.2.1"
    assert network_of("") == ""
    assert network_of("unix") == "unix"


async def test_failing_with_many_other_logins_does_not_wipe_out_a_count(authenticator: Authenticator, clock: Clock) -> None:
    for _ in range(5):
        await authenticator.verify_plain(ALICE, "wrong", CLIENT)
    for n in range(2 * auth.MAX_REMEMBERED):
        authenticator.begin_attempt(f"user{n}@example.test", CLIENT)
    assert (await authenticator.verify_plain(ALICE, PASSWORD, CLIENT)).reason == TOO_MANY
    assert (await authenticator.verify_plain(ALICE, PASSWORD, "192.0.2.2")).user == ALICE
    clock.now += 601
    assert (await authenticator.verify_plain(ALICE, PASSWORD, CLIENT)).user == ALICE


async def test_counts_and_remembered_logins_are_bounded(authenticator: Authenticator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth, "MAX_REMEMBERED", 10)
    for n in range(50):
        authenticator.begin_attempt(f"user{n}", CLIENT)
        authenticator._remember(bytes([n]), "x")
    assert len(authenticator._failures) == len(authenticator._cache) == 10


# ---- what is remembered ----------------------------------------------------------------------------------------------


async def test_a_remembered_login_costs_no_hash_until_it_is_old(
    authenticator: Authenticator, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (await authenticator.verify_plain(ALICE, PASSWORD, CLIENT)).user == ALICE
    hashes = []
    real = passwords.verify_password
    monkeypatch.setattr(passwords, "verify_password", lambda hashed, password: hashes.append(1) or real(hashed, password))
    for _ in range(20):
        assert (await authenticator.verify_plain(ALICE, PASSWORD, CLIENT)).user == ALICE
    assert hashes == []
    clock.now += 301
    assert (await authenticator.verify_plain(ALICE, PASSWORD, CLIENT)).user == ALICE
    assert hashes == [1]


async def test_a_new_password_or_a_disabled_user_counts_once_the_worker_hears_of_it(users: Directory, authenticator: Authenticator) -> None:
    assert (await authenticator.verify_plain(ALICE, PASSWORD, CLIENT)).user == ALICE
    users.set_password(ALICE, "battery staple", author="a")
    authenticator.invalidate()
    assert (await authenticator.verify_plain(ALICE, PASSWORD, CLIENT)).reason == BAD_LOGIN
    assert (await authenticator.verify_plain(ALICE, "battery staple", CLIENT)).user == ALICE
    users.set_enabled(ALICE, False, author="a")
    authenticator.invalidate()
    assert (await authenticator.verify_plain(ALICE, "battery staple", CLIENT)).reason == BAD_LOGIN


async def test_a_check_that_began_before_a_change_is_not_remembered_after_it(
    authenticator: Authenticator, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = threading.Event()
    real = passwords.verify_password

    def slow(hashed: str, password: str) -> bool:
        held.wait(10)
        return real(hashed, password)

    monkeypatch.setattr(passwords, "verify_password", slow)
    check = asyncio.ensure_future(authenticator.verify_plain(ALICE, PASSWORD, CLIENT))
    await asyncio.sleep(0.05)
    authenticator.invalidate()
    held.set()
    assert (await check).user == ALICE
    assert not authenticator._cache


async def test_remembering_can_be_turned_off(users: Directory) -> None:
    authenticator = Authenticator(users, configured(cache_seconds=0))
    assert (await authenticator.verify_plain(ALICE, PASSWORD, CLIENT)).user == ALICE
    assert not authenticator._cache
    authenticator.close()


# ---- overload and faults ---------------------------------------------------------------------------------------------


async def test_more_checks_than_threads_and_queue_hold_are_a_temporary_failure(users: Directory, monkeypatch: pytest.MonkeyPatch) -> None:
    authenticator = Authenticator(users, configured(hash_threads=1, hash_queue=3))
    held = threading.Event()
    monkeypatch.setattr(passwords, "verify_password", lambda hashed, password: held.wait(10) and False)
    checks = [asyncio.ensure_future(authenticator.verify_plain(f"u{n}@example.test", "x", f"10.0.0.{n}")) for n in range(10)]
    done, waiting = await asyncio.wait(checks, timeout=0.5)
    assert (len(done), len(waiting)) == (6, 4)
    assert {check.result() for check in done} == {AuthResult(reason=BUSY, temporary=True)}
    held.set()
    assert {check.result() for check in (await asyncio.wait(waiting))[0]} == {AuthResult(reason=BAD_LOGIN)}
    assert authenticator._running == 0
    authenticator.close()


async def test_overload_does_not_wipe_out_failures_counted_before(users: Directory, monkeypatch: pytest.MonkeyPatch) -> None:
    authenticator = Authenticator(users, configured(hash_threads=1, hash_queue=1))
    for n in range(4):
        await authenticator.verify_plain(ALICE, f"guess {n}", CLIENT)
    held = threading.Event()
    monkeypatch.setattr(passwords, "verify_password", lambda hashed, password: held.wait(10) and False)
    busy = [asyncio.ensure_future(authenticator.verify_plain(f"u{n}@example.test", "x", f"10.0.0.{n}")) for n in range(2)]
    await asyncio.sleep(0.05)
    assert (await authenticator.verify_plain(ALICE, "guess", CLIENT)).reason == BUSY
    held.set()
    await asyncio.gather(*busy)
    assert (await authenticator.verify_plain(ALICE, "guess 5", CLIENT)).reason == BAD_LOGIN
    assert (await authenticator.verify_plain(ALICE, "guess 6", CLIENT)).reason == TOO_MANY
    authenticator.close()


async def test_a_check_that_takes_too_long_is_a_temporary_failure(users: Directory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth, "CHECK_SECONDS", 0.1)
    held = threading.Event()
    monkeypatch.setattr(passwords, "verify_password", lambda hashed, password: held.wait(10) and False)
    authenticator = Authenticator(users, configured())
    result = await authenticator.verify_plain(ALICE, PASSWORD, CLIENT)
    held.set()
    assert result == AuthResult(reason=BUSY, temporary=True)
    authenticator.close()


async def test_a_directory_that_cannot_be_read_is_a_temporary_failure(users: Directory, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(address: str) -> None:
        raise DirectoryError("disk gone")

    authenticator = Authenticator(users, configured())
    monkeypatch.setattr(users, "credentials", broken)
    result = await authenticator.verify_plain(ALICE, PASSWORD, CLIENT)
    assert result.temporary
    assert "disk gone" in result.reason
    client = ScramClient(["SCRAM-SHA-256"], ALICE, PASSWORD)
    outcome = await authenticator.sasl("SCRAM-SHA-256", tls=True, channel=CLIENT).step(client.get_client_first().encode())
    assert isinstance(outcome, Failure)
    assert outcome.temporary
    authenticator.close()


def test_scram_keys_are_what_scramp_makes_of_the_same_password() -> None:
    from scramp import ScramMechanism

    for password in (PASSWORD, NON_ASCII):
        keys = passwords.scram_keys(password)
        salt, stored, server, rounds = ScramMechanism("SCRAM-SHA-256").make_auth_info(password, keys.iterations, keys.salt)
        assert (keys.salt, keys.stored_key, keys.server_key, keys.iterations) == (salt, stored, server, rounds)
    with pytest.raises(ScramException):
        ScramClient(["SCRAM-SHA-256"], ALICE, "\u0627\u0031")
    assert passwords.scram_keys("\u0627\u0031 forbidden by SASLprep")
