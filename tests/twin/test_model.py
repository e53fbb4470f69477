"""The modelled lives of stacks and executions, without sockets and clock."""

from collections import Counter
from itertools import pairwise
from random import Random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.twin import records
from gateway.twin.lifecycle import Plan, cancelled, draw_plan, view_at
from gateway.twin.model import Model, NameTakenError, RefusedError
from gateway.twin.phases import BEFORE_END, FAILURES, SUB_OUTCOMES, Phase
from gateway.twin.profiles import DEMO, EPOCH_S, LOAD, PROFILES, Profile, TwinError, profile_named
from gateway.twin.stack import Ending, Execution, Lifecycle, NewStack, Order, Stack

NOW_S = EPOCH_S
# Where in its life an object is, least first; all ends share a place.
STAGES = {Phase.PENDING: 0, Phase.RUNNING: 1}
STAGES.update(dict.fromkeys(BEFORE_END.values(), 2))
STAGES.update(dict.fromkeys(SUB_OUTCOMES, 3))
UNSETTLED = {Phase.PENDING, Phase.RUNNING, *BEFORE_END.values()}
CREATE = Order(lifecycle=Lifecycle.CREATE)
DELETE = Order(lifecycle=Lifecycle.DELETE)
UPGRADE = Order(lifecycle=Lifecycle.UPGRADE)

outcomes = st.sampled_from(list(SUB_OUTCOMES))


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    names = [f"element-{i}" for i in range(draw(st.integers(0, 6)))]
    total_s = draw(st.none() | st.floats(0.01, 100_000))
    rng = Random(draw(st.integers()))
    profile = draw(st.sampled_from(list(PROFILES.values())))
    return draw_plan(rng, profile.pace, draw(outcomes), names, created_s=NOW_S, total_s=total_s)


def new_stack(model: Model, name: str = "web", project: str = "project-a") -> Stack:
    return model.create_stack(project, NewStack(name=name, template_id="template"), NOW_S)


def with_shares(**shares: float) -> Profile:
    pairs = tuple((Phase(name), share) for name, share in shares.items())
    return msgspec.structs.replace(DEMO, outcome_shares=pairs)


@given(plans(), st.lists(st.floats(0, 1.2), min_size=2, max_size=30))
def test_an_execution_only_ever_goes_forward(plan: Plan, shares: list[float]) -> None:
    length_s = plan.ends_s - plan.created_s
    views = [view_at(plan, plan.created_s + length_s * share) for share in sorted(shares)]
    for before, after in pairwise(views):
        assert STAGES[before.phase] <= STAGES[after.phase]
        assert before.progress <= after.progress
        assert before.changes <= after.changes
        assert before.updated_s <= after.updated_s
        assert [sub.name for sub in before.subs] == [sub.name for sub in after.subs][: len(before.subs)]
        if before.changes == after.changes:
            assert before == after


@given(plans())
def test_sub_objects_settle_before_the_object(plan: Plan) -> None:
    for sub in plan.subs:
        assert plan.running_s <= sub.starts_s < sub.settles_s < plan.ends_s
    end = view_at(plan, plan.ends_s)
    assert end.phase is plan.outcome
    assert all(sub.phase not in UNSETTLED for sub in end.subs)
    just_before = view_at(plan, plan.changes_s[-2])
    assert just_before.phase in UNSETTLED
    assert all(sub.phase not in UNSETTLED for sub in just_before.subs)


@given(plans())
def test_progress_is_whole_at_a_success_and_before_it_but_at_no_other_end(plan: Plan) -> None:
    end = view_at(plan, plan.ends_s)
    assert (end.progress == 100) == (plan.outcome is Phase.SUCCEEDED)
    if plan.outcome is Phase.SUCCEEDED:
        before = view_at(plan, plan.progress[-1][0])
        assert (before.phase, before.progress) == (Phase.RUNNING, 100)


@given(plans())
def test_a_failure_names_its_reason_in_the_object_and_in_a_sub_object(plan: Plan) -> None:
    end = view_at(plan, plan.ends_s)
    has_failed = plan.outcome in (Phase.FAILED, Phase.CANCEL_FAILED)
    assert (end.phase in FAILURES) == has_failed
    assert any(sub.phase in FAILURES for sub in end.subs) == (has_failed and bool(end.subs))


@given(plans(), st.floats(0, 0.999), st.floats(0, 100))
def test_a_cancelled_execution_stops_where_it_was(plan: Plan, share: float, linger_s: float) -> None:
    now_s = plan.created_s + (plan.ends_s - plan.created_s) * share
    before = view_at(plan, now_s)
    stopped = cancelled(plan, now_s, linger_s)
    end = view_at(stopped, stopped.ends_s)
    assert stopped.ends_s == now_s + linger_s
    assert end.phase is Phase.CANCELLED
    assert end.progress == before.progress
    assert [sub.name for sub in end.subs] == [sub.name for sub in before.subs]
    assert all(sub.phase not in UNSETTLED for sub in end.subs)
    if linger_s > 1:
        assert view_at(stopped, now_s).phase is Phase.CANCELLING


def test_a_demo_execution_takes_six_to_eight_seconds() -> None:
    model = Model(DEMO, 1)
    for i in range(200):
        plan = model.start(new_stack(model, f"stack-{i}"), CREATE, NOW_S).plan
        assert plan.outcome is Phase.SUCCEEDED
        assert 6 <= plan.ends_s - plan.created_s <= 8


def test_a_stack_has_no_execution_until_one_is_ordered() -> None:
    stack = new_stack(Model(DEMO, 1))
    assert stack.last is None
    assert not stack.executions


def a_life(model: Model) -> list[bytes]:
    """Everything a stack shows through create, cancelled upgrade, retry and delete."""
    stack = new_stack(model)
    bodies = []

    def show(execution: Execution, now_s: float) -> None:
        for render in (records.single, records.listed):
            bodies.append(records.dump(render(stack, execution, now_s, DEMO), compact=False))

    now_s = NOW_S
    for order in (CREATE, UPGRADE, Order(lifecycle=Lifecycle.RETRY), DELETE):
        execution = model.start(stack, order, now_s)
        for _ in range(30):
            show(stack.executions[execution.name], now_s)
            now_s += 0.5
            if order is UPGRADE and now_s > execution.plan.running_s and execution.is_under_way(now_s):
                execution = model.cancel(stack, now_s)
    return bodies


def test_the_same_seed_gives_the_same_bytes() -> None:
    assert a_life(Model(DEMO, 7)) == a_life(Model(DEMO, 7))


def test_another_seed_gives_other_ids_and_times() -> None:
    assert not set(a_life(Model(DEMO, 7))) & set(a_life(Model(DEMO, 8)))


def test_stacks_do_not_depend_on_what_happens_to_others() -> None:
    alone, crowded = Model(DEMO, 7), Model(DEMO, 7)
    for name in ("one", "two", "three"):
        crowded.start(new_stack(crowded, name), CREATE, NOW_S)
    assert a_life(alone) == a_life(crowded)


def test_the_resource_version_of_stack_and_record_grows_with_every_change() -> None:
    model = Model(DEMO, 3)
    stack = new_stack(model)
    seen = [stack.version(NOW_S)]
    now_s = NOW_S
    for order in (CREATE, UPGRADE, UPGRADE):
        execution = model.start(stack, order, now_s)
        view = execution.view(now_s)
        while stack.last is not None and stack.last.is_under_way(now_s):
            if order is UPGRADE and now_s - execution.plan.created_s > 3:
                model.cancel(stack, now_s)
            now_s += 0.2
            changed = view != stack.executions[execution.name].view(now_s)
            view = stack.executions[execution.name].view(now_s)
            version = stack.version(now_s)
            assert version > seen[-1] if changed else version >= seen[-1]
            assert version == stack.executions[execution.name].version(now_s)
            seen.append(version)


def test_a_cancel_at_the_moment_of_the_creation_changes_the_version_too() -> None:
    model = Model(DEMO, 3)
    stack = new_stack(model)
    started = model.start(stack, CREATE, NOW_S)
    stopped = model.cancel(stack, NOW_S)
    assert stopped.name == started.name
    assert stopped.version(NOW_S) > started.version(NOW_S)
    assert stopped.view(NOW_S + DEMO.cancel_s).phase is Phase.CANCELLED


def test_a_repeated_cancel_does_not_put_off_the_end() -> None:
    model = Model(DEMO, 3)
    stack = new_stack(model)
    model.start(stack, CREATE, NOW_S)
    stopped = model.cancel(stack, NOW_S + 2)
    assert model.cancel(stack, NOW_S + 2 + DEMO.cancel_s / 2) is stopped


def test_a_delete_runs_and_then_nothing_of_the_stack_is_left() -> None:
    model = Model(DEMO, 1)
    stack = new_stack(model)
    create = model.start(stack, CREATE, NOW_S)
    now_s = create.plan.ends_s
    delete = model.delete(stack, DELETE, now_s, force=False)
    assert delete.last_action_id == create.name
    phases = set()
    while now_s < delete.plan.ends_s:
        found = model.stack("project-a", stack.guid, now_s)
        assert found is stack
        assert create.name in found.executions
        phases.add(found.executions[delete.name].view(now_s).phase)
        now_s += 0.1
    assert phases == {Phase.PENDING, Phase.RUNNING}
    assert model.stack("project-a", stack.guid, delete.plan.ends_s) is None
    assert model.stacks("project-a", delete.plan.ends_s) == []


def test_a_delete_cancels_what_is_under_way() -> None:
    model = Model(DEMO, 1)
    stack = new_stack(model)
    create = model.start(stack, CREATE, NOW_S)
    delete = model.delete(stack, DELETE, NOW_S + 3, force=False)
    assert stack.executions[create.name].view(NOW_S + 3).phase is Phase.CANCELLED
    assert stack.last is delete


def test_a_failed_delete_leaves_the_stack() -> None:
    model = Model(DEMO, 1)
    stack = new_stack(model)
    order = msgspec.structs.replace(DELETE, ending=Ending(outcome=Phase.FAILED))
    delete = model.delete(stack, order, NOW_S, force=False)
    assert model.stack("project-a", stack.guid, delete.plan.ends_s) is stack
    again = model.delete(stack, DELETE, delete.plan.ends_s, force=True)
    assert model.stack("project-a", stack.guid, again.plan.ends_s) is None


def test_a_second_delete_is_refused_unless_it_is_forced_and_then_ends_at_once() -> None:
    model = Model(DEMO, 1)
    stack = new_stack(model)
    model.delete(stack, DELETE, NOW_S, force=False)
    with pytest.raises(RefusedError, match="executing another lifecycle"):
        model.delete(stack, DELETE, NOW_S + 1, force=False)
    model.delete(stack, DELETE, NOW_S + 1, force=True)
    assert model.stack("project-a", stack.guid, NOW_S + 1.1) is None


def test_a_name_is_free_again_after_a_delete_and_gets_another_id() -> None:
    model = Model(DEMO, 1)
    stack = new_stack(model)
    with pytest.raises(NameTakenError):
        new_stack(model)
    ends_s = model.delete(stack, DELETE, NOW_S, force=False).plan.ends_s
    again = model.create_stack("project-a", stack.new, ends_s)
    assert again.guid != stack.guid


def test_projects_do_not_see_each_other() -> None:
    model = Model(DEMO, 1)
    mine, theirs = new_stack(model, project="project-a"), new_stack(model, project="project-b")
    assert mine.guid != theirs.guid
    assert model.stack("project-b", mine.guid, NOW_S) is None
    assert model.stacks("project-b", NOW_S) == [theirs]


def test_one_execution_at_a_time() -> None:
    model = Model(DEMO, 1)
    stack = new_stack(model)
    with pytest.raises(RefusedError, match="executes no lifecycle"):
        model.cancel(stack, NOW_S)
    model.start(stack, CREATE, NOW_S)
    with pytest.raises(RefusedError, match="executing another lifecycle"):
        model.start(stack, UPGRADE, NOW_S + 1)


def test_the_oldest_records_and_the_surplus_stacks_go() -> None:
    model = Model(msgspec.structs.replace(DEMO, max_executions_per_stack=3, max_stacks=2), 1)
    stack = new_stack(model)
    names = [model.start(stack, UPGRADE, NOW_S + 10 * i).name for i in range(5)]
    assert list(stack.executions) == names[2:]
    assert [execution.name for execution in stack.newest(2)] == names[:2:-1]
    other = new_stack(model, "other")
    with pytest.raises(RefusedError, match="has reached its limit"):
        new_stack(model, "third")
    ends_s = model.delete(other, DELETE, NOW_S, force=False).plan.ends_s
    model.create_stack("project-a", NewStack(name="third", template_id="template"), ends_s)


def test_outcomes_follow_the_shares_of_the_profile() -> None:
    model = Model(with_shares(Succeeded=0.5, Failed=0.3, Cancelled=0.2), 1)
    counts = Counter(
        model.start(new_stack(model, f"stack-{i}"), CREATE, NOW_S).plan.outcome for i in range(1_000)
    )
    assert 430 < counts[Phase.SUCCEEDED] < 570
    assert 230 < counts[Phase.FAILED] < 370
    assert 130 < counts[Phase.CANCELLED] < 270


def test_forced_ends_apply_to_the_next_executions_unless_they_say_their_own() -> None:
    model = Model(DEMO, 1)
    model.forced = [Ending(outcome=Phase.PAUSED, duration_s=10.0)] * 2
    own = msgspec.structs.replace(CREATE, ending=Ending(outcome=Phase.FORCE_CANCELLED))
    orders = [CREATE, own, CREATE, CREATE]
    plans = [model.start(new_stack(model, f"stack-{i}"), order, NOW_S).plan for i, order in enumerate(orders)]
    expected = [Phase.PAUSED, Phase.FORCE_CANCELLED, Phase.PAUSED, Phase.SUCCEEDED]
    assert [plan.outcome for plan in plans] == expected
    assert model.forced == []


@pytest.mark.parametrize("outcome", list(SUB_OUTCOMES))
def test_each_outcome_can_be_forced(outcome: Phase) -> None:
    model = Model(DEMO, 1)
    order = msgspec.structs.replace(CREATE, ending=Ending(outcome=outcome, duration_s=20.0))
    execution = model.start(new_stack(model), order, NOW_S)
    assert execution.view(NOW_S + 20).phase is outcome
    if outcome is Phase.SUCCEEDED:
        assert execution.plan.ends_s == pytest.approx(NOW_S + 20)


def test_the_load_profile_begins_with_settled_and_running_records() -> None:
    assert LOAD.preset is not None
    model = Model(LOAD, 1)
    stacks = model.stacks("load", EPOCH_S)
    views = [execution.view(EPOCH_S) for stack in stacks for execution in stack.executions.values()]
    counts = Counter(view.phase for view in views)
    assert len(stacks) == LOAD.preset.stacks
    assert counts.pop(Phase.PENDING) == LOAD.preset.running_stacks
    assert set(counts) == {Phase.SUCCEEDED, Phase.FAILED, Phase.CANCELLED}
    assert counts.total() == LOAD.preset.stacks * LOAD.preset.executions_per_stack


def test_a_record_of_the_load_profile_is_about_a_kilobyte_and_a_quarter() -> None:
    stacks = Model(LOAD, 1).stacks("load", EPOCH_S)
    sizes = [
        len(records.dump(records.single(stack, stack.newest(2)[-1], EPOCH_S, LOAD), compact=True))
        for stack in stacks
    ]
    assert 1_150 < sum(sizes) / len(sizes) < 1_350


def test_the_error_for_an_unknown_profile_lists_the_known_ones() -> None:
    assert profile_named("demo") is DEMO
    with pytest.raises(TwinError) as unknown:
        profile_named("fast\n")
    assert (
        str(unknown.value) == "unknown twin profile 'fast\\n'; choose one of demo, load, realistic, throttled"
    )
