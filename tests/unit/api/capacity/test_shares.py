"""Shares: always one more place for who has none."""

from api.capacity.shares import Party, Shares


def _fill(shares: Shares, party: Party) -> int:
    """Take as many places as the party may; how many."""
    count = 0
    while shares.has_room(party):
        shares.take(party)
        count += 1
    return count


def test_a_key_alone_gets_half_and_a_tenant_two_thirds() -> None:
    shares = Shares(300)

    assert _fill(shares, Party("a", 1)) == 150
    assert _fill(shares, Party("a", 2)) == 50
    assert _fill(shares, Party("a", 3)) == 0


def test_each_newcomer_gets_a_share() -> None:
    shares = Shares(2000)

    counts = [_fill(shares, Party(number, number)) for number in range(8)]

    assert counts == [1000, 500, 250, 125, 63, 31, 16, 8]


def test_who_gives_back_may_take_again() -> None:
    shares, party = Shares(4), Party("a", 1)
    assert _fill(shares, party) == 2

    shares.give_back(party)

    assert shares.used == 1
    assert _fill(shares, party) == 1


def test_parties_that_left_are_forgotten() -> None:
    shares = Shares(10)
    for number in range(1000):
        shares.take(Party(number, number))
        shares.give_back(Party(number, number))

    assert not shares._keys
    assert not shares._tenants
