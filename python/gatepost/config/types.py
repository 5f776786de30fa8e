"""Field types of the settings: what text each accepts (TOML value or environment variable) and how it says no.

Called by pydantic while `Settings` is built. Every function raises ValueError with a text that reads well behind 'section.key: '.
"""

import ipaddress
import json
import re
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

from gatepost.config.endpoint import parse_endpoint

_UNITS = {"": 1, "B": 1, "KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30, "KB": 10**3, "MB": 10**6, "GB": 10**9}
_SIZE = re.compile(r"\s*(\d{1,18})\s*([A-Za-z]{0,3})\s*\Z")
_LABEL = re.compile(r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)\Z")


def _size(value: Any) -> Any:
    """Octets as a number, or text with a unit: '50 MiB', '64KB'."""
    if not isinstance(value, str):
        return value
    found = _SIZE.match(value)
    if not found or found[2].upper() not in _UNITS:
        raise ValueError("must be a number of octets, or one with KiB, MiB, GiB, KB, MB or GB behind it")
    return int(found[1]) * _UNITS[found[2].upper()]


def _items(value: Any) -> Any:
    """A TOML list, a JSON list, or text with commas; '' is the empty list."""
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("["):
        try:
            return json.loads(value)
        except ValueError:
            pass  # '[::1]:25' begins like a JSON list but is none
    return [item.strip() for item in value.split(",") if item.strip()]


def _endpoints(value: Any) -> Any:
    listed = _items(value)
    if not isinstance(listed, list | tuple) or not all(isinstance(item, str) for item in listed):
        raise ValueError("must be a list of host:port")
    return tuple(str(parse_endpoint(item)) for item in listed if item.strip())


def _networks(value: Any) -> Any:
    listed = _items(value)
    if not isinstance(listed, list | tuple) or not all(isinstance(item, str) for item in listed):
        raise ValueError("must be a list of networks such as 10.0.0.0/8 or ::1/128")
    for item in listed:
        try:
            network = ipaddress.ip_network(item, strict=True)
        except ValueError as error:
            raise ValueError(f"{item!r} is not a network: {error}") from None
        if network.prefixlen == 0:
            raise ValueError(f"{item!r} is everybody, which would make this server an open relay")
    return tuple(listed)


def _addresses(value: Any) -> Any:
    listed = _items(value)
    for item in listed if isinstance(listed, list | tuple) else ():
        _address(item)
    return listed


def _address(value: Any) -> Any:
    if value:
        try:
            ipaddress.ip_address(value)
        except ValueError:
            raise ValueError("must be an IP address") from None
    return value


def is_hostname(text: str) -> bool:
    """True for an ASCII host name or domain of RFC 1123 2.1 shape, at most 253 octets."""
    return 0 < len(text) <= 253 and all(_LABEL.match(label) for label in text.split("."))


def _hostname(value: Any) -> Any:
    if not isinstance(value, str) or (value and not is_hostname(value)):
        raise ValueError("must be a host name of letters, digits, hyphens and dots")
    return value.lower()


def _roles(value: Any) -> Any:
    """A TOML table, a JSON object, or 'name=role,name=role'."""
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("{"):
        return json.loads(value)
    pairs = [item.partition("=") for item in value.split(",") if item.strip()]
    return {name.strip(): role.strip() for name, _, role in pairs}


def _absolute(paths: tuple[str, ...]) -> tuple[str, ...]:
    for path in paths:
        if not path.startswith("/"):
            raise ValueError(f"must be absolute paths, {path!r} is none")
    return paths


Octets = Annotated[int, BeforeValidator(_size)]
Endpoints = Annotated[tuple[str, ...], BeforeValidator(_endpoints)]
Networks = Annotated[tuple[str, ...], BeforeValidator(_networks)]
ProgramPaths = Annotated[tuple[str, ...], AfterValidator(_absolute), BeforeValidator(_items)]
AddressList = Annotated[tuple[str, ...], BeforeValidator(_addresses), BeforeValidator(_items)]
AddressText = Annotated[str, BeforeValidator(_address)]
HostName = Annotated[str, BeforeValidator(_hostname)]
Roles = Annotated[dict[str, str], BeforeValidator(_roles)]
Seconds = Annotated[float, Field(gt=0, le=31_536_000, allow_inf_nan=False)]
Port = Annotated[int, Field(ge=1, le=65535)]
Count = Annotated[int, Field(ge=1, le=10_000_000)]
CountOrNone = Annotated[int, Field(ge=0, le=10_000_000)]
