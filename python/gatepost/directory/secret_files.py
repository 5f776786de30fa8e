"""Secrets the server must be able to read back (passwords for gateways): one file each in DIR/secrets, mode 0600.

Used by store.py and, through it, by delivery/. Invariants: a file is replaced as a whole or not at all; names are checked, so no
reference leads outside the directory. Fails with NotFound, InvalidValue, or DirectoryError for what the disk says.
"""

import os
import secrets
from pathlib import Path

from gatepost.directory import validation
from gatepost.directory.errors import DirectoryError, InvalidValue, NotFound

MAX_OCTETS = 4096


class SecretFiles:
    """The secrets of one data directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def put(self, ref: str, value: str) -> None:
        """Store or replace. Durable on return."""
        path = self._path(ref)
        data = value.encode()
        if not data or len(data) > MAX_OCTETS:
            raise InvalidValue("password", f"must have 1 to {MAX_OCTETS} octets")
        temporary = path.with_name(f".{secrets.token_hex(8)}.new")
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._write(temporary, data)
            temporary.replace(path)
            self._sync_directory()
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise DirectoryError(f"{path}: {error.strerror}") from error

    def get(self, ref: str) -> str:
        """The secret."""
        path = self._path(ref)
        try:
            return path.read_text("utf-8")
        except FileNotFoundError:
            raise NotFound(f"no secret {ref!r}") from None
        except (OSError, UnicodeDecodeError) as error:
            raise DirectoryError(f"{path}: {error}") from error

    def has(self, ref: str) -> bool:
        """Whether it is there."""
        return self._path(ref).exists()

    def remove(self, ref: str) -> None:
        """Forget it; nothing happens when it is not there."""
        self._path(ref).unlink(missing_ok=True)

    def _path(self, ref: str) -> Path:
        return self._directory / validation.secret_ref(ref)

    @staticmethod
    def _write(path: Path, data: bytes) -> None:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(descriptor)

    def _sync_directory(self) -> None:
        descriptor = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
