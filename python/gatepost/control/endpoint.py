"""Addresses and options of gRPC channels and servers, the same for supervisor and worker.

A Unix socket path may be longer than sockaddr_un allows (108 octets): then it is reached through /proc/self/fd and an open
descriptor of its directory, which stays open as long as the target is in use.
"""

import os
from dataclasses import dataclass
from pathlib import Path

MAX_MESSAGE_BYTES = 16 << 20
MAX_UNIX_PATH = 100

_COMMON = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
)
SERVER_OPTIONS = [
    *_COMMON,
    # Two servers on one port would share its calls silently.
    ("grpc.so_reuseport", 0),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 30_000),
]
CHANNEL_OPTIONS = [
    *_COMMON,
    # A worker is back within a second after a crash: look again soon.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
]


@dataclass(slots=True)
class UnixTarget:
    """A gRPC target for a socket path; close it when the channel or server is closed."""

    text: str
    _fd: int = -1

    def close(self) -> None:
        """Close the directory's descriptor, if there is one."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def unix_target(path: Path) -> UnixTarget:
    """'unix:PATH', or a detour for a long path. Raises OSError when the directory is missing."""
    path = path.absolute()
    if len(os.fsencode(path)) <= MAX_UNIX_PATH:
        return UnixTarget(f"unix:{path}")
    fd = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    return UnixTarget(f"unix:/proc/self/fd/{fd}/{path.name}", fd)
