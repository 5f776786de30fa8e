"""A running control plane, and raw channels to it."""

from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import grpc.aio
import pytest

from support.control import Plane


@pytest.fixture
async def plane(tmp_path: Path) -> AsyncIterator[Plane]:
    async with Plane(tmp_path) as running:
        yield running


@pytest.fixture
async def tcp(plane: Plane) -> AsyncIterator[grpc.aio.Channel]:
    credentials = grpc.ssl_channel_credentials(plane.authority.ca_file.read_bytes())
    async with grpc.aio.secure_channel(plane.tcp, credentials) as channel:
        yield channel


@pytest.fixture
async def unix(plane: Plane) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(f"unix:{plane.data / 'control.sock'}") as channel:
        yield channel
