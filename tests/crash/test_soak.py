"""A few rounds of the soak (`make soak` runs a hundred): the real server under mixed load is killed, and every message is accounted for."""

import random
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

import soak

ROUNDS = 5
SECONDS = 15.0


@pytest.mark.timeout(300)
def test_nothing_acknowledged_is_lost_and_nothing_local_is_doubled_by_kills_under_mixed_load(tmp_path):
    result = soak.run(tmp_path, rounds=ROUNDS, seed=random.SystemRandom().randrange(1 << 30), seconds=SECONDS)
    print(result.summary())
    assert result.faults == []
    assert result.acknowledged > 20
