"""Tiers of one worker among several: what they tell the others, and what they make of what they hear."""

from __future__ import annotations

from gateway.channel import Message, Tell, Told
from gateway.core.key import KeySpace
from gateway.core.status import Reason
from gateway.metrics import Metrics
from gateway.store.lookup import Lookup
from gateway.store.siblings import Siblings, WorkerTiers
from gateway.store.tiers import TierSettings
from tests.store.kit import FOLDED, UPSTREAM, Times, entry_of, key_of


def worker(sent: list[Message]) -> WorkerTiers:
    siblings = Siblings(sent.append, lambda: True)
    return WorkerTiers(
        siblings,
        TierSettings(1 << 20, 30.0, 86400.0, 600.0, None),
        keys=KeySpace("p", UPSTREAM),
        secret=b"",
        clock=Times().clock,
        metrics=Metrics(),
        on_forget=lambda stack: None,
        on_start_over=lambda: None,
    )


async def refused(tiers: WorkerTiers, caller: bytes = b"a") -> None:
    """Do what a fetch does whose answer may not be kept, such as a poll of a running execution."""
    key = key_of("p", caller)
    ticket = tiers.ticket(key)
    lookup = await tiers.lookup(key)
    tiers.drop(await tiers.prepare_fill(ticket, lookup), lookup)


async def test_polls_of_what_is_not_kept_tell_the_others_nothing() -> None:
    sent: list[Message] = []
    tiers = worker(sent)
    for caller in (b"a", b"a", b"b"):
        await refused(tiers, caller)
    assert sent == []


async def test_what_was_kept_and_is_over_is_told_to_the_others_once() -> None:
    sent: list[Message] = []
    tiers = worker(sent)
    key = key_of("p")
    tiers.store(await tiers.prepare_fill(tiers.ticket(key), Lookup(None)), entry_of())
    for _ in range(3):
        # It was asked for without a look-up, as with no-cache; after that it is known to be absent.
        tiers.drop(tiers.begin_fetch(tiers.ticket(key)), Lookup(None, is_absent=bool(sent)))
    assert sent == [Tell(1, [Told(entry=key.local, name=key.name)])]
    assert tiers.peek(key) is None


async def test_a_drop_heard_of_ends_the_copy_and_the_fetches_under_way() -> None:
    sent: list[Message] = []
    tiers = worker(sent)
    key, other = key_of("p"), key_of("p", b"b")
    ticket = await tiers.prepare_fill(tiers.ticket(key), Lookup(None))
    neighbour = await tiers.prepare_fill(tiers.ticket(other), Lookup(None))
    tiers.hear([Told(entry=key.local, name=key.name)])
    assert tiers.store(ticket, entry_of()) is Reason.FORGOTTEN
    assert tiers.store(neighbour, entry_of()) is None
    assert tiers.peek(key) is None
    assert tiers.store(await tiers.prepare_fill(tiers.ticket(key), Lookup(None)), entry_of()) is None


async def test_a_forget_heard_of_voids_what_is_under_way_and_owes_nothing_without_redis() -> None:
    tiers = worker([])
    key = key_of("p")
    ticket = await tiers.prepare_fill(tiers.ticket(key), Lookup(None))
    tiers.hear([Told(stack=FOLDED, settles=True)])
    assert tiers.store(ticket, entry_of()) is Reason.FORGOTTEN
    assert tiers.ledger.owed == 0
