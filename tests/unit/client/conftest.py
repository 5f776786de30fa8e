"""A running control plane and a client of it."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gatepost.client import GatepostClient
from support.control import Plane


@pytest.fixture
async def plane(tmp_path: Path) -> AsyncIterator[Plane]:
    async with Plane(tmp_path) as running:
        yield running


@pytest.fixture
async def client(plane: Plane) -> AsyncIterator[GatepostClient]:
    async with GatepostClient(plane.data) as connected:
        yield connected
