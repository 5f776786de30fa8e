"""Password hashes: what is kept of a password, and the check. Called by users.py and auth.py, in threads: all of it is slow.

Invariants: only an argon2id hash and the SCRAM-SHA-256 keys are kept. Text is normalised to NFC first (RFC 8265 4.2), so the same
password typed on two keyboards is the same. Fails with InvalidValue('password', …) for one that may not be set; a check never raises.
"""

import hashlib
import hmac
import secrets
import unicodedata

from argon2 import PasswordHasher
from argon2.exceptions import Argon2Error, InvalidHashError
from argon2.low_level import Type

from gatepost.directory.errors import InvalidValue
from gatepost.directory.values import ScramKeys

MIN_CHARACTERS = 8
MAX_OCTETS = 1024

# 19 MiB, two passes, one lane: the smallest memory of OWASP's list of equally strong settings for argon2id. RFC 9106's second choice of
# 64 MiB would make a burst of 64 queued logins want 128 MiB per worker at two threads, for an attacker's cost of the same order.
_HASHER = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1, hash_len=32, salt_len=16, type=Type.ID)

SCRAM_ITERATIONS = 32_768
"""RFC 7677 4 asks for 4,096 at least. The keys are the weakest thing a stolen file holds, the client pays, once per connection."""


def check_policy(password: str) -> None:
    """Raise InvalidValue unless `password` may be set."""
    if len(password) < MIN_CHARACTERS:
        raise InvalidValue("password", f"must have at least {MIN_CHARACTERS} characters")
    if len(password.encode("utf-8", "surrogatepass")) > MAX_OCTETS:
        raise InvalidValue("password", f"must have at most {MAX_OCTETS} octets")
    if any(unicodedata.category(c) in ("Cc", "Cs") for c in password):
        raise InvalidValue("password", "must not hold control characters")


def normalise(password: str) -> str:
    """NFC; spaces and case stay (RFC 8265 4.2, without its refusals: what was set must be what is checked)."""
    return unicodedata.normalize("NFC", password)


def hash_password(password: str) -> str:
    """The argon2id hash in PHC form. About 20 ms and 19 MiB."""
    return _HASHER.hash(normalise(password))


def verify_password(hashed: str, password: str) -> bool:
    """Whether `password` made `hashed`; False for anything that is no hash. About 20 ms, outside the interpreter lock."""
    if len(password) > MAX_OCTETS:
        return False
    try:
        return _HASHER.verify(hashed, normalise(password))
    except (Argon2Error, InvalidHashError, UnicodeError):
        return False


NOBODYS_HASH = "$argon2id$v=19$m=19456,t=2,p=1$AR4CcePjcPOa8xR5U1ZJZg$aH+FA6mKj0WUuzPh/1OutfVa08Asi0C8m6vdGZIn6ko"
"""Of a random password nobody kept, with the parameters above: checked for unknown users, so that they take as long as known ones."""


def has_current_parameters(hashed: str) -> bool:
    """Whether `hashed` was made with the parameters in force."""
    return not _HASHER.check_needs_rehash(hashed)


def scram_keys(password: str) -> ScramKeys:
    """StoredKey and ServerKey of RFC 5802 3 with a fresh salt."""
    prepared = scram_text(password)
    salt = secrets.token_bytes(16)
    salted = hashlib.pbkdf2_hmac("sha256", prepared.encode(), salt, SCRAM_ITERATIONS)
    client_key = hmac.digest(salted, b"Client Key", "sha256")
    server_key = hmac.digest(salted, b"Server Key", "sha256")
    return ScramKeys(salt, SCRAM_ITERATIONS, hashlib.sha256(client_key).digest(), server_key)


def scram_text(password: str) -> str:
    """SASLprep (RFC 4013), as RFC 5802 2.2 wants; a password it forbids is taken as it is, as clients without SASLprep send it."""
    if password.isascii():
        return password
    from scramp.utils import ScramException, saslprep  # 0.15 s of import that ASCII passwords do not need

    try:
        return str(saslprep(password))
    except ScramException:
        return normalise(password)
