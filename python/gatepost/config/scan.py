"""Settings of scanning: inspection, whose policy holds, the scanners to ask and how. Part of `Settings`; read by `scan/` and its callers.

Invariants: names of scanners are unique; an address of a shipped kind has the shape that kind dials. Options of a plug-in are checked
by the plug-in when it is made (`scan/scanners/registry.py`), since only it knows them.
"""

import json
import re
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, field_validator, model_validator

from gatepost.config.endpoint import parse_endpoint
from gatepost.config.section import Section
from gatepost.config.types import Count, Octets, Seconds

_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,39}\Z")
_SCHEMES = {"clamd": ("unix", "tcp"), "icap": ("icap", "icaps"), "rspamd": ("http", "https", "http+unix")}
_TLS = ("icaps", "https")

Option = str | int | float | bool | tuple[str, ...]


def _name(value: object) -> object:
    if not isinstance(value, str) or not _NAME.match(value):
        raise ValueError("must be 1 to 40 of a-z, 0-9, '-', '_' and '.', a letter or digit first")
    return value


def _tables(value: object) -> object:
    """A TOML array of tables, or JSON from the environment."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value or "[]")
    except ValueError:
        raise ValueError("must be a list of tables, in the environment as JSON") from None


class ScannerSettings(Section):
    """One scanner. docs/scanners.md has an example of each kind, and their options."""

    name: Annotated[str, BeforeValidator(_name)] = Field(description="How policies, headers and logs call it.")
    kind: Annotated[str, BeforeValidator(_name)] = Field(
        description="`clamd`, `icap`, `rspamd`, `yara`, or the name of a plug-in's entry point."
    )
    address: str = Field(
        "",
        max_length=1000,
        description="Where it is: `unix:/run/clamav/clamd.ctl` or `tcp:host:port` (clamd), `icap://host:1344/service`, "
        "`icaps://host:11344/service`, `http://host:11333` or `https://…` (rspamd), a directory of rules (yara); what a plug-in asks for.",
    )
    scan: Literal["", "message", "parts"] = Field(
        "", description="What it gets: the whole message, or each decoded part by itself. Empty is the kind's own: parts for icap and yara."
    )
    when: Literal["all", "attachments"] = Field("all", description="`attachments`: mail of nothing but text is not put to it.")
    timeout_seconds: Seconds = Field(20, description="Longest wait for one message's answer. In seconds.")
    max_bytes: Octets = Field(104_857_600, ge=1, description="Larger content gets `error` without being sent. In octets.")
    max_connections: int = Field(16, ge=1, le=1000, description="Scans at once, and connections, per worker.")
    max_waiting: int = Field(
        1000, ge=0, le=100_000, description="Scans that may wait for one of those, per worker; more get `error` at once."
    )
    cache: bool = Field(True, description="Remember answers by content and signature version, if they depend on nothing else.")
    cache_entries: Count = Field(10_000, description="Answers remembered per worker; the least used goes first.")
    cache_seconds: Seconds = Field(600, description="Life of a remembered answer. In seconds.")
    failures: int = Field(3, ge=1, le=1000, description="Failures in a row after which it is out of service.")
    retry_seconds: Seconds = Field(2, description="Out of service: wait before the first try whether it is back; doubles. In seconds.")
    retry_max_seconds: Seconds = Field(60, description="Longest wait between such tries. In seconds.")
    probe_seconds: Seconds = Field(60, description="In service: how often its health and signature version are asked. In seconds.")
    ca_file: str = Field("", description="PEM file of authorities that vouch for it, for `icaps:` and `https:`; empty is the system's.")
    server_name: str = Field("", max_length=253, description="The name its certificate must have; empty is the address's host.")
    options: dict[str, Option] = Field({}, description="What only this kind knows; docs/scanners.md lists them.")

    @field_validator("address")
    @classmethod
    def _plain(cls, value: str) -> str:
        if any((ord(character) < 33 and character != " ") or ord(character) == 127 for character in value):
            raise ValueError("must not contain control characters")
        return value

    @model_validator(mode="after")
    def _reachable(self) -> Self:
        schemes = _SCHEMES.get(self.kind)
        if schemes is not None:
            problem = _address_problem(self.address, schemes)
            if problem:
                raise ValueError(f"address: {problem} (got {self.address!r})")
            tls = self.address.partition(":")[0] in _TLS
            for key in ("ca_file", "server_name"):
                if getattr(self, key) and not tls:
                    raise ValueError(f"{key}: only for an address that begins with icaps: or https: (got {getattr(self, key)!r})")
        elif self.kind == "yara" and not self.address:
            raise ValueError("address: must be the directory of the rules (got '')")
        if self.retry_max_seconds < self.retry_seconds:
            raise ValueError(f"retry_max_seconds: must be at least retry_seconds (got {self.retry_max_seconds!r})")
        return self


def _address_problem(address: str, schemes: tuple[str, ...]) -> str:
    """'' when the address can be dialled by one of the schemes."""
    scheme, _, rest = address.partition(":")
    if scheme not in schemes:
        return f"must begin with {' or '.join(f'{one}:' for one in schemes)}"
    try:
        if scheme == "unix":
            return "" if rest.startswith("/") else "must be an absolute path behind unix:"
        if scheme == "tcp":
            return "" if parse_endpoint(rest).port else "must name a port"
        parts = urlsplit(address)
        if scheme.endswith("+unix"):
            return "" if parts.path.startswith("/") and not parts.netloc else f"must be {scheme}:/path/of/socket"
        return "" if parts.hostname and (parts.port is None or parts.port > 0) else "must name a host"
    except ValueError as fault:
        return str(fault)


class Scan(Section):
    """Attachment inspection and policies."""

    enabled: bool = Field(True, description="Look into messages and judge them by policy. Off takes every message unseen.")
    policy: str = Field(
        "shipped", description="Policy where nothing below, no rule and no handler names one: shipped, none or a stored one."
    )
    inbound: str = Field("", description="Policy of mail from senders that are not trusted; empty is `policy`.")
    outbound: str = Field("", description="Policy of mail of trusted senders to others; empty is `trusted`.")
    internal: str = Field("", description="Policy of mail of trusted senders to domains here; empty is `trusted`.")
    trusted: str = Field("", description="Policy of mail of trusted senders; empty is `policy`.")
    workers: int = Field(2, ge=1, le=64, description="Threads that inspect messages, per worker.")
    max_bytes: Octets = Field(512 << 20, ge=1 << 20, description="Octets out of all decoders of a message before it is a bomb. In octets.")
    max_entries: int = Field(20_000, ge=100, le=1_000_000, description="Files within a message before it is a bomb.")
    max_depth: int = Field(16, ge=2, le=64, description="Containers within containers before a message is a bomb.")
    max_ratio: int = Field(200, ge=10, le=1_000_000, description="Octets out per octet in, beyond 16 MiB, before a message is a bomb.")
    memory_bytes: Octets = Field(32 << 20, ge=1 << 20, le=4 << 30, description="Decoded octets kept at a time, per thread. In octets.")
    max_milliseconds: int = Field(2_000, ge=50, le=600_000, description="Longest inspection of a message. In milliseconds.")

    deadline_seconds: Seconds = Field(30, description="Longest wait for all scanners together, per message. In seconds.")
    scanners: Annotated[tuple[ScannerSettings, ...], BeforeValidator(_tables)] = Field(
        (), max_length=16, description="The scanners: `[[scan.scanners]]` tables, keys below."
    )

    @model_validator(mode="after")
    def _unique(self) -> Self:
        names = [scanner.name for scanner in self.scanners]
        for number, name in enumerate(names):
            if name in names[:number]:
                raise ValueError(f"scanners.{number}.name: must differ from the others (got {name!r})")
        return self
