"""What the benches of rules share: a directory filled by SQL, a server on it, a row of a table."""

import sqlite3
from pathlib import Path

from support.gatepost import Gatepost

_RULE = (
    "INSERT INTO domain_rules (domain, kind, host, port, tls, implicit_tls, lmtp, username, password_ref, text, accept_untrusted, revision,"
    " settings) VALUES (?, ?, ?, 25, 'opportunistic', 0, 0, '', '', '', 0, 1, ?)"
)
_HANDLER = "INSERT INTO handlers (rule_id, pattern, kind, targets, text) SELECT id, ?, 'forward', ?, '' FROM domain_rules WHERE domain = ?"


def _rule(n: int) -> tuple[str, str, str, str]:
    """Seven of ten gateways, two hosted domains, one alias of the gateway before it."""
    if n % 10 == 9:
        return f"d{n}.test", "alias", "", f'{{"alias_of": "d{n - 9}.test"}}'
    return (f"d{n}.test", "hosted", "", "") if n % 10 > 6 else (f"d{n}.test", "gateway", "mx.example.test", "")


def fill(path: Path, rules: int, handlers: int) -> None:
    """Rules of each kind, with handlers spread over those that are no alias; one handler in ten is a prefix."""
    own = [n for n in range(rules) if n % 10 != 9]
    with sqlite3.connect(path) as connection:
        connection.executemany(_RULE, map(_rule, range(rules)))
        places = ((n, own[n % len(own)], n // len(own)) for n in range(handlers))
        rows = ((f"team{k}-*" if k % 10 == 9 else f"user{k}", f"user{n}@far.test", f"d{d}.test") for n, d, k in places)
        connection.executemany(_HANDLER, rows)


class Running:
    """A server on a directory that is there already, until it is closed."""

    def __init__(self, server: Gatepost) -> None:
        self.close = server.kill
        server.start()


def line(what: str, seen: float, unit: str, bar: str) -> None:
    """One row of the table."""
    print(f"{what:<34} {seen:10.3f} {unit:<4} {bar}")
