"""Which of several processes leaves a connection to the others."""

import os

from config.balance import Balance


def test_a_process_alone_takes_every_connection() -> None:
    balance = Balance(1)
    balance.enter(balance.free_place(()))
    balance.update(7)

    assert not balance.has_more()


def test_who_has_more_than_another_process_sees_it() -> None:
    """Also when the other one is a child, which counts in the same memory."""
    balance = Balance(2)
    balance.enter(0)
    assert not balance.has_more()
    balance.update(3)
    assert balance.has_more()

    if not (child := os.fork()):
        balance.enter(1)
        balance.update(3)
        os._exit(0)
    os.waitpid(child, 0)

    assert not balance.has_more()


def test_a_new_process_takes_the_place_of_one_that_ended_without_its_connections() -> None:
    balance = Balance(3)
    assert balance.free_place({0, 2}) == 1
    assert balance.free_place({0, 1, 2}) == 0  # more processes than places share one

    balance.enter(1)
    balance.update(5)
    balance.enter(1)

    assert not balance.has_more()
