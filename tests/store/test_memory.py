"""The memory tier: bounds, order and expiry."""

import pytest

from gateway.core.caching.key import EntryKey
from gateway.store.memory import ENTRY_OVERHEAD_BYTES, MemoryStore
from tests.store.kit import Times, entry_of, key_of

BODY = b"x" * 1000
ROOMY_BYTES = 1 << 20


def key(name: str, *, stack: bytes = b"s") -> EntryKey:
    return key_of("p", stack=stack, action=name.encode())


def put(memory: MemoryStore, times: Times, name: str, *, ttl_s: float = 60.0, body: bytes = BODY) -> bool:
    return memory.put(key(name), entry_of(body), times.clock.monotonic_s() + ttl_s)


def one_size_bytes(times: Times) -> int:
    memory = MemoryStore(ROOMY_BYTES, times.clock)
    put(memory, times, "1")
    return memory.size_bytes


@pytest.fixture
def times() -> Times:
    return Times()


def test_a_copy_counts_its_body_its_head_and_an_overhead(times: Times) -> None:
    memory = MemoryStore(ROOMY_BYTES, times.clock)
    put(memory, times, "1")
    entry = entry_of(BODY)
    assert memory.size_bytes == len(BODY) + len(entry.lines) + ENTRY_OVERHEAD_BYTES


def test_the_bytes_never_exceed_the_bound(times: Times) -> None:
    one_bytes = one_size_bytes(times)
    memory = MemoryStore(3 * one_bytes + one_bytes // 2, times.clock)
    for number in range(20):
        assert put(memory, times, f"{number % 10}")
        assert memory.size_bytes <= memory.limit_bytes
    assert len(memory) == 3
    assert memory.size_bytes == 3 * one_bytes


def test_a_store_exactly_as_large_as_its_entries_keeps_them_all(times: Times) -> None:
    memory = MemoryStore(2 * one_size_bytes(times), times.clock)
    put(memory, times, "1")
    put(memory, times, "2")
    assert (len(memory), memory.evictions) == (2, 0)


def test_the_oldest_copy_without_a_hit_is_evicted_first(times: Times) -> None:
    memory = MemoryStore(3 * one_size_bytes(times), times.clock)
    for name in "123":
        put(memory, times, name)
    assert memory.get(key("1").local) is not None
    put(memory, times, "4")
    assert [name for name in "1234" if memory.get(key(name).local) is not None] == ["1", "3", "4"]
    assert memory.evictions == 1


def test_when_all_were_hit_the_oldest_is_evicted_first(times: Times) -> None:
    memory = MemoryStore(3 * one_size_bytes(times), times.clock)
    for name in "123":
        put(memory, times, name)
        assert memory.get(key(name).local) is not None
    put(memory, times, "4")
    assert [name for name in "1234" if memory.get(key(name).local) is not None] == ["2", "3", "4"]


def test_of_very_many_that_were_hit_some_are_evicted(times: Times) -> None:
    count = 3_000
    memory = MemoryStore(count * one_size_bytes(times), times.clock)
    names = [f"{number:04}" for number in range(count)]
    size_bytes = 0
    for name in names:
        put(memory, times, name, body=BODY[:-3])
        assert memory.get(key(name).local) is not None
        size_bytes = memory.size_bytes
    put(memory, times, "more", body=BODY + b"x" * (memory.limit_bytes - size_bytes))
    assert size_bytes * 0.98 < memory.size_bytes <= memory.limit_bytes
    assert memory.get(key("more").local) is not None


def test_a_large_copy_may_push_out_several(times: Times) -> None:
    memory = MemoryStore(3 * one_size_bytes(times), times.clock)
    for name in "123":
        put(memory, times, name)
    assert put(memory, times, "4", body=BODY * 2)
    assert [name for name in "1234" if memory.get(key(name).local) is not None] == ["3", "4"]


def test_a_copy_larger_than_the_bound_is_refused_and_pushes_nothing_out(times: Times) -> None:
    one_bytes = one_size_bytes(times)
    memory = MemoryStore(2 * one_bytes, times.clock)
    put(memory, times, "1")
    assert not put(memory, times, "2", body=b"x" * memory.limit_bytes)
    assert memory.get(key("1").local) is not None
    assert memory.size_bytes == one_bytes


def test_a_refused_copy_removes_the_one_it_was_to_replace(times: Times) -> None:
    memory = MemoryStore(2 * one_size_bytes(times), times.clock)
    put(memory, times, "1")
    assert not put(memory, times, "1", body=b"x" * memory.limit_bytes)
    assert memory.get(key("1").local) is None
    assert memory.size_bytes == 0


def test_a_copy_ends_at_its_time_and_gives_its_bytes_back(times: Times) -> None:
    memory = MemoryStore(ROOMY_BYTES, times.clock)
    put(memory, times, "1", ttl_s=30)
    times.move(29)
    assert memory.get(key("1").local) is not None
    times.move(1)
    assert memory.get(key("1").local) is None
    assert (len(memory), memory.size_bytes) == (0, 0)


def test_a_hit_does_not_prolong_a_copy(times: Times) -> None:
    memory = MemoryStore(ROOMY_BYTES, times.clock)
    put(memory, times, "1", ttl_s=30)
    for _ in range(3):
        times.move(9)
        assert memory.get(key("1").local) is not None
    times.move(9)
    assert memory.get(key("1").local) is None


def test_a_copy_that_is_over_already_is_refused(times: Times) -> None:
    memory = MemoryStore(ROOMY_BYTES, times.clock)
    assert not put(memory, times, "1", ttl_s=0)
    assert len(memory) == 0


def test_replacing_a_copy_counts_its_bytes_once(times: Times) -> None:
    memory = MemoryStore(ROOMY_BYTES, times.clock)
    put(memory, times, "1")
    before = memory.size_bytes
    put(memory, times, "1", body=BODY + b"y")
    assert (len(memory), memory.size_bytes) == (1, before + 1)


def test_stacks_can_be_discarded_after_evictions_and_replacements(times: Times) -> None:
    memory = MemoryStore(2 * one_size_bytes(times), times.clock)
    for name in "1231":
        put(memory, times, name)
    memory.discard_stack(b"s")
    assert (len(memory), memory.size_bytes) == (0, 0)
    memory.discard_stack(b"s")
    assert put(memory, times, "1")
    assert memory.get(key("1").local) is not None


def test_clearing_takes_everything(times: Times) -> None:
    memory = MemoryStore(ROOMY_BYTES, times.clock)
    for number, stack in enumerate((b"s", b"t")):
        memory.put(key(f"{number}", stack=stack), entry_of(), times.clock.monotonic_s() + 60)
    memory.clear()
    assert (len(memory), memory.size_bytes) == (0, 0)
    assert memory.get(key("0").local) is None


def test_a_bound_of_zero_refuses_copies(times: Times) -> None:
    memory = MemoryStore(ROOMY_BYTES, times.clock)
    assert put(memory, times, "1")
    memory.clear()
    memory.limit_bytes = 0
    assert not put(memory, times, "1")
    assert (len(memory), memory.size_bytes) == (0, 0)


def test_copies_are_returned_only_while_every_invalidation_has_been_received(times: Times) -> None:
    is_current = False
    memory = MemoryStore(ROOMY_BYTES, times.clock, lambda: is_current)
    put(memory, times, "1")
    assert memory.get(key("1").local) is None
    assert memory.get(key("1").local, is_checked=True) is not None
    is_current = True
    assert memory.get(key("1").local) is not None
