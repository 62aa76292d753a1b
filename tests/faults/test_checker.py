"""A run under misfortune keeps the promise; and the checker that says so finds each way of breaking it."""

from collections.abc import Callable, Iterator, Sequence
from itertools import combinations, pairwise
from pathlib import Path

import pytest

from tests.faults import checker
from tests.faults.history import Event, History
from tests.faults.ledger import Answer, Ledger, Stream
from tests.faults.tally import Tally

pytestmark = pytest.mark.timeout(300)
Corruption = Callable[[Ledger], list[Event]]


def test_a_run_under_misfortune_keeps_every_rule(stormy: History, test_models: Path) -> None:
    counts = Tally(stormy).update()
    assert counts["kills"]
    assert counts["pauses"]
    assert counts["failovers with a lagging replica"]
    assert counts["takeovers"]
    assert counts["replays"]
    assert counts["timesteps"] > 1000
    violations = checker.check(stormy.events, test_models)
    assert not violations, checker.excerpt(stormy.events, violations[0])


# ---- corruptions: each gives the events of a history that was broken in one place


def changed(ledger: Ledger, *changes: tuple[Event, dict[str, object]]) -> list[Event]:
    """The history with these events having other fields."""
    others = {id(event): {**event, **fields} for event, fields in changes}
    return [others.get(id(event), event) for event in ledger.events]


def answers(ledger: Ledger, model: str = "checker") -> Iterator[Answer]:
    for life in ledger.lives.values():
        if life.event["model"] == model:
            yield from life.answers


def some_answer(ledger: Ledger, fits: Callable[[Answer], bool], model: str = "checker") -> Answer:
    """One from the middle of the history."""
    fitting = [answer for answer in answers(ledger, model) if fits(answer)]
    return fitting[len(fitting) // 2]


def some_stream(ledger: Ledger, fits: Callable[[Stream], object]) -> Stream:
    return next(stream for stream in ledger.streams.values() if stream.opened and fits(stream))


def fresh(answer: Answer) -> bool:
    return not answer.event["replayed"] and answer.first > 40


def an_advance_that_counts_twice(ledger: Ledger) -> list[Event]:
    answer = some_answer(ledger, fresh)
    reference = answer.stream.life.reference
    after = reference.state(answer.branch, answer.step)
    twice = reference.after(after, answer.branch, answer.first, answer.count)
    return changed(ledger, (answer.event, {"outputs": twice}))


def an_advance_that_does_not_count(ledger: Ledger) -> list[Event]:
    answer = some_answer(ledger, fresh)
    reference = answer.stream.life.reference
    before = reference.state(answer.branch, answer.first - 2)
    return changed(
        ledger, (answer.event, {"outputs": reference.after(before, answer.branch, answer.first, answer.count)})
    )


def a_message_that_is_executed_again(ledger: Ledger) -> list[Event]:
    for life in ledger.lives.values():
        first: dict[tuple[int, int], Answer] = {}
        for answer in life.answers:
            before = first.setdefault((answer.branch, answer.step), answer)
            durable = not before.event["replayed"] and before.event["durable"] >= answer.step
            if durable and answer.event["replayed"] and not ledger.store_may_have_lost(before.asked_at, answer.at):
                return changed(ledger, (answer.event, {"replayed": False}))
    raise LookupError


def one_other_output(ledger: Ledger) -> list[Event]:
    answer = some_answer(ledger, fresh)
    outputs = list(answer.event["outputs"])
    outputs[-1] ^= 1
    return changed(ledger, (answer.event, {"outputs": outputs}))


def one_float_that_is_off(ledger: Ledger) -> list[Event]:
    answer = some_answer(ledger, fresh, "lstm")
    outputs = list(answer.event["outputs"])
    outputs[0] += 2e-5
    return changed(ledger, (answer.event, {"outputs": outputs}))


def the_outputs_of_two_sessions_swapped(ledger: Ledger) -> list[Event]:
    one = some_answer(ledger, fresh)
    other = some_answer(ledger, lambda a: fresh(a) and a.stream.life is not one.stream.life and a.count == one.count)
    return changed(
        ledger,
        (one.event, {"outputs": other.event["outputs"]}),
        (other.event, {"outputs": one.event["outputs"]}),
    )


def a_replay_of_other_bytes(ledger: Ledger) -> list[Event]:
    seen: set[tuple[object, int, int]] = set()
    for answer in answers(ledger):
        key = (answer.stream.life, answer.branch, answer.step)
        if answer.event["replayed"] and key in seen:
            return changed(ledger, (answer.event, {"digest": "00" * 8}))
        seen.add(key)
    raise LookupError


def a_regression_that_was_not_reported(ledger: Ledger) -> list[Event]:
    stream = some_stream(ledger, lambda stream: stream.event["accept"] is not None)
    return changed(ledger, (stream.event, {"accept": None}))


def an_open_behind_what_was_durable(ledger: Ledger) -> list[Event]:
    stream = some_stream(ledger, lambda stream: stream.event["durable"] > 0 and stream.event["accept"] is None)
    return changed(ledger, (stream.opened or {}, {"step": stream.event["durable"] - 1}))


def a_durable_step_that_falls(ledger: Ledger) -> list[Event]:
    answer = some_answer(ledger, lambda answer: len(answer.stream.answers) > 2 and answer is answer.stream.answers[-1])
    return changed(ledger, (answer.event, {"durable": answer.stream.answers[-2].event["durable"] - 1}))


def another_digest_of_the_same_step(ledger: Ledger) -> list[Event]:
    """Of a step that was told twice: with one reply lost, the other has nothing to differ from."""
    answer = next(
        again
        for life in ledger.lives.values()
        for first, again in combinations(life.answers, 2)
        if again.event["replayed"] and (first.branch, first.step) == (again.branch, again.step)
    )
    return changed(ledger, (answer.event, {"h": "00" * 16}))


def an_epoch_granted_twice(ledger: Ledger) -> list[Event]:
    streams = next(
        opened
        for life in ledger.lives.values()
        if len(opened := [stream for stream in life.streams if stream.opened and stream.via == "stream"]) > 1
    )
    first, second = streams[0].opened, streams[1].opened
    assert first
    assert second
    return changed(ledger, (second, {"epoch": first["epoch"]}))


def a_commit_of_an_owner_that_was_displaced(ledger: Ledger) -> list[Event]:
    for life in ledger.lives.values():
        claims = [stream for stream in life.streams if stream.opened and stream.via == "stream"]
        for older, newer in pairwise(claims):
            if older.answers and newer.opened and not ledger.store_may_have_lost(older.at, newer.opened_at):
                beyond = newer.opened["step"] + 1
                return changed(ledger, (older.answers[-1].event, {"durable": beyond}))
    raise LookupError


def an_empty_state_under_a_resume_point(ledger: Ledger) -> list[Event]:
    stream = some_stream(ledger, lambda stream: stream.event["step"] > 0 and stream.via == "stream")
    return changed(ledger, (stream.opened or {}, {"created": True}))


def a_closed_session_that_goes_on(ledger: Ledger) -> list[Event]:
    for life in ledger.lives.values():
        opened = [stream for stream in life.streams if stream.opened and stream.via == "stream"]
        for before, after in pairwise(opened):
            if life.closed_at is None and not ledger.store_may_have_lost(before.at, after.opened_at):
                step = before.event["step"]
                told = [{"k": kind, "t": 0, "stream": before.event["stream"], "step": step} for kind in CLOSING]
                return [*ledger.events[: after.at], *told, *ledger.events[after.at :]]
    raise LookupError


CLOSING = ("close", "closed")


def a_key_that_stays(ledger: Ledger) -> list[Event]:
    return [*ledger.events, {"k": "census", "t": 0, "name": "keys", "place": "after", "count": 2}]


def a_client_that_hangs(ledger: Ledger) -> list[Event]:
    last = max(at for at, event in enumerate(ledger.events) if event["k"] == "left")
    return [event for at, event in enumerate(ledger.events) if at != last]


def a_drain_that_fails(ledger: Ledger) -> list[Event]:
    return [*ledger.events, {"k": "exited", "t": 0, "target": "r0", "asked": "TERM", "status": 1}]


def an_error_without_a_cause(ledger: Ledger) -> list[Event]:
    stream = some_stream(ledger, lambda stream: stream.via == "stream")
    return [*ledger.events, {"k": "ended", "t": 0, "stream": stream.event["stream"], "reason": "INTERNAL"}]


def a_lone_client_told_of_a_rival(ledger: Ledger) -> list[Event]:
    stream = some_stream(ledger, lambda stream: not stream.life.event["rivals"])
    return [*ledger.events, {"k": "ended", "t": 0, "stream": stream.event["stream"], "reason": "SUPERSEDED"}]


def a_reply_that_nobody_asked_for(ledger: Ledger) -> list[Event]:
    answer = some_answer(ledger, fresh)
    return [*ledger.events, {**answer.event, "step": answer.step + 1_000_000}]


FOUND: Sequence[tuple[Corruption, type[checker.Violation]]] = (
    (an_advance_that_counts_twice, checker.DoubleAdvance),
    (an_advance_that_does_not_count, checker.LostAdvance),
    (a_message_that_is_executed_again, checker.DoubleAdvance),
    (one_other_output, checker.WrongState),
    (one_float_that_is_off, checker.WrongState),
    (the_outputs_of_two_sessions_swapped, checker.Mixed),
    (a_replay_of_other_bytes, checker.OtherReplay),
    (a_regression_that_was_not_reported, checker.SilentLoss),
    (an_open_behind_what_was_durable, checker.SilentLoss),
    (a_durable_step_that_falls, checker.SilentLoss),
    (another_digest_of_the_same_step, checker.SilentLoss),
    (an_epoch_granted_twice, checker.Fenced),
    (a_commit_of_an_owner_that_was_displaced, checker.Fenced),
    (an_empty_state_under_a_resume_point, checker.Resurrection),
    (a_closed_session_that_goes_on, checker.Resurrection),
    (a_key_that_stays, checker.Leak),
    (a_client_that_hangs, checker.Stuck),
    (a_drain_that_fails, checker.BadDrain),
    (an_error_without_a_cause, checker.Surprise),
    (a_lone_client_told_of_a_rival, checker.Surprise),
    (a_reply_that_nobody_asked_for, checker.Surprise),
)


@pytest.mark.parametrize(("corruption", "kind"), FOUND, ids=[corruption.__name__ for corruption, _ in FOUND])
def test_the_checker_finds(
    corruption: Corruption, kind: type[checker.Violation], stormy: History, test_models: Path
) -> None:
    broken = corruption(Ledger(stormy.events, test_models))
    assert kind in {type(violation) for violation in checker.check(broken, test_models)}
