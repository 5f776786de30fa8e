"""The demo set-up of `make run`: domain example.test with alice and bob, made once.

Called by the supervisor with --demo before anything listens. Passwords are random, printed by the run that makes them, and kept
in DIR/demo-passwords.txt (mode 0600). A directory that has any domain already is left alone.
"""

import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gatepost.directory import Directory

DOMAIN = "example.test"
USERS = ("alice", "bob")
AUTHOR = "demo set-up"


def password_file(data: Path) -> Path:
    """Where the passwords are kept."""
    return data / "demo-passwords.txt"


def ensure_demo(directory: "Directory", data: Path) -> dict[str, str]:
    """Make domain and users when the directory is empty. Returns the new passwords by address, {} when nothing was made."""
    from gatepost.routing.model import DomainRule, RuleKind

    if directory.list_rules(limit=1):
        return {}
    directory.put_rule(DomainRule(DOMAIN, RuleKind.HOSTED), etag=None, create=True, author=AUTHOR)
    made: dict[str, str] = {}
    for name in USERS:
        address = f"{name}@{DOMAIN}"
        made[address] = secrets.token_urlsafe(9)
        directory.add_user(address, made[address], author=AUTHOR)
    _write_private(password_file(data), "".join(f"{address} {password}\n" for address, password in made.items()))
    return made


def _write_private(path: Path, text: str) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
