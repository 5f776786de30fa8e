"""'host:port' as it stands in settings and on the command line: parsed once here, used by listeners, control and clients.

Invariants: the port is 0…65535 (0 = the kernel picks), an IPv6 host is bracketed in text and bare in the value. A name or an
address is not looked up here. Fails with ValueError whose text is fit to stand behind 'section.key: '.
"""

import ipaddress
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A host (name or bare address, never empty) and a TCP port; port 0 asks the kernel for a free one."""

    host: str
    port: int

    def __str__(self) -> str:
        """'127.0.0.1:25' or '[::1]:25'."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_endpoint(text: "str | Endpoint") -> Endpoint:
    """'host:port', '[v6]:port' or '*:port' (every IPv4 address) → Endpoint; an Endpoint passes through. Raises ValueError."""
    if isinstance(text, Endpoint):
        return text
    host, colon, port = text.strip().rpartition(":")
    if not colon or not host:
        raise ValueError(f"must be host:port (got {text!r})")
    return Endpoint(_host(host, text), _port(port, text))


def _host(host: str, text: str) -> str:
    if host.startswith("[") and host.endswith("]"):
        try:
            return str(ipaddress.IPv6Address(host[1:-1]))
        except ValueError:
            raise ValueError(f"{host} is not an IPv6 address (got {text!r})") from None
    if ":" in host:
        raise ValueError(f"an IPv6 address needs brackets, as in [::1]:25 (got {text!r})")
    if any(c.isspace() or c in "[]/@" for c in host):
        raise ValueError(f"must be host:port (got {text!r})")
    return "0.0.0.0" if host == "*" else host  # '*' is the administrator asking for every address


def _port(port: str, text: str) -> int:
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and int(port) <= 65535):
        raise ValueError(f"the port must be 0 to 65535 (got {text!r})")
    return int(port)
