"""What may be forgotten of a destination."""

from gatepost.queue.destination import DestinationState


def test_a_dead_destination_is_forgotten_once_its_back_off_is_over_and_nothing_waits() -> None:
    state = DestinationState("smtp:dead.test", 5, 5, local=False, failures=3, down_until=100)
    assert not state.forgettable(99)
    assert state.forgettable(100)
    for busy in ("ready", "queued", "sweeping", "lanes"):
        setattr(state, busy, 1)
        assert not state.forgettable(100)
        setattr(state, busy, 0)
