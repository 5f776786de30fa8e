"""Frozen selections: whose they are, how long, how many."""

import pytest

from gatepost.queue.selections import MAX_OCTETS, MAX_SELECTIONS, TTL_SECONDS, Selections, UnknownSelectionError


class Clock:
    """Seconds that a test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_token_gives_back_exactly_the_ids_frozen_and_only_to_its_caller():
    kept = Selections()
    token = kept.freeze(b"a" * 32, "local:me", "every message")
    assert kept.get(token, "local:me").ids == b"a" * 32
    assert len(kept.get(token, "local:me")) == 2
    assert kept.freeze(b"a" * 32, "local:me", "") != token
    for actor, asked in (("local:you", token), ("local:me", ""), ("local:me", "x" * 100_000)):
        with pytest.raises(UnknownSelectionError, match="preview the selection again"):
            kept.get(asked, actor)


def test_a_token_ends_after_an_hour():
    clock = Clock()
    kept = Selections(clock)
    token = kept.freeze(b"", "me", "")
    clock.now += TTL_SECONDS - 1
    assert not len(kept.get(token, "me"))
    clock.now += 1
    with pytest.raises(UnknownSelectionError):
        kept.get(token, "me")


def test_number_and_memory_are_bounded_and_the_oldest_goes_first():
    kept = Selections()
    tokens = [kept.freeze(bytes(16), "me", "") for _ in range(MAX_SELECTIONS + 3)]
    with pytest.raises(UnknownSelectionError):
        kept.get(tokens[2], "me")
    kept.get(tokens[3], "me")
    large = kept.freeze(bytes(MAX_OCTETS - 16), "me", "")
    kept.get(large, "me")
    kept.get(tokens[-1], "me")
    with pytest.raises(UnknownSelectionError):
        kept.get(tokens[-2], "me")
    with pytest.raises(UnknownSelectionError, match="narrow the filter"):
        kept.freeze(bytes(MAX_OCTETS + 16), "me", "")
