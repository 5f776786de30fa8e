"""Counting connections."""

from gatepost.policy.limits import TOO_MANY, TOO_MANY_FROM_CLIENT, ConnectionCounter


def admit(counter: ConnectionCounter, client: str, *, exempt: bool = False) -> object:
    return counter.admit(client, 4, 2, lambda _: exempt)


def test_one_client_is_held_to_its_limit_unless_exempt() -> None:
    counter = ConnectionCounter()
    assert admit(counter, "a") is None
    assert admit(counter, "a") is None
    assert admit(counter, "a") is TOO_MANY_FROM_CLIENT
    assert admit(counter, "a", exempt=True) is None
    assert counter.of_client("a") == 3


def test_all_clients_together_are_held_to_the_total() -> None:
    counter = ConnectionCounter()
    for client in "abcd":
        assert admit(counter, client) is None
    assert admit(counter, "e", exempt=True) is TOO_MANY


def test_a_released_place_is_free_again_and_nothing_is_remembered() -> None:
    counter = ConnectionCounter()
    admit(counter, "a")
    admit(counter, "a")
    counter.release("a")
    assert admit(counter, "a") is None
    counter.release("a")
    counter.release("a")
    assert counter.total == 0
    assert counter.of_client("a") == 0
    assert counter.native.clients == 0
