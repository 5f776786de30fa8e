"""Secrets the server must be able to read back (passwords for gateways): one file each in DIR/secrets, mode 0600, encrypted.

Used by store.py and, through it, by delivery/. AES-256-GCM under the key in DIR/secrets.key (mode 0600, made at the first secret), bound
to the secret's name: a copy of DIR/secrets, as in a backup, tells nothing without the key, and one file cannot be put in another's place.
Invariants: a file is replaced as a whole or not at all; names are checked, so no reference leads outside the directory; what an older
version wrote in the clear is read, and encrypted at the next start. Fails with NotFound, InvalidValue, or DirectoryError for what the disk
says and for a file that the key does not open.
"""

import os
import secrets
from pathlib import Path

from gatepost.config.files import replace_file, sync_directory, write_new
from gatepost.directory import validation
from gatepost.directory.errors import DirectoryError, InvalidValue, NotFound
from gatepost.directory.standing import SEALED

MAX_OCTETS = 4096
_ANY_SEALED = b"gatepost-secret-"
_NONCE_OCTETS = 12
_KEY_OCTETS = 32


class SecretFiles:
    """The secrets of one data directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._key_path = directory.with_name(f"{directory.name}.key")

    def put(self, ref: str, value: str) -> None:
        """Store or replace. Durable on return."""
        path = self._path(ref)
        data = value.encode()
        if not data or len(data) > MAX_OCTETS:
            raise InvalidValue("password", f"must have 1 to {MAX_OCTETS} octets")
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            replace_file(path, self._sealed(ref, data))
        except OSError as error:
            raise DirectoryError(f"{path}: {error.strerror}") from error

    def get(self, ref: str) -> str:
        """The secret."""
        path = self._path(ref)
        try:
            return self._opened(ref, path.read_bytes()).decode("utf-8")
        except FileNotFoundError:
            raise NotFound(f"no secret {ref!r}") from None
        except DirectoryError:
            raise
        except (OSError, UnicodeDecodeError) as error:
            raise DirectoryError(f"{path}: {error}") from error

    def has(self, ref: str) -> bool:
        """Whether it is there."""
        return self._path(ref).exists()

    def remove(self, ref: str) -> None:
        """Forget it; nothing happens when it is not there."""
        self._path(ref).unlink(missing_ok=True)

    def seal_all(self) -> None:
        """Encrypt what an older version left in the clear. Raises DirectoryError."""
        if not self._directory.is_dir():
            return
        for path in sorted(self._directory.iterdir()):
            if not path.name.startswith(".") and path.is_file() and not (data := path.read_bytes()).startswith(SEALED):
                self._refuse_newer(path, data)
                self.put(path.name, path.read_text("utf-8"))

    def _sealed(self, ref: str, data: bytes) -> bytes:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # 30 ms that only those pay who have secrets

        nonce = secrets.token_bytes(_NONCE_OCTETS)
        return SEALED + nonce + AESGCM(self._key(make=True)).encrypt(nonce, data, ref.encode())

    def _opened(self, ref: str, data: bytes) -> bytes:
        if not data.startswith(SEALED):
            self._refuse_newer(self._path(ref), data)
            return data
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        box = data[len(SEALED) :]
        try:
            return AESGCM(self._key()).decrypt(box[:_NONCE_OCTETS], box[_NONCE_OCTETS:], ref.encode())
        except (InvalidTag, ValueError):
            raise DirectoryError(f"{self._path(ref)}: cannot be opened with {self._key_path}; give the password again") from None

    def _refuse_newer(self, path: Path, data: bytes) -> None:
        """What a newer version sealed is no password in the clear."""
        if data.startswith(_ANY_SEALED):
            raise DirectoryError(f"{path}: sealed by a newer Gatepost; run that one, or give the password again")

    def _key(self, *, make: bool = False) -> bytes:
        """Made once. Two who make it at the same time agree on the one that was first."""
        try:
            key = self._key_path.read_bytes()
        except FileNotFoundError:
            if not make:
                raise DirectoryError(f"{self._key_path}: is missing, so stored passwords cannot be read; give them again") from None
            return self._new_key()
        if len(key) != _KEY_OCTETS:
            raise DirectoryError(f"{self._key_path}: is no key")
        return key

    def _new_key(self) -> bytes:
        temporary = self._key_path.with_name(f".{secrets.token_hex(8)}.key")
        write_new(temporary, secrets.token_bytes(_KEY_OCTETS))
        try:
            os.link(temporary, self._key_path)  # unlike a rename it fails when there is one already
        except FileExistsError:
            pass
        finally:
            temporary.unlink()
        sync_directory(self._key_path.parent)
        return self._key()

    def _path(self, ref: str) -> Path:
        return self._directory / validation.secret_ref(ref)
