"""When a Portero believes what it holds: the rules of ``Share``, one by one."""

from __future__ import annotations

from authproxy.activator.cluster_slots import GRACE_S, TRUST_S, TTL_S, Grant, Share, Word

NOW = 1000.0


def settled(in_use: int, wanted: int, granted: int, *, is_scarce: bool = True, capacity: int = 5) -> Share:
    """A share that was just told this, as version 10."""
    share = Share()
    share.want(in_use, wanted, capacity, NOW)
    assert share.word(1, NOW) == Word(1, in_use, min(wanted, capacity), capacity)
    share.replied(Grant(10, granted, is_scarce), NOW)
    return share


def test_nothing_is_held_that_was_not_given() -> None:
    """Whatever is wanted."""
    share = Share()
    share.want(0, 3, 5, NOW)
    assert share.held == 0
    assert share.has_news


def test_no_more_is_wanted_than_there_is() -> None:
    """The capacity bounds it, and what is in use bounds it from below."""
    share = Share()
    share.want(0, 9, 2, NOW)
    assert share.wanted == 2
    share.want(3, 9, 2, NOW)
    assert share.wanted == 3


def test_what_is_not_in_use_is_given_up_before_asking() -> None:
    """Redis may give it to others before its answer is here."""
    share = settled(1, 3, 3)
    share.give_up()
    assert share.held == 1


def test_messages_wait_while_asking() -> None:
    """One of before the word was carried out is older than the reply, and forgotten; a newer one counts after it."""
    for version, held in ((10, 1), (12, 2)):
        share = settled(0, 3, 0)
        share.give_up()
        share.word(2, NOW)
        share.pushed(Grant(version, 2, is_scarce=True), NOW)
        assert share.held == 0
        share.replied(Grant(11, 1, is_scarce=True), NOW)
        assert share.held == held


def test_messages_wait_until_a_word_was_answered() -> None:
    """A word that got no answer may be carried out after the message was sent."""
    share = settled(0, 1, 0)
    share.give_up()
    share.word(2, NOW)
    share.pushed(Grant(12, 1, is_scarce=True), NOW)
    assert share.held == 0
    share.word(3, NOW + 1)
    share.replied(Grant(14, 0, is_scarce=True), NOW + 1)
    assert share.held == 0


def test_an_old_message_is_ignored() -> None:
    """Older than the last reply, or come twice."""
    share = settled(0, 2, 1)
    share.pushed(Grant(9, 2, is_scarce=True), NOW)
    assert share.held == 1
    share.pushed(Grant(11, 2, is_scarce=True), NOW)
    share.pushed(Grant(10, 1, is_scarce=True), NOW)
    assert share.held == 2


def test_nothing_is_believed_for_long() -> None:
    """Neither a message nor a reply nor one's own slot counts ``TRUST_S`` after the last word that was answered."""
    share = settled(0, 2, 0)
    share.pushed(Grant(11, 1, is_scarce=True), NOW + TRUST_S)
    assert share.held == 0
    share.word(2, NOW)
    share.replied(Grant(12, 1, is_scarce=True), NOW + TRUST_S)
    assert share.held == 0
    assert share.has_news
    kept = settled(1, 3, 1, is_scarce=False)
    kept.want(0, 2, 5, NOW + TRUST_S)
    assert kept.held == 0


def test_trust_ends_before_anything_is_given_to_others() -> None:
    """The order of the three durations is what makes it safe."""
    assert TRUST_S < GRACE_S < TTL_S


def test_what_was_given_back_is_held_no_more() -> None:
    """A reply or message that does not know of it yet does not bring it back."""
    share = settled(2, 3, 2)
    assert share.want(1, 3, 5, NOW) == 1
    assert (share.held, share.has_news) == (1, True)
    share.pushed(Grant(11, 3, is_scarce=True), NOW)
    assert share.held == 2


def test_where_nobody_else_waits_the_next_one_goes_at_once() -> None:
    """A slot whose request is over is used again, without a word, by who waits here."""
    share = settled(1, 3, 1, is_scarce=False)
    share.want(1, 3, 5, NOW)
    share.want(0, 3, 5, NOW + 1)
    assert share.held == 1
    assert not share.has_news


def test_where_nobody_waits_it_is_given_back() -> None:
    """So that it is there for whoever comes elsewhere."""
    share = settled(1, 1, 1, is_scarce=False)
    share.want(0, 0, 5, NOW)
    assert share.held == 0
    assert share.has_news
    assert not share.is_over
    share.word(2, NOW)
    share.replied(Grant(11, 0, is_scarce=False), NOW)
    assert share.is_over


def test_more_than_is_wanted_is_given_back() -> None:
    """Who waited has left before the slot came."""
    share = settled(0, 1, 0)
    share.want(0, 0, 5, NOW)
    share.word(2, NOW)
    share.replied(Grant(11, 1, is_scarce=False), NOW)
    assert share.has_news


def test_what_is_in_use_stays_in_use() -> None:
    """Whatever Redis believes: a request that has left cannot be called back."""
    share = settled(2, 3, 1)
    assert share.held == 2
