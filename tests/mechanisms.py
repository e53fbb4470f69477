"""Removes one protecting mechanism after another from a copy of the project, and shows its test failing.

    python -m tests.mechanisms            # all of them
    python -m tests.mechanisms owner tag  # some

Each mechanism is a row of SECURITY.md; a test that still passes without it would protect nothing.
"""

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
_COPIED = ("gateway", "tests", "benchmarks", "config", "pyproject.toml")
_TEST_S = 120


@dataclass(frozen=True)
class Mechanism:
    """One mechanism and how to take it out.

    Attributes:
        name: what SECURITY.md calls it.
        module: file in which it lives, from the project's root.
        present: its code, which stands there exactly once.
        removed: what stands there without it.
        test: pytest id of a test that must fail then.
    """

    name: str
    module: str
    present: str
    removed: str
    test: str


MECHANISMS = (
    Mechanism(
        "owner",
        "gateway/core/caching/identity.py",
        "return Identity(caller, caller, _SHARED if self._shared else caller)",
        "return Identity(_SHARED, _SHARED, _SHARED)",
        "tests/end_to_end/test_identity.py::test_two_callers_see_nothing_of_each_others_responses",
    ),
    Mechanism(
        "one credential",
        "gateway/core/caching/identity.py",
        "if len(lines) > 1 or (name == TOKEN_FIELD",
        "if False or (name == TOKEN_FIELD",
        "tests/core/caching/test_identity.py::test_an_ambiguous_identity_bypasses_the_cache",
    ),
    Mechanism(
        "disguised credential",
        "gateway/core/caching/identity.py",
        "if plain in self.guarded and lower not in self.names:",
        "if False:",
        "tests/core/caching/test_identity.py::test_an_ambiguous_identity_bypasses_the_cache",
    ),
    Mechanism(
        "tag",
        "gateway/core/caching/entry.py",
        "if not hmac.compare_digest(tag, _tag(name, content, secret)):",
        "if False:",
        "tests/core/caching/test_entry.py::test_any_flipped_byte_is_a_miss",
    ),
    Mechanism(
        "compared whole",
        "gateway/core/caching/entry.py",
        "if known is not None and known[0] == sealed:",
        "if known is not None:",
        "tests/core/caching/test_entry.py::test_what_was_verified_vouches_for_the_same_bytes_alone",
    ),
    Mechanism(
        "terminal phase",
        "gateway/core/caching/policy.py",
        "if record.phase not in rules.terminal_phases:",
        "if False:",
        "tests/end_to_end/test_caching.py::test_progress_is_visible_at_once",
    ),
    Mechanism(
        "counted from the start of the fetch",
        "gateway/cache/fetcher.py",
        "            refusal = by.tiers.store(token, entry)\n",
        "            import msgspec\n"
        "            token = by.tiers.fill_token(self._token.key)\n"
        "            times = {'fetched_s': token.wall_s, 'expires_s': token.wall_s + decision.ttl_s}\n"
        "            refusal = by.tiers.store(token, msgspec.structs.replace(entry, **times))\n",
        "tests/end_to_end/test_running.py::test_its_age_counts_from_the_start_of_its_fetch",
    ),
    Mechanism(
        "no late joining",
        "gateway/app/gateway.py",
        "min(config.cache.memory_ttl_s, config.cache.ttl_running_s or math.inf)",
        "config.cache.memory_ttl_s",
        "tests/end_to_end/test_running.py::"
        "test_a_fetch_that_began_too_long_ago_is_not_joined_and_its_settled_record_is_stored",
    ),
    Mechanism(
        "running in memory only",
        "gateway/store/tiers.py",
        "self.redis is not None and entry.is_settled and self",
        "self.redis is not None and self",
        "tests/end_to_end/test_running.py::test_redis_keeps_none",
    ),
    Mechanism(
        "seen in the lease",
        "gateway/core/caching/lease.py",
        "self._seen.get(published[:NONCE_BYTES])",
        "next(iter(self._seen.values()), None)",
        "tests/core/caching/test_lease.py::test_what_a_reply_means",
    ),
    Mechanism(
        "generation of the reply",
        "gateway/core/caching/lease.py",
        "if reply.generation != self.generation:",
        "if False:",
        "tests/core/caching/test_lease.py::test_what_a_reply_means",
    ),
    Mechanism(
        "bound to its lease",
        "gateway/core/caching/lease.py",
        "self._secret, wall_s, name=name)",
        "self._secret, wall_s)",
        "tests/core/caching/test_lease.py::test_what_a_reply_means",
    ),
    Mechanism(
        "the deadline of a lease",
        "gateway/core/caching/lease.py",
        "        self.ends_s = ends_s\n",
        "        self.ends_s = math.inf\n",
        "tests/core/caching/test_lease.py::"
        "test_an_answer_ends_with_what_was_left_of_the_lease_when_it_was_first_seen",
    ),
    Mechanism(
        "named by generation",
        "gateway/core/caching/key.py",
        "self.identity + generation + b",
        "self.identity + b",
        "tests/core/caching/test_lease.py::test_keys_hold_generation_and_life_and_share_the_slot_of_the_entry",
    ),
    Mechanism(
        "named by interval",
        "gateway/core/caching/key.py",
        '+ b"%d" % round(life_s * 1000)',
        '+ b"%d" % 0',
        "tests/server/test_lease_faults.py::test_replicas_that_are_told_other_intervals_keep_to_their_own",
    ),
    Mechanism(
        "a lease of unknown life",
        "gateway/core/caching/lease.py",
        "is_over = reply.lease is None or reply.sent_s > self._seen[reply.lease][0]",
        "is_over = reply.lease is None",
        "tests/server/test_lease_faults.py::"
        "test_nothing_in_redis_makes_who_waits_for_a_dead_leader_wait_longer",
    ),
    Mechanism(
        "a bound to waiting for leaders",
        "gateway/cache/leases.py",
        "asyncio.timeout(self._longest_s)",
        "asyncio.timeout(None)",
        "tests/server/test_lease_faults.py::test_who_is_never_let_lead_fetches_for_himself_in_time",
    ),
    Mechanism(
        "leases for what is shared alone",
        "gateway/cache/fetcher.py",
        "lease_s = self.rules.ttl_running_s or life_s if",
        "lease_s = self.rules.ttl_running_s or life_s or 1.0 if",
        "tests/server/test_leases.py::test_polls_of_which_nothing_is_to_be_shared_send_no_command_more",
    ),
    Mechanism(
        "joined only for what may be given",
        "gateway/cache/cache.py",
        "if not self._may_be_given(eligible, fetched):",
        "if False:",
        "tests/end_to_end/test_running.py::test_in_scope_shared_nobody_is_given_what_another_was_refused",
    ),
    Mechanism(
        "a refusal ends one wait",
        "gateway/cache/poller.py",
        "if is_others and not _is_for(result, waiter):",
        "if False:",
        "tests/end_to_end/test_waiting.py::test_in_scope_shared_a_refusal_ends_one_wait_alone",
    ),
    Mechanism(
        "waits after a write",
        "gateway/cache/poller.py",
        "takers = [waiter for waiter in self.waiters if fetched_s >= waiter.not_before_s]",
        "takers = list(self.waiters)",
        "tests/end_to_end/test_waiting.py::"
        "test_a_record_from_before_a_write_does_not_answer_who_came_after_it",
    ),
    Mechanism(
        "nothing kept over a write",
        "gateway/cache/poller.py",
        "        self.latest = None\n        self._dropped_s = self._polling.fetcher.clock.monotonic_s()\n",
        "",
        "tests/end_to_end/test_waiting.py::test_a_write_ends_what_later_callers_are_given",
    ),
    Mechanism(
        "nothing kept over a refusal",
        "gateway/store/tiers.py",
        "        if everywhere:\n            self._on_drop(key.local)\n",
        "",
        "tests/end_to_end/test_waiting.py::"
        "test_after_what_may_not_be_given_again_the_next_one_looks_for_himself",
    ),
    Mechanism(
        "kept without credentials",
        "gateway/cache/poller.py",
        "            result = _without_credentials(result, self._polling.fetcher.rules.identity_headers)\n",
        "            pass\n",
        "tests/end_to_end/test_waiting.py::test_a_poller_keeps_no_credential_of_those_who_have_left",
    ),
    Mechanism(
        "the first look",
        "gateway/cache/poller.py",
        "if each.may_have(entry, now_s):",
        "if True:",
        "tests/end_to_end/test_waiting_deadlines.py::test_who_wants_no_copy_is_given_none",
    ),
    Mechanism(
        "the next one due",
        "gateway/cache/poller.py",
        "if is_due and latest is None:",
        "if latest is None:",
        "tests/end_to_end/test_waiting_deadlines.py::test_what_is_not_kept_makes_no_hot_loop_either",
    ),
    Mechanism(
        "order of records",
        "gateway/cache/poller.py",
        "            waiter.not_before_s = fetched_s\n",
        "",
        "tests/end_to_end/test_waiting_deadlines.py::test_an_older_record_replaces_no_later_one",
    ),
    Mechanism(
        "true age",
        "gateway/cache/waiting.py",
        "response = aged(response, int(now_s - outcome.fetched_response.fetched_s))",
        "pass",
        "tests/end_to_end/test_waiting_deadlines.py::test_at_the_end_the_newest_record_tells_how_old_it_is",
    ),
    Mechanism(
        "one poller",
        "gateway/cache/waiting.py",
        "key = self._keys.flight(caller, variant, execution)",
        "key = self._keys.flight(request.request_id, variant, execution)",
        "tests/end_to_end/test_waiting.py::test_many_callers_cost_one_call_an_interval_and_are_all_woken",
    ),
    Mechanism(
        "held pollers",
        "gateway/cache/poller.py",
        "            if held_s is None:\n                return waiter, 0.0\n",
        "            return waiter, 0.0\n",
        "tests/end_to_end/test_waiting.py::test_a_429_is_waited_out",
    ),
    Mechanism(
        "jitter",
        "gateway/cache/poller.py",
        "_JITTER = 0.1",
        "_JITTER = 0.0",
        "tests/end_to_end/test_waiting_deadlines.py::test_pollers_that_begin_together_do_not_stay_together",
    ),
    Mechanism(
        "as long as all allow",
        "gateway/core/caching/policy.py",
        "ttl_s = min(rules.ttl_running_s, rules.access_ttl_s)",
        "ttl_s = rules.ttl_running_s",
        "tests/end_to_end/test_running.py::test_it_lives_no_longer_than_all_allow",
    ),
    Mechanism(
        "nothing large kept",
        "gateway/cache/poller.py",
        "waiter.seen = result if _is_small(result) else None",
        "waiter.seen = result",
        "tests/end_to_end/test_waiting.py::test_of_a_large_record_nothing_is_kept_while_a_caller_waits",
    ),
    Mechanism(
        "one deadline for all fetches",
        "gateway/cache/cache.py",
        "return await self.flights.in_time(self._response(asked), since_s)",
        "return await self._response(asked)",
        "tests/end_to_end/test_running.py::test_in_scope_shared_a_chain_of_refusals_has_a_deadline",
    ),
    Mechanism(
        "bounded waiting",
        "gateway/cache/waiting.py",
        "if self._count >= most or (poller is None and len(self.pollers) >= most):",
        "if False:",
        "tests/end_to_end/test_waiting.py::test_a_caller_who_may_not_wait_is_answered_at_once",
    ),
    Mechanism(
        "waits end with the drain",
        "gateway/app/gateway.py",
        "        self.waits.close()\n",
        "",
        "tests/end_to_end/test_waiting.py::test_a_drain_and_a_reload_answer_with_the_newest_record",
    ),
    Mechanism(
        "complete body",
        "gateway/core/caching/policy.py",
        "    if not fetched_response.complete:\n        return Reason.INCOMPLETE\n",
        "",
        "tests/core/caching/test_policy.py",
    ),
    Mechanism(
        "bounded decompression",
        "gateway/core/caching/content_coding.py",
        "plain = inflater.decompress(body, max_bytes + 1)",
        "plain = inflater.decompress(body)[:max_bytes]",
        "tests/core/caching/test_policy.py",
    ),
    Mechanism(
        "invalidated before the response",
        "gateway/cache/cache.py",
        "        if not 400 <= answer.head.status < 500:\n            await self._invalidate(stacks)\n",
        "",
        "tests/end_to_end/test_writes.py::test_a_write_invalidates_before_the_first_byte_of_its_response",
    ),
    Mechanism(
        "invalidation counts",
        "gateway/store/tiers.py",
        "if is_invalidated or not fill_token.ends_in_order():",
        "if not fill_token.ends_in_order():",
        "tests/store/test_invalidation.py::test_a_fill_under_way_during_an_invalidation_leaves_nothing_usable",
    ),
    Mechanism(
        "order of fetches",
        "gateway/store/lookup.py",
        "        if fetch < self.latest:\n",
        "        if False:\n",
        "tests/store/test_tiers.py::"
        "test_of_two_fetches_the_one_that_began_later_counts_in_whatever_order_they_end",
    ),
    Mechanism(
        "mark of a connection",
        "gateway/store/invalidations.py",
        "        mark.opened(self._epoch, now_s)\n        self._due += mark.due\n",
        "        self._due += mark.due\n",
        "tests/store/test_tiers.py::test_a_new_connection_repeats_the_recent_invalidations",
    ),
    Mechanism(
        "separate retries",
        "gateway/store/invalidation_sender.py",
        "self._invalidations.refused(pending, is_published=is_published)",
        "self._invalidations.failed(pending)",
        "tests/store/test_invalidation_sender.py::"
        "test_a_refused_invalidation_is_logged_and_published_once_and_confirmed_when_allowed",
    ),
    Mechanism(
        "mark per node",
        "gateway/store/invalidations.py",
        "        mark = self._marks[0] if mark is None else mark\n",
        "        mark = self._marks[0]\n",
        "tests/store/test_redis_cluster.py::"
        "test_a_new_connection_to_one_node_makes_only_its_own_invalidations_pending",
    ),
    Mechanism(
        "redirected",
        "gateway/store/redis.py",
        "if any(isinstance(reply, Exception) and is_redirect(reply) for reply in replies):",
        "if not replies:",
        "tests/store/test_redis_cluster.py::"
        "test_a_slot_that_moves_is_followed_and_its_invalidations_are_sent_again",
    ),
    Mechanism(
        "state per node",
        "gateway/store/invalidation_sender.py",
        "            delays_others = len(self._redis.link.nodes) > 1\n",
        "            delays_others = False\n",
        "tests/store/test_redis_cluster.py::test_a_node_that_is_gone_stops_none_of_the_others",
    ),
    Mechanism(
        "left server",
        "gateway/store/redis_condition.py",
        "        what = wrong_server(error)\n",
        "        what = None\n",
        "tests/store/test_redis_condition.py::test_a_demoted_redis_is_left_while_its_connections_stay_open",
    ),
    Mechanism(
        "writes in any spelling",
        "gateway/core/aos/route.py",
        "    lambda path: unquote_to_bytes(path).lower(),\n",
        "",
        "tests/end_to_end/test_writes.py::test_a_write_counts_however_its_target_is_spelled",
    ),
    Mechanism(
        "no repeated write",
        "gateway/upstream/upstream.py",
        "exchange.is_stale and not is_write(exchange.method, names(fields)):",
        "exchange.is_stale:",
        "tests/end_to_end/test_writes.py::test_a_get_that_says_it_is_another_method_is_never_repeated",
    ),
    Mechanism(
        "repeated methods",
        "gateway/upstream/upstream.py",
        "if body is None and method in _RETRIED_METHODS:",
        "if True:",
        "tests/end_to_end/test_writes.py::test_a_request_that_is_read_and_cut_off_was_received_exactly_once",
    ),
    Mechanism(
        "watched idle connections",
        "gateway/upstream/connection.py",
        "            self.close()\n        else:\n            self._sink.feed(data)\n",
        "            pass\n        else:\n            self._sink.feed(data)\n",
        "tests/upstream/test_connection.py::test_half_a_head_on_an_idle_connection_closes_it",
    ),
    Mechanism(
        "nominated fields",
        "gateway/core/http/proxy_identity.py",
        "if named & must_travel or any(",
        "if False and any(",
        "tests/core/http/test_proxy_identity.py::test_connection_may_not_name_what_must_reach_the_upstream",
    ),
    Mechanism(
        "closed after chunks",
        "gateway/downstream/handler.py",
        ' and "Transfer-Encoding" not in message.headers',
        "",
        "tests/end_to_end/test_listeners.py::"
        "test_a_chunked_request_closes_its_connection_and_what_follows_is_dropped",
    ),
    Mechanism(
        "signed host",
        "gateway/core/http/proxy_identity.py",
        "        if host not in proxy.signed_hosts:\n",
        "        if False:\n",
        "tests/end_to_end/test_identity.py::test_a_request_signed_for_a_foreign_host_is_refused",
    ),
    Mechanism(
        "signed trace",
        "gateway/core/http/trace_context.py",
        "if _PARENT in signed:",
        "if False:",
        "tests/app/test_tracing.py::test_what_is_signed_goes_up_as_it_was_signed",
    ),
    Mechanism(
        "loop",
        "gateway/core/http/proxy_identity.py",
        "if any(found[1] == proxy.via_hex for found in _VIA_HEX.finditer(value)):",
        "if False:",
        "tests/end_to_end/test_requests.py::test_a_request_that_comes_back_is_a_loop",
    ),
    Mechanism(
        "counted fields",
        "gateway/core/http/request_head.py",
        "if self._lines > MAX_FIELDS + 2:",
        "if False:",
        "tests/core/http/test_request_head.py::test_too_many_fields_are_rejected_while_they_arrive",
    ),
    Mechanism(
        "head deadline",
        "gateway/downstream/connection.py",
        "        if self._head.size:\n            self._refuse(MessageError(408",
        "        if False:\n            self._refuse(MessageError(408",
        "tests/end_to_end/test_listeners.py::test_a_slow_head_is_answered_with_408",
    ),
    Mechanism(
        "bounded queue",
        "gateway/upstream/limiter.py",
        "if len(self._queue) >= self._max_waiting:",
        "if False:",
        "tests/end_to_end/test_upstream.py::test_requests_beyond_pool_and_queue_are_refused_and_the_queue_is_served",
    ),
    Mechanism(
        "own answers to malformed requests",
        "gateway/downstream/connection.py",
        "    def handle_error(\n",
        "    def unused_handle_error(\n",
        "tests/end_to_end/test_listeners.py::test_a_malformed_request_is_answered_with_a_problem_and_no_traceback",
    ),
    Mechanism(
        "held callers",
        "gateway/cache/throttle.py",
        "        if left_s is None:\n",
        "        if True:\n",
        "tests/end_to_end/test_throttling.py::test_a_held_back_caller_gets_its_429_again",
    ),
    Mechanism(
        "held for all",
        "gateway/cache/throttle.py",
        "        if asked.all_s:\n",
        "        if False:\n",
        "tests/end_to_end/test_throttling.py::"
        "test_where_aos_refuses_the_gateways_address_everybody_is_held_and_gets_the_gateways_429",
    ),
    Mechanism(
        "a short time",
        "gateway/core/caching/retry_after.py",
        "min(wait_s, LONGEST_FOR_ALL_S)",
        "wait_s",
        "tests/cache/test_throttle.py::test_a_limit_that_counts_everybody_holds_everybody_for_a_short_time",
    ),
    Mechanism(
        "its own 429",
        "gateway/cache/throttle.py",
        "kept = self._responses.get(caller)",
        "kept = next(iter(self._responses.values()), None)",
        "tests/end_to_end/test_throttling.py::"
        "test_where_aos_refuses_the_gateways_address_everybody_is_held_and_gets_the_gateways_429",
    ),
    Mechanism(
        "what it accepts",
        "gateway/core/caching/throttled_response.py",
        " and self.variant in (None, variant)",
        "",
        "tests/end_to_end/test_throttling.py::"
        "test_a_coded_429_is_read_and_repeated_to_who_accepts_its_coding",
    ),
    Mechanism(
        "bounded 429s",
        "gateway/cache/throttle.py",
        "        while self.size_bytes > self.max_bytes:\n",
        "        while False:\n",
        "tests/cache/test_throttle.py::test_of_too_many_bytes_the_oldest_429_gives_way_to_the_gateways_own",
    ),
    Mechanism(
        "plain requests only",
        "gateway/core/caching/plain_request.py",
        'if lower in _NOT_PLAIN or lower.startswith(b"if-"):',
        "if False:",
        "tests/core/caching/test_plain_request.py::test_what_asks_for_more_than_a_look_up_is_for_the_parser",
    ),
    Mechanism(
        "every identity field compared",
        "gateway/core/caching/plain_request.py",
        "return _TRACE_FIELDS - identity_reader.guarded",
        "return _PASSING",
        "tests/end_to_end/test_both_ways.py::test_a_field_that_identifies_callers_never_passes_by",
    ),
    Mechanism(
        "heads of one kind",
        "gateway/core/http/response_head.py",
        "len(set(lower_names)) == len(places) == differing",
        "True",
        "tests/core/http/test_response_head.py::test_a_head_like_one_before_means_what_it_means_alone",
    ),
    Mechanism(
        "strict chunks",
        "gateway/core/http/response_reader.py",
        "            if taken is None:\n",
        "            if False:\n",
        "tests/hardening/test_upstream_framing.py::"
        "test_chunks_that_others_may_read_in_another_way_never_look_whole",
    ),
    Mechanism(
        "bounded chunks",
        "gateway/downstream/connection.py",
        "if self._chunks is not None and body is not None and self._chunks.feed(data[start:end]) is None:",
        "if False:",
        "tests/hardening/test_downstream.py::test_a_raw_request_is_refused_or_forwarded_in_one_clean_form",
    ),
    Mechanism(
        "parked exchanges",
        "gateway/upstream/limiter.py",
        "        if self.parked < self._places:\n",
        "        if False:\n",
        "tests/hardening/test_connection_ends.py::"
        "test_slow_bodies_and_slow_readers_do_not_take_every_upstream_connection",
    ),
    Mechanism(
        "ended for others",
        "gateway/upstream/limiter.py",
        "            slowest.give_way()\n",
        "",
        "tests/hardening/test_connection_ends.py::"
        "test_slow_bodies_and_slow_readers_do_not_take_every_upstream_connection",
    ),
    Mechanism(
        "bounded admin connections",
        "gateway/admin/server.py",
        "if len(self._others) > MOST_CONNECTIONS:",
        "if False:",
        "tests/admin/test_admin.py::test_idle_connections_are_bounded_and_keep_no_other_out",
    ),
    Mechanism(
        "cut after closing",
        "gateway/runtime/progress.py",
        "        asyncio.get_running_loop().call_later(timeout_s, transport.abort)\n",
        "        pass\n",
        "tests/hardening/test_slow.py::"
        "test_a_caller_who_leaves_the_rest_of_an_answer_is_not_waited_for_when_idle",
    ),
    Mechanism(
        "bounded read-ahead",
        "gateway/upstream/exchange.py",
        "wants_more = write(self.take())",
        "write(self.take())",
        "tests/end_to_end/test_exchanges.py::test_no_more_is_read_than_a_slow_caller_takes",
    ),
    Mechanism(
        "connections per peer",
        "gateway/downstream/admission.py",
        "if self._by_peer[peer] >= most:",
        "if False:",
        "tests/end_to_end/test_listeners.py::"
        "test_connections_of_one_address_beyond_its_bound_are_refused_and_others_are_not",
    ),
    Mechanism(
        "right-most untrusted",
        "gateway/core/http/forwarded.py",
        "            if not self._has(address):\n                break\n",
        "",
        "tests/core/http/test_forwarded.py::test_the_caller_is_the_right_most_untrusted_address",
    ),
    Mechanism(
        "trusted header",
        "gateway/downstream/proxy_protocol.py",
        "if trusted and not trusted.has(peer):",
        "if False:",
        "tests/end_to_end/test_proxy_protocol.py::test_who_begins_otherwise_is_closed_counted_and_named",
    ),
    Mechanism(
        "decoded beside the loop",
        "gateway/cache/fetcher.py",
        "if policy.is_heavy(response):",
        "if False:",
        "tests/end_to_end/test_caching.py::test_decoding_a_large_record_holds_up_nobody_else",
    ),
    Mechanism(
        "Vary for who joined",
        "gateway/cache/responder.py",
        "if not may_share(eligible, fetched.fetched_response, self.fetcher.rules.identity_headers):",
        "if False:",
        "tests/end_to_end/test_flights.py::test_a_shared_answer_chosen_by_a_field_is_not_for_who_sent_another_one",
    ),
    Mechanism(
        "the later clock",
        "gateway/core/caching/entry.py",
        "return wall_s if wall_s > steady_s else steady_s",
        "return wall_s",
        "tests/end_to_end/test_both_ways.py::test_a_clock_that_was_set_back_gives_no_entry_a_longer_life",
    ),
    Mechanism(
        "chosen by Accept",
        "gateway/core/caching/entry.py",
        "return not self.accept or self.accept == accept",
        "return True",
        "tests/end_to_end/test_both_ways.py::"
        "test_what_the_origin_chooses_by_accept_is_for_that_one_alone_and_all_are_kept",
    ),
    Mechanism(
        "abrupt end",
        "gateway/store/redis_connection.py",
        "self._writer.transport.abort()",
        "pass",
        "tests/store/test_redis_connection.py::test_a_redis_that_reads_nothing_keeps_no_socket",
    ),
    Mechanism(
        "acknowledged before the response",
        "gateway/store/tiers.py",
        "send([Invalidation(stack=stack, settles=settles) for stack in stacks])",
        "send([])",
        "tests/server/test_workers.py::test_a_write_through_one_worker_invalidates_in_the_other_before_its_response",
    ),
    Mechanism(
        "shared counts",
        "gateway/store/tiers.py",
        "None if peers is None else peers.is_current",
        "None",
        "tests/server/test_workers.py::test_a_write_counts_for_the_other_worker_while_the_parent_is_stopped",
    ),
    Mechanism(
        "refused everywhere",
        "gateway/store/tiers.py",
        "if is_absent and not everywhere:",
        "if is_absent:",
        "tests/server/test_workers.py::test_what_a_worker_without_the_entry_is_refused_ends_it_in_the_other",
    ),
    Mechanism(
        "cleared in silence",
        "gateway/server/worker.py",
        "if is_silent or was_silent:",
        "if False:",
        "tests/server/test_workers.py::test_while_the_parent_is_silent_workers_start_over",
    ),
    Mechanism(
        "retired memory",
        "gateway/app/gateway.py",
        "self.tiers.retire_memory()",
        "pass",
        "tests/server/test_hot_restart.py::test_a_request_in_progress_ends_in_the_process_that_began_it",
    ),
    Mechanism(
        "all before",
        "gateway/server/run.py",
        "            await ended(unconnected)\n",
        "            await ended(unconnected[-1:])\n",
        "tests/server/test_hot_restart.py::test_memory_stays_off_until_all_former_processes_have_ended",
    ),
    Mechanism(
        "own socket",
        "gateway/runtime/listeners.py",
        "            if _socket_file(self.path) == self:\n                os.unlink",
        "            if True:\n                os.unlink",
        "tests/runtime/test_listeners.py::test_a_file_that_replaced_a_socket_stays",
    ),
    Mechanism(
        "socket rights",
        "gateway/runtime/listeners.py",
        "former = os.umask(_ALL_RIGHTS & ~mode.bits)",
        "former = os.umask(0)",
        "tests/runtime/test_listeners.py::test_a_unix_socket_has_its_rights_from_the_first_moment",
    ),
    Mechanism(
        "protected page",
        "gateway/admin/app.py",
        "if request.path not in _OPEN:",
        "if request.path not in {*_OPEN, *self.page.paths}:",
        "tests/admin/test_admin.py::test_without_the_one_right_token_the_network_gets_401",
    ),
    Mechanism(
        "the whole word",
        "gateway/core/aos/iam_token.py",
        "if name not in _OF_ONE_TOKEN",
        "if name == 'user'",
        "tests/core/aos/test_iam_token.py::test_everything_else_counts",
    ),
    Mechanism(
        "no key twice",
        "gateway/core/aos/iam_token.py",
        "if len(members) < len(pairs):",
        "if False:",
        "tests/core/aos/test_iam_token.py::test_what_is_not_said_beyond_doubt_is_nobodys",
    ),
    Mechanism(
        "accepted by AOS first",
        "gateway/cache/fetcher.py",
        "            if head.status == 200:\n                self._verifier",
        "            if True:\n                self._verifier",
        "tests/iam/test_identity_by_user.py::test_only_what_aos_has_accepted_is_asked_about",
    ),
    Mechanism(
        "ended by a 401",
        "gateway/cache/fetcher.py",
        "                self._verifier.refused(token)\n",
        "                pass\n",
        "tests/iam/test_identity_by_user.py::test_a_refused_token_ends_alone",
    ),
    Mechanism(
        "told to one token",
        "gateway/cache/cache.py",
        "of.credential == identity.credential",
        "of.user == identity.user",
        "tests/iam/test_identity_by_user.py::test_nobody_is_given_a_refusal_told_to_another_token",
    ),
    Mechanism(
        "one question a connection",
        "gateway/iam/client.py",
        ", force_close=True",
        "",
        "tests/iam/test_questions.py::test_an_answer_that_nobody_asked_for_is_no_word_about_the_next_token",
    ),
    Mechanism(
        "a few turns",
        "gateway/cache/cache.py",
        "flight_key if joined < _MOST_JOINED else None",
        "flight_key",
        "tests/iam/test_identity_by_user.py::test_many_tokens_of_one_user_do_not_wait_for_each_other_in_turn",
    ),
    Mechanism(
        "who joined a fetch",
        "gateway/cache/cache.py",
        "if decision is None or identified_anew(eligible, self.identity_reader) is not eligible:",
        "if decision is None:",
        "tests/iam/test_identity_by_user.py::"
        "test_who_joined_a_fetch_is_not_given_it_once_its_own_token_is_refused",
    ),
    Mechanism(
        "the end of the word",
        "gateway/iam/verifier.py",
        "if known is None or self._clock.monotonic_s() >= known.ends_s:",
        "if known is None:",
        "tests/iam/test_identity_by_user.py::test_it_never_counts_until_the_tokens_end",
    ),
    Mechanism(
        "swept",
        "gateway/iam/verifier.py",
        "            if over or due:\n",
        "            if False:\n",
        "tests/iam/test_identity_by_user.py::test_iams_word_counts_for_a_while_and_is_asked_for_again_while_the_token_is_used",
    ),
    Mechanism(
        "identified anew",
        "gateway/app/gateway.py",
        "        self.waits.identify_anew(tokens)\n",
        "",
        "tests/iam/test_identity_by_user.py::test_who_waits_is_looked_up_anew_when_iams_word_has_ended",
    ),
    Mechanism(
        "few questions",
        "gateway/iam/verifier.py",
        "await asyncio.sleep(self._interval_s)",
        "pass",
        "tests/iam/test_identity_by_user.py::test_many_new_tokens_are_asked_about_one_after_the_other",
    ),
    Mechanism(
        "a share of the questions",
        "gateway/iam/verifier.py",
        "self._interval_s = processes / config.max_per_s",
        "self._interval_s = 1 / config.max_per_s",
        "tests/iam/test_questions.py::test_two_workers_together_ask_no_more_often_than_one_may",
    ),
    Mechanism(
        "left alone",
        "gateway/iam/verifier.py",
        "self._resumes_s = now_s + _THROTTLED_S",
        "pass",
        "tests/iam/test_identity_by_user.py::test_iams_429_stops_all_questions",
    ),
    Mechanism(
        "sealed word",
        "gateway/store/token_owners.py",
        "if value is None or not hmac.compare_digest(\n"
        "            value[-_TAG_BYTES:], self._tag(name, value[:-_TAG_BYTES])\n"
        "        ):",
        "if value is None:",
        "tests/iam/test_identity_by_user.py::test_gateways_with_a_secret_share_iams_word_in_redis",
    ),
    Mechanism(
        "checked certificate",
        "gateway/iam/client.py",
        "ssl=self.tls or True",
        "ssl=False",
        "tests/iam/test_questions.py::test_an_impostor_is_not_sent_the_token",
    ),
    Mechanism(
        "no redirect",
        "gateway/iam/client.py",
        "allow_redirects=False",
        "allow_redirects=True",
        "tests/iam/test_questions.py::test_a_redirect_is_not_followed_and_no_cookie_is_kept",
    ),
    Mechanism(
        "unread log",
        "gateway/telemetry/log_format.py",
        "self._writer.write(self.format(record))",
        "print(self.format(record), file=sys.__stderr__, flush=True)",
        "tests/telemetry/test_line_writer.py::test_an_unread_log_blocks_no_response_no_scrape_and_no_exit",
    ),
    Mechanism(
        "allowed requests only",
        "gateway/core/http/credentials.py",
        'if not self._allowed.fullmatch(method + b" " + path):',
        "if False:",
        "tests/credentials/test_admission.py::"
        "test_nothing_outside_the_list_and_no_web_page_reaches_aos_with_the_gateways_credentials",
    ),
    Mechanism(
        "no web page",
        "gateway/core/http/credentials.py",
        'if first(fields, b"origin") is not None or any(site not in _NO_BROWSER for site in sites):',
        "if False:",
        "tests/credentials/test_admission.py::test_a_web_page_may_not_use_them",
    ),
    Mechanism(
        "no part of credentials",
        "gateway/core/http/credentials.py",
        "            if not (any(values(fields, _TOKEN)) or signature.is_signed(fields)):\n",
        "            if False:\n",
        "tests/credentials/test_admission.py::test_credentials_in_part_are_refused",
    ),
    Mechanism(
        "client token",
        "gateway/core/http/credentials.py",
        "        if not is_client:\n",
        "        if False:\n",
        "tests/credentials/test_admission.py::"
        "test_the_client_token_is_needed_where_there_is_one_and_goes_no_further",
    ),
    Mechanism(
        "pause after a refusal",
        "gateway/credentials/password.py",
        '            self._pause("IAM refuses them", _REFUSED_S)\n',
        '            self._why = "IAM refuses them"\n',
        "tests/credentials/test_password.py::"
        "test_after_iam_has_refused_the_pauses_grow_and_a_reload_asks_at_once",
    ),
    Mechanism(
        "one renewal in half a minute",
        "gateway/credentials/password.py",
        "if now_s < self._refused_s + _BETWEEN_S or (",
        "if (",
        "tests/credentials/test_password.py::test_another_401_after_half_a_minute_renews_it_again",
    ),
    Mechanism(
        "whose credentials",
        "gateway/upstream/upstream.py",
        "if self.credentials.description() != lent:",
        "if False:",
        "tests/credentials/test_access_key.py::"
        "test_a_request_of_before_a_reload_is_not_made_as_the_new_identity",
    ),
    Mechanism(
        "no write after a 401",
        "gateway/upstream/upstream.py",
        "                if body is None and exchange.method in _RETRIED_METHODS:\n",
        "                if True:\n",
        "tests/credentials/test_password.py::test_after_a_401_a_write_is_not_repeated_but_the_token_renewed",
    ),
    Mechanism(
        "bounded bodies",
        "gateway/upstream/held_bodies.py",
        "        if more_bytes > self.left_bytes:\n",
        "        if False:\n",
        "tests/credentials/test_access_key.py::"
        "test_bodies_beyond_the_bound_of_all_are_refused_until_there_is_room",
    ),
    Mechanism(
        "nothing of a secret",
        "gateway/credentials/password.py",
        'return _NO_WORD.sub("...", words) if is_shown else ""',
        "return words",
        "tests/credentials/test_password.py::"
        "test_no_piece_of_a_secret_is_in_log_metrics_errors_or_what_is_shown",
    ),
    Mechanism(
        "this machine's file",
        "gateway/credentials/token_file.py",
        'return ("token-file", self._path, self._host)',
        'return ("token-file", self._path)',
        "tests/credentials/test_token_file.py::"
        "test_redis_holds_no_piece_of_it_and_another_machines_gateway_none_of_its_records",
    ),
)


def fails_without(mechanism: Mechanism) -> bool:
    """Take a mechanism out of a copy and tell whether its test notices.

    Raises:
        LookupError: the mechanism's code does not stand there exactly once.
        AssertionError: pytest could not run the test at all.
    """
    with tempfile.TemporaryDirectory() as folder:
        for name in _COPIED:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, Path(folder, name), ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, folder)
        module = Path(folder, mechanism.module)
        text = module.read_text("utf-8")
        if text.count(mechanism.present) != 1:
            raise LookupError(f"{mechanism.name}: its code is not in {mechanism.module} exactly once")
        module.write_text(text.replace(mechanism.present, mechanism.removed), "utf-8")
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-m", "", mechanism.test],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=_TEST_S,
            check=False,
        )
    assert done.returncode in {0, 1}, f"{mechanism.name}: {done.stdout[-2000:]}{done.stderr[-500:]}"
    return done.returncode == 1


def main(names: Sequence[str]) -> int:
    """Try the named mechanisms, all without a name, and return how many tests noticed nothing."""
    if unknown := set(names) - {mechanism.name for mechanism in MECHANISMS}:
        raise SystemExit(f"no such mechanism: {', '.join(sorted(unknown))}")
    unnoticed = 0
    for mechanism in MECHANISMS:
        if names and mechanism.name not in names:
            continue
        noticed = fails_without(mechanism)
        unnoticed += not noticed
        print(f"{'fails' if noticed else 'STILL PASSES':<12}  without {mechanism.name}: {mechanism.test}")
    return unnoticed


if __name__ == "__main__":
    sys.exit(min(1, main(sys.argv[1:])))
