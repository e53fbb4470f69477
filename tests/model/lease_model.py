"""A model of the lease: two replicas and one Redis, each command, reply and fault a step.

`search` visits every state that the steps can reach within the bounds of a `Scenario`. It raises `Violation`
at the first in which an answer is too old, misses a write, or a call is made without need; from every state
all requests must end once no more faults come. Settled records are left out: the rules of entries hold for
them.

Time is in ticks, which pass between any two steps. A record is what AOS had when its fetch began: the oldest
that a fetch may bring.
"""

import itertools
from collections.abc import Iterator
from typing import NamedTuple

LIFE = 2
_REPLICAS = (0, 1)
# Rounds of a run without faults in which all requests must have ended.
_ROUNDS = 32 * LIFE
# When a key without a time to live ends.
_NEVER = 10_000


class Violation(Exception):
    """A state that must not be; the message says why."""


class Scenario(NamedTuple):
    """What may happen, and how often; and which mistake is planted.

    Attributes:
        ticks: how much time passes at most.
        requests: the replicas to which they come, in this order.
        at: the tick of each of them; empty: whenever.
        no_cache: which of them say that.
        faults: how many, of those in ``kinds``.
        plant: name of the mistake; empty without one.
    """

    ticks: int
    requests: tuple[int, ...]
    at: tuple[int, ...] = ()
    writes: int = 0
    voids: int = 0
    no_cache: frozenset[int] = frozenset()
    faults: int = 0
    kinds: frozenset[str] = frozenset()
    plant: str = ""


class Record(NamedTuple):
    """Attributes: when its fetch began, and the number of writes that AOS had then."""

    began: int
    version: int


class Request(NamedTuple):
    """Attributes: when it arrived, and the writes that its replica knew of then."""

    arrived: int
    known: int


class Key(NamedTuple):
    """A value in Redis, its name holds a generation; ``record`` is ``None`` for a lease and a void."""

    generation: int
    nonce: int
    ends: int
    record: Record | None = None


class Redis(NamedTuple):
    """Attributes: the generation, 0 without; leases; published records; the newest write it was told of."""

    generation: int = 0
    leases: tuple[Key, ...] = ()
    lives: tuple[Key, ...] = ()
    deleted: int = 0


class Reply(NamedTuple):
    """What one ``MGET`` brought."""

    nonce: int
    live: Key | None
    generation: int
    deleted: int


class Flight(NamedTuple):
    """One look-up of a replica and those who wait for it.

    Attributes:
        step: the command to be executed next, or what is awaited.
        since: writes known when it began.
        sent: when the pipeline under way was sent.
        seen: deadlines of the nonces seen in the lease.
    """

    replica: int
    step: str
    began: int
    since: int
    requests: tuple[Request, ...]
    is_open: bool = True
    forces: bool = False
    generation: int = 0
    retries: int = 0
    nonce: int = 0
    sent: int = 0
    pttl: int = 0
    reply: Reply | None = None
    seen: tuple[tuple[int, int], ...] = ()
    record: Record | None = None
    deadline: int = 0


class Replica(NamedTuple):
    """Attributes: writes it knows of; its pending invalidation; its copy, until when; messages to come."""

    known: int = 0
    owes: tuple[str, int] | None = None
    copy: tuple[Record, int] | None = None
    inbox: tuple[int, ...] = ()


class Publication(NamedTuple):
    """``SET A`` under way."""

    replica: int
    generation: int
    nonce: int
    record: Record | None
    # Planted: delete this lease too.
    deletes: bool = False


class State(NamedTuple):
    """Attributes: ``old``: what a failover brings back; ``licensed``: when the last lease was set."""

    now: int
    left: Scenario
    version: int = 0
    redis: Redis = Redis()
    old: Redis | None = None
    licensed: int = -99
    replicas: tuple[Replica, ...] = (Replica(), Replica())
    flights: tuple[Flight, ...] = ()
    publications: tuple[Publication, ...] = ()


class Model:
    """The steps of one scenario."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.plant = scenario.plant
        self._keeps_old = "failover" in scenario.kinds

    def steps(self, state: State) -> Iterator[State]:
        """Yield every state that may come next."""
        left = state.left
        yield from self.progress(state)
        is_time = not left.at or left.at[0] == state.now
        if left.ticks and not (left.at and is_time):
            yield self.tick(state)
        if left.requests and is_time:
            replica, *rest = left.requests
            request = Request(state.now, state.replicas[replica].known)
            spent = state._replace(left=left._replace(requests=tuple(rest), at=left.at[1:]))
            if self._position(state) in left.no_cache:
                yield self._begin(spent, replica, (request,), forces=True)
            else:
                yield self._arrives(spent, replica, request)
        for replica in _REPLICAS if left.writes else ():
            spent = state._replace(left=left._replace(writes=left.writes - 1), version=state.version + 1)
            yield self._write(spent, replica)
        if left.faults:
            yield from self._faults(state._replace(left=left._replace(faults=left.faults - 1)))
        if left.voids:
            spent = state._replace(left=left._replace(voids=left.voids - 1))
            for flight in state.flights:
                if flight.step == "fetch":
                    yield self._fetched(spent, flight, is_void=True)

    def progress(self, state: State) -> Iterator[State]:
        """Yield what comes next without time, callers, writes and faults."""
        for flight in state.flights:
            yield self._advance(state, flight)
        for publication in state.publications:
            yield self._publish(state, publication)
        for number, replica in enumerate(state.replicas):
            if replica.owes is not None:
                yield self._pay(state, number, *replica.owes)
            if replica.inbox:
                rest = replica._replace(inbox=replica.inbox[1:])
                yield self._learn(_with(state, number, rest), number, replica.inbox[0])

    def tick(self, state: State) -> State:
        """Let time pass; Redis drops what is over."""
        now = state.now + 1

        def living(redis: Redis) -> Redis:
            return redis._replace(
                leases=tuple(key for key in redis.leases if key.ends > now),
                lives=tuple(key for key in redis.lives if key.ends > now),
            )

        return state._replace(
            now=now,
            left=state.left._replace(ticks=max(0, state.left.ticks - 1)),
            redis=living(state.redis),
            old=state.old and living(state.old),
        )

    # What callers and writers do.

    def _arrives(self, state: State, replica: int, request: Request) -> State:
        copy = state.replicas[replica].copy
        if copy is not None and request.arrived <= copy[1]:
            self._check(request, copy[0])
            return state
        return self._join_or_begin(state, replica, (request,))

    def _join_or_begin(self, state: State, replica: int, requests: tuple[Request, ...]) -> State:
        for flight in state.flights:
            if flight.replica == replica and flight.is_open and state.now - flight.began <= LIFE:
                return _changed(
                    state, flight, flight._replace(requests=tuple(sorted(flight.requests + requests)))
                )
        return self._begin(state, replica, requests)

    def _begin(
        self, state: State, replica: int, requests: tuple[Request, ...], *, forces: bool = False
    ) -> State:
        state = _closed(state, replica)
        known = state.replicas[replica].known
        flight = Flight(replica, "look", state.now, known, requests, forces=forces)
        return _flights(state, (*state.flights, flight))

    def _write(self, state: State, replica: int) -> State:
        state = self._learn(state, replica, state.version)
        return _with(state, replica, state.replicas[replica]._replace(owes=("del", state.version)))

    def _learn(self, state: State, number: int, write: int) -> State:
        """A replica invalidates the stack: copies go, flights answer only who had joined."""
        replica = state.replicas[number]
        state = _with(state, number, replica._replace(known=max(replica.known, write), copy=None))
        return _closed(state, number)

    def _pay(self, state: State, number: int, step: str, write: int) -> State:
        if step == "del":
            redis = state.redis._replace(generation=0, deleted=max(write, state.redis.deleted))
            state = self._stored(state, redis)
            following: tuple[str, int] | None = ("publish", write)
        elif step == "publish":
            for other in _REPLICAS:
                if other != number and write not in state.replicas[other].inbox:
                    inbox = (*state.replicas[other].inbox, write)
                    state = _with(state, other, state.replicas[other]._replace(inbox=inbox))
            following = ("reply", write)
        else:
            following = None
        return _with(state, number, state.replicas[number]._replace(owes=following))

    # What a look-up does.

    def _advance(self, state: State, flight: Flight) -> State:
        """Execute the next command of a flight, take its reply, or end its fetch."""
        redis, now, step = state.redis, state.now, flight.step
        if step == "fetch":
            return self._fetched(state, flight, is_void=False)
        if step == "look":
            if self._is_void(state, flight):
                return self._alone(state, flight)
            if not redis.generation:
                return _changed(state, flight, flight._replace(step="mint"))
            return self._claim(state, flight, redis.generation)
        if step == "mint":
            if not redis.generation:
                state = self._stored(state, redis._replace(generation=_unused(state)))
            return _changed(state, flight, flight._replace(step="minted"))
        if step == "minted":
            if not redis.generation or self._is_void(state, flight):
                return self._alone(state, flight)
            return self._claim(state, flight, redis.generation)
        if step == "force":
            state = self._lease(state, flight)
            return self._lead(state, flight)
        if step == "set":
            if _find(redis.leases, self._name(flight)) is None:
                if self._is_clean(state) and now - state.licensed < LIFE:
                    raise Violation("two calls in one interval")
                state = self._lease(state, flight)
            return _changed(
                state, flight, flight._replace(step="read" if self.plant == "pttl-last" else "pttl")
            )
        if step == "pttl":
            lease = _find(redis.leases, self._name(flight))
            pttl = -2 if lease is None else lease.ends - now
            step = "claimed" if self.plant == "pttl-last" else "read"
            return _changed(state, flight, flight._replace(step=step, pttl=pttl))
        if step in ("read", "poll"):
            name = self._name(flight)
            lease, live = _find(redis.leases, name), _find(redis.lives, name)
            reply = Reply(0 if lease is None else lease.nonce, live, redis.generation, redis.deleted)
            step = {"read": "claimed", "poll": "polled"}[step]
            if step == "claimed" and self.plant == "pttl-last":
                step = "pttl"
            return _changed(state, flight, flight._replace(step=step, reply=reply))
        assert step in ("claimed", "polled")
        return self._replied(state, flight, flight.reply, is_claim=step == "claimed")

    def _claim(self, state: State, flight: Flight, generation: int) -> State:
        step = "force" if flight.forces else "set"
        nonce = _unused(state)
        claiming = flight._replace(
            step=step, generation=generation, nonce=nonce, sent=state.now, reply=None, pttl=0
        )
        return _changed(state, flight, claiming)

    def _replied(self, state: State, flight: Flight, reply: Reply | None, *, is_claim: bool) -> State:
        assert reply is not None
        if self._is_void(state, flight):
            return self._alone(state, flight)
        if reply.generation != flight.generation and self.plant != "no-generation-check":
            if flight.retries:
                return self._alone(state, flight)
            return _changed(state, flight, flight._replace(step="look", retries=1, reply=None, seen=()))
        seen = dict(flight.seen)
        if is_claim and reply.nonce == flight.nonce:
            return self._lead(state, flight)
        if is_claim and flight.pttl > LIFE:
            return _changed(state, flight, flight._replace(step="force", sent=state.now, reply=None))
        if reply.nonce and (is_claim or reply.nonce not in seen):
            seen[reply.nonce] = flight.sent + (max(0, flight.pttl) if is_claim else 0)
        live = reply.live
        if live is not None and (live.nonce in seen or self.plant == "no-nonce-check"):
            if live.record is None:
                return self._alone(state, flight)
            if live.record.version < reply.deleted:
                raise Violation("a record from before a write that Redis had been told of")
            return self._answer(state, flight, live.record, seen.get(live.nonce, flight.sent))
        flight_then = flight._replace(seen=tuple(sorted(seen.items())), reply=None, pttl=0)
        state = _changed(state, flight, flight_then)
        if not reply.nonce or (flight.sent > seen[reply.nonce] and self.plant != "waits-for-ever"):
            return self._claim(state, flight_then, flight.generation)
        return _changed(state, flight_then, flight_then._replace(step="poll", sent=state.now))

    def _lead(self, state: State, flight: Flight) -> State:
        record = Record(state.now, state.version)
        leading = flight._replace(
            step="fetch", record=record, deadline=flight.sent + LIFE, seen=(), reply=None
        )
        return _changed(state, flight, leading)

    def _alone(self, state: State, flight: Flight) -> State:
        if self._is_clean(state):
            raise Violation("a call without a lease")
        record = Record(state.now, state.version)
        fetching = flight._replace(
            step="fetch", record=record, deadline=state.now + LIFE, nonce=0, seen=(), reply=None
        )
        return _changed(state, flight, fetching)

    def _fetched(self, state: State, flight: Flight, *, is_void: bool) -> State:
        assert flight.record is not None
        if flight.nonce and flight.since == state.replicas[flight.replica].known:
            record = None if is_void else flight.record
            publication = Publication(
                flight.replica, self._name(flight), flight.nonce, record, self.plant == "leader-deletes"
            )
            state = state._replace(publications=tuple(sorted((*state.publications, publication), key=repr)))
        return self._answer(state, flight, flight.record, flight.deadline, keeps=not is_void)

    def _answer(
        self, state: State, flight: Flight, record: Record, deadline: int, *, keeps: bool = True
    ) -> State:
        """Answer who had come by the deadline; the others look up anew."""
        late = []
        for request in flight.requests:
            if request.arrived <= deadline or self.plant == "joined-late":
                self._check(request, record)
            else:
                late.append(request)
        replica = state.replicas[flight.replica]
        if keeps and flight.since == replica.known and state.now <= deadline:
            state = _with(state, flight.replica, replica._replace(copy=(record, deadline)))
        state = _flights(state, tuple(each for each in state.flights if each is not flight))
        return self._join_or_begin(state, flight.replica, tuple(late)) if late else state

    def _check(self, request: Request, record: Record) -> None:
        if request.arrived - record.began > LIFE:
            raise Violation("an answer older than the interval")
        if record.version < request.known:
            raise Violation("an answer older than a write that was known")

    # Redis.

    def _publish(self, state: State, publication: Publication) -> State:
        redis = state.redis
        live = Key(publication.generation, publication.nonce, state.now + 2 * LIFE, publication.record)
        redis = redis._replace(lives=_put(redis.lives, live))
        if publication.deletes:
            redis = redis._replace(
                leases=tuple(key for key in redis.leases if key.generation != publication.generation)
            )
        rest = list(state.publications)
        rest.remove(publication)
        return self._stored(state._replace(publications=tuple(rest)), redis)

    def _lease(self, state: State, flight: Flight) -> State:
        lease = Key(self._name(flight), flight.nonce, state.now + LIFE)
        redis = state.redis._replace(leases=_put(state.redis.leases, lease))
        return self._stored(state, redis)._replace(licensed=state.now)

    def _stored(self, state: State, redis: Redis) -> State:
        return state._replace(redis=redis, old=state.redis if self._keeps_old else None)

    def _name(self, flight: Flight) -> int:
        return 0 if self.plant == "names-without-generation" else flight.generation

    def _is_void(self, state: State, flight: Flight) -> bool:
        replica = state.replicas[flight.replica]
        return replica.owes is not None or flight.since != replica.known

    def _is_clean(self, state: State) -> bool:
        """Whether nothing has happened yet that costs a call more."""
        begin, left = self.scenario, state.left
        has_forced = any(number < self._position(state) for number in begin.no_cache)
        spent = (begin.writes, begin.voids, begin.faults) != (left.writes, left.voids, left.faults)
        return not (has_forced or spent)

    def _position(self, state: State) -> int:
        return len(self.scenario.requests) - len(state.left.requests)

    def _faults(self, state: State) -> Iterator[State]:
        kinds, redis = self.scenario.kinds, state.redis
        if "eviction" in kinds:
            if redis.generation:
                yield self._stored(state, redis._replace(generation=0))
            for key in redis.leases:
                yield self._stored(
                    state, redis._replace(leases=tuple(k for k in redis.leases if k is not key))
                )
            for key in redis.lives:
                yield self._stored(state, redis._replace(lives=tuple(k for k in redis.lives if k is not key)))
        if "flush" in kinds:
            yield self._stored(state, Redis(deleted=redis.deleted))
        if "forgery" in kinds:
            for key in redis.leases:
                forged = Key(key.generation, 99, _NEVER)
                yield self._stored(state, redis._replace(leases=_put(redis.leases, forged)))
        for flight in state.flights:
            if "cut" in kinds and flight.step != "fetch":
                yield self._alone(self._reconnected(state, flight.replica), flight)
        for publication in state.publications:
            if "cut" in kinds:
                rest = list(state.publications)
                rest.remove(publication)
                yield self._reconnected(state._replace(publications=tuple(rest)), publication.replica)
        if "failover" in kinds and state.old is not None:
            # Every connection breaks, with the messages on it; each replica opens another before it reads.
            replicas = tuple(each._replace(inbox=()) for each in state.replicas)
            failed = state._replace(redis=state.old, old=None, publications=(), replicas=replicas)
            for flight in state.flights:
                if flight.step != "fetch":
                    failed = self._alone(failed, flight)
            for number in _REPLICAS:
                failed = self._reconnected(failed, number)
            yield failed
        for number in _REPLICAS if "crash" in kinds else ():
            crashed = _with(state, number, Replica())
            yield crashed._replace(
                flights=tuple(each for each in state.flights if each.replica != number),
                publications=tuple(each for each in state.publications if each.replica != number),
            )

    def _reconnected(self, state: State, number: int) -> State:
        """What is known counts as owed again from the moment a connection is opened."""
        replica = state.replicas[number]
        if not replica.known or self.plant == "repeat-not-marked":
            return state
        return _with(state, number, replica._replace(owes=("del", replica.known)))

    def check_ends(self, state: State, ending: set[State]) -> None:
        """Raise unless every request ends when no more faults come, each in its turn."""
        visited: list[State] = []
        # Only what is under way: nothing more comes.
        state = state._replace(left=Scenario(0, (), faults=-1), licensed=-99)
        for _ in range(_ROUNDS):
            if state in ending or not state.flights:
                ending.update(visited)
                return
            visited.append(state)
            for number in range(len(state.flights)):
                if number < len(state.flights):
                    state = self._advance(state, state.flights[number])
            for publication in state.publications:
                state = self._publish(state, publication)
            for number, replica in enumerate(state.replicas):
                if replica.owes is not None:
                    state = self._pay(state, number, *replica.owes)
            # Each command takes less than a tick.
            state = self.tick(state) if len(visited) % 4 == 0 else state
        raise Violation(f"a request does not end: {state.flights}")


def search(scenario: Scenario) -> int:
    """Visit every state of a scenario; return how many there are.

    Raises:
        Violation: one of them must not be.
    """
    model = Model(scenario)
    first = State(0, scenario)
    known, waiting = {first}, [first]
    ending: set[State] = set()
    while waiting:
        state = waiting.pop()
        model.check_ends(state, ending)
        # What is under way first: a planted mistake is found sooner.
        for following in map(_relevant, reversed(list(model.steps(state)))):
            if following not in known and (following.left.requests or following.flights):
                known.add(following)
                waiting.append(following)
    return len(known)


def _relevant(state: State) -> State:
    """Leave out what can have no consequence, so that there are fewer states."""
    if state.left.requests or not any(each.copy for each in state.replicas):
        return state
    return state._replace(replicas=tuple(each._replace(copy=None) for each in state.replicas))


def _with(state: State, number: int, replica: Replica) -> State:
    replicas = list(state.replicas)
    replicas[number] = replica
    return state._replace(replicas=tuple(replicas))


def _flights(state: State, flights: tuple[Flight, ...]) -> State:
    return state._replace(flights=flights)


def _changed(state: State, flight: Flight, changed: Flight) -> State:
    return _flights(state, tuple(changed if each is flight else each for each in state.flights))


def _closed(state: State, replica: int) -> State:
    """Let nobody join the flights of a replica any more."""
    return _flights(
        state,
        tuple(
            each._replace(is_open=False) if each.replica == replica and each.is_open else each
            for each in state.flights
        ),
    )


def _unused(state: State) -> int:
    """Return the least number that names nothing: a number stands for 16 random bytes."""
    used = {state.redis.generation, 0}
    for redis in (state.redis, state.old) if state.old is not None else (state.redis,):
        used.add(redis.generation)
        for key in redis.leases + redis.lives:
            used.update(key[:2])
    for publication in state.publications:
        used.update(publication[1:3])
    for flight in state.flights:
        used.update((flight.generation, flight.nonce, *(nonce for nonce, _ in flight.seen)))
        if flight.reply is not None:
            used.add(flight.reply.generation)
            if flight.reply.live is not None:
                used.add(flight.reply.live.nonce)
            used.add(flight.reply.nonce)
    return next(number for number in itertools.count(1) if number not in used)


def _find(keys: tuple[Key, ...], name: int) -> Key | None:
    return next((key for key in keys if key.generation == name), None)


def _put(keys: tuple[Key, ...], key: Key) -> tuple[Key, ...]:
    return tuple(sorted((*(each for each in keys if each.generation != key.generation), key), key=repr))
