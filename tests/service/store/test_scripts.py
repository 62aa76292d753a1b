"""Each script on a real store: its answer in every case, and every field that it changes."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from cellwire.cli.embedded import EmbeddedStore
from service.store.scripts import (
    CLAIM,
    CLOSE,
    COMMIT,
    HEARTBEAT,
    KILL,
    PEEK,
    RELEASE,
    Granted,
    Item,
    Kill,
    Owner,
    Peek,
    Script,
    claim_answer,
    peek_answer,
)
from service.values import MAX_STEP, Checkpoint, Mode, ResumePoint
from tests.scripted import (
    ALICE,
    BOB,
    LEASE,
    MAX_LEASE,
    MODEL,
    RING,
    TOMBSTONE,
    TTL,
    Held,
    Scripted,
    claim,
    digest,
    new_key,
    new_nonce,
)

STATES = ("missing", "held", "free", "closed")


@pytest.fixture
def store(store_url: str) -> Iterator[Scripted]:
    scripted = Scripted(store_url)
    yield scripted
    scripted.redis.close()


def advanced(store: Scripted, key: bytes, steps: int = 3) -> Held:
    """Alice's session, held, at this step: with a ring of two it no longer knows h(0)."""
    session = store.claimed(claim(key))
    for step in range(1, steps + 1):
        commit = session.commit(step)
        assert store.ask(COMMIT, commit) == b"OK %d" % step
        session = session.after(commit)
    return session


def h_of(step: int) -> bytes:
    """The digest of Alice's session at a step."""
    h = digest(ALICE)
    for at in range(1, step + 1):
        h = digest(h, at)
    return h


def prepared(store: Scripted, state: str) -> tuple[bytes, Held | None]:
    """A key in one of STATES; from `held` on it is Alice's session at step 3."""
    key = new_key()
    if state == "missing":
        return key, None
    session = advanced(store, key)
    if state == "free":
        assert store.ask(RELEASE, session.release()) == b"OK"
    elif state == "closed":
        assert store.ask(CLOSE, session.close()) == b"OK 3"
    return key, session


def point(step: int, h: bytes | None = None, durable: int | None = None, **fields: Any) -> ResumePoint:
    received = Checkpoint(step, h_of(step) if h is None else h)
    return ResumePoint(received, step if durable is None else durable, **fields)


# ---- claim

WRONG = b"w" * 16
FOUND = object()
"""Stands for the epoch that the key has."""

REFUSED: list[tuple[str, str, dict[str, Any], str]] = [
    ("nothing to resume", "missing", {"mode": Mode.RESUME}, "UNKNOWN"),
    ("a known epoch, and nothing there", "missing", {"mode": Mode.RESUME, "found_epoch": 5}, "MISSING"),
    ("a resume point never creates", "missing", {"resume_point": point(3)}, "MISSING"),
    ("nor one of a durable step alone", "missing", {"resume_point": point(0, durable=3)}, "MISSING"),
    ("nor for create", "missing", {"mode": Mode.CREATE, "resume_point": point(3)}, "MISSING"),
    ("a late create of what was there", "missing", {"mode": Mode.CREATE, "found_epoch": 5}, "STALE_OPEN"),
    ("a late create or resume", "missing", {"found_epoch": 5}, "STALE_OPEN"),
    ("closed, the same token", "closed", {"found_epoch": FOUND}, "CLOSED"),
    ("closed, create by the same token", "closed", {"mode": Mode.CREATE, "found_epoch": FOUND}, "CLOSED"),
    ("closed, resume", "closed", {"mode": Mode.RESUME, "incarnation": BOB, "found_epoch": FOUND}, "CLOSED"),
    ("closed, resume without a token", "closed", {"mode": Mode.RESUME, "incarnation": b""}, "CLOSED"),
    (
        "closed, a resume point",
        "closed",
        {"incarnation": BOB, "found_epoch": FOUND, "resume_point": point(3)},
        "CLOSED",
    ),
    (
        "closed, another life named",
        "closed",
        {"incarnation": b"", "mode": Mode.RESUME, "resume_point": point(3, incarnation=BOB)},
        "INCARNATION",
    ),
    ("a late create over a tombstone", "closed", {"incarnation": BOB}, "STALE_OPEN"),
    ("create, and another has the id", "held", {"incarnation": BOB, "mode": Mode.CREATE}, "EXISTS"),
    ("resume with another token", "held", {"incarnation": BOB, "mode": Mode.RESUME}, "UNKNOWN"),
    ("another token is no token", "held", {"incarnation": BOB, "found_epoch": FOUND}, "BUSY"),
    ("leased, and no token", "held", {"incarnation": b"", "mode": Mode.RESUME, "found_epoch": FOUND}, "BUSY"),
    ("a late takeover", "held", {}, "STALE_OPEN"),
    ("a takeover of another epoch", "held", {"found_epoch": 5}, "STALE_OPEN"),
    ("free, another epoch", "free", {"found_epoch": 5}, "STALE_OPEN"),
    ("free, no token, no epoch", "free", {"incarnation": b"", "mode": Mode.RESUME}, "STALE_OPEN"),
    ("a late restart", "held", {"incarnation": BOB, "mode": Mode.RESTART, "found_epoch": 5}, "STALE_OPEN"),
    (
        "another life named",
        "held",
        {"incarnation": b"", "mode": Mode.RESUME, "resume_point": point(3, incarnation=BOB)},
        "INCARNATION",
    ),
    ("another model", "held", {"name": "n", "found_epoch": FOUND}, "MODEL_CHANGED"),
    ("another version", "held", {"asked_version": "2", "found_epoch": FOUND}, "MODEL_CHANGED"),
    ("another file", "held", {"served": ("m/1/" + "00" * 16,), "found_epoch": FOUND}, "MODEL_CHANGED"),
    ("a version that is elsewhere", "held", {"served": ("m/2/" + "ab" * 16,), "found_epoch": FOUND}, "MODEL_NOT_HERE"),
    ("no model at all", "held", {"served": (), "found_epoch": FOUND}, "MODEL_NOT_HERE"),
    ("another way to the last step", "held", {"resume_point": point(3, WRONG), "found_epoch": FOUND}, "LINEAGE"),
    ("another way to a ring step", "held", {"resume_point": point(2, WRONG), "found_epoch": FOUND}, "LINEAGE"),
    ("another way to before the ring", "held", {"resume_point": point(1, WRONG), "found_epoch": FOUND}, "LINEAGE"),
    (
        "another way, told above the durable step",
        "held",
        {"resume_point": point(5, durable=2, undurable=(Checkpoint(3, WRONG),)), "found_epoch": FOUND},
        "LINEAGE",
    ),
    ("older than the ring", "held", {"resume_point": point(0), "found_epoch": FOUND}, "TOO_OLD"),
    ("fell back", "held", {"resume_point": point(4), "found_epoch": FOUND}, "REGRESSED"),
    ("fell back behind the durable step", "held", {"resume_point": point(9, durable=4)}, "REGRESSED"),
    (
        "another step accepted",
        "held",
        {"resume_point": point(4), "accept_regression": Checkpoint(2, h_of(2)), "found_epoch": FOUND},
        "REGRESSED",
    ),
    (
        "another digest accepted",
        "held",
        {"resume_point": point(4), "accept_regression": Checkpoint(3, WRONG), "found_epoch": FOUND},
        "REGRESSED",
    ),
]


@pytest.mark.parametrize(("state", "fields", "why"), [case[1:] for case in REFUSED], ids=[c[0] for c in REFUSED])
def test_a_refused_claim_says_why_and_where_and_changes_nothing(
    store: Scripted, state: str, fields: dict[str, Any], why: str
) -> None:
    key, session = prepared(store, state)
    epoch = session.owner.epoch if session else 0
    fields = {name: epoch if value is FOUND else value for name, value in fields.items()}
    before = store.seen(key)
    answer = store.ask(CLAIM, claim(key, **fields))
    assert isinstance(answer, list)
    assert answer[0].decode() == why
    assert answer[1:4] == [b"%d" % epoch, b"3" if session else b"0", h_of(3) if session else b""]
    if why == "BUSY":
        assert 0 < int(answer[4]) <= LEASE
    else:
        assert answer[4] == (MODEL.encode() if why.startswith("MODEL") else b"")
    assert store.seen(key) == before


def test_a_claim_creates_a_session(store: Scripted) -> None:
    key, start = new_key(), store.now()
    item = claim(key, flags=b"u")
    answer = store.ask(CLAIM, item)
    end = store.now()
    fields = store.fields(key)
    epoch, updated = int(fields.pop("e")), int(fields.pop("u"))
    assert start <= epoch <= end
    assert start // 1000 <= updated <= end // 1000
    assert fields == {
        "i": ALICE,
        "o": item.nonce,
        "p": b"0",
        "n": b"0",
        "h": item.h0,
        "s": item.state,
        "c": b"0",
        "x": item.options,
        "m": MODEL.encode(),
        "l": b"%d" % (updated + LEASE),
        "f": b"u",
    }
    assert updated + TTL <= store.expires(key) <= end // 1000 + 1 + TTL
    assert isinstance(answer, list)
    assert claim_answer(answer) == Granted(
        "created", epoch, 0, ALICE, MODEL, 0, item.h0, 0, b"u", item.options, item.state, ()
    )


@pytest.mark.parametrize("state", ["held", "free"])
def test_its_holder_takes_a_session_over_with_the_epoch_that_it_knows(store: Scripted, state: str) -> None:
    key, session = prepared(store, state)
    assert session
    before, start = store.fields(key), store.now()
    item = claim(key, mode=Mode.RESUME, found_epoch=session.owner.epoch, resume_point=point(3))
    answer = store.ask(CLAIM, item)
    end, after = store.now(), store.fields(key)
    epoch, updated = int(after["e"]), int(after["u"])
    assert after == before | {
        "e": b"%d" % epoch,
        "o": item.nonce,
        "p": before["e"],
        "l": b"%d" % (updated + LEASE),
        "u": after["u"],
    }
    assert session.owner.epoch < epoch
    assert start <= epoch <= end
    assert isinstance(answer, list)
    granted = claim_answer(answer)
    assert isinstance(granted, Granted)
    assert granted.how == ("displaced" if state == "held" else "resumed")
    assert (granted.epoch, granted.displaced_epoch) == (epoch, session.owner.epoch)
    assert (granted.step, granted.h, granted.messages, granted.state) == (3, h_of(3), 3, b"state 3")
    assert sorted(granted.ring) == sorted((before["r0"], before["r1"]))


def test_the_same_nonce_again_is_told_its_claim_and_leaves_the_lease_alone(store: Scripted) -> None:
    key = new_key()
    item = claim(key)
    session = store.claimed(item)
    assert store.ask(RELEASE, session.release()) == b"OK"
    store.redis.pexpire(key, 1000)
    before = store.fields(key)
    again = store.claimed(item)
    assert again == session
    assert store.fields(key) == before
    assert store.redis.pttl(key) > 1000


def test_create_by_the_same_token_is_the_same_session(store: Scripted) -> None:
    key, session = prepared(store, "held")
    assert session
    again = store.claimed(claim(key, mode=Mode.CREATE, found_epoch=session.owner.epoch))
    assert (again.step, again.h) == (3, h_of(3))


def test_without_a_token_a_free_session_is_told_by_its_id(store: Scripted) -> None:
    key, session = prepared(store, "free")
    assert session
    again = store.claimed(claim(key, b"", Mode.RESUME, found_epoch=session.owner.epoch))
    assert again.owner.incarnation == ALICE
    assert again.step == 3


@pytest.mark.parametrize("offset", [-1, MAX_LEASE + 60_000], ids=["lapsed", "further ahead than any lease"])
def test_a_lease_that_cannot_be_is_no_lease(store: Scripted, offset: int) -> None:
    key, session = prepared(store, "held")
    assert session
    store.redis.hset(key, "l", store.now() // 1000 + offset)
    answer = store.ask(CLAIM, claim(key, b"", Mode.RESUME, found_epoch=session.owner.epoch))
    assert answer[:2] == [b"OK", b"resumed"]


@pytest.mark.parametrize(
    "fields",
    [
        {"resume_point": point(0), "skip_lost_replies": True},
        {"resume_point": point(4), "accept_regression": Checkpoint(3, h_of(3))},
        {"resume_point": point(5, durable=2, undurable=(Checkpoint(3, h_of(3)), Checkpoint(4, WRONG)))},
        {"resume_point": point(1)},
    ],
    ids=["lost replies given up", "the very fall accepted", "write-behind above the durable step", "in the ring"],
)
def test_a_resume_point_that_fits_goes_on(store: Scripted, fields: dict[str, Any]) -> None:
    key, session = prepared(store, "held")
    assert session
    again = store.claimed(claim(key, found_epoch=session.owner.epoch, **fields))
    assert (again.step, again.h) == (3, h_of(3))


@pytest.mark.parametrize(("state", "mode"), [("closed", Mode.CREATE), ("closed", Mode.CREATE_OR_RESUME)])
def test_another_token_makes_a_new_life_over_a_tombstone(store: Scripted, state: str, mode: Mode) -> None:
    key, session = prepared(store, state)
    assert session
    new = store.claimed(claim(key, BOB, mode, found_epoch=session.owner.epoch))
    fields = store.fields(key)
    assert (new.owner.incarnation, new.step) == (BOB, 0)
    assert new.owner.epoch > session.owner.epoch
    assert fields["p"] == b"%d" % session.owner.epoch
    assert fields["f"] == b""
    assert not {name for name in fields if name.startswith("r")}
    assert store.ask(COMMIT, session.commit()) == b"FENCED %d %d" % (new.owner.epoch, session.owner.epoch)


def test_a_restart_makes_a_new_life_over_a_live_one(store: Scripted) -> None:
    key, session = prepared(store, "held")
    assert session
    new = store.claimed(claim(key, BOB, Mode.RESTART, found_epoch=session.owner.epoch))
    assert (new.owner.incarnation, new.step) == (BOB, 0)
    assert store.ask(COMMIT, session.commit()) == b"FENCED %d %d" % (new.owner.epoch, session.owner.epoch)


def test_an_epoch_is_never_used_twice(store: Scripted) -> None:
    key = new_key()
    first = store.claimed(claim(key))
    store.redis.delete(key)
    second = store.claimed(claim(key))
    assert second.owner.epoch > first.owner.epoch
    # granted by a clock that was ahead: counted on, exactly up to the largest number
    store.redis.hset(key, "e", MAX_STEP - 1)
    third = store.claimed(claim(key, found_epoch=MAX_STEP - 1))
    assert third.owner.epoch == MAX_STEP
    assert store.fields(key)["e"] == b"%d" % MAX_STEP


@pytest.mark.parametrize("damage", [b"", b"short", b"\xff" * 48], ids=["empty", "short", "noise"])
def test_a_damaged_ring_record_costs_its_reply_and_not_the_session(store: Scripted, damage: bytes) -> None:
    key, session = prepared(store, "held")
    assert session
    store.redis.hset(key, "r0", damage)
    again = store.claimed(claim(key, found_epoch=session.owner.epoch, resume_point=point(2)))
    commit = again.commit("next")
    assert store.ask(COMMIT, commit) == b"OK 4"
    store.redis.hset(key, "r0", damage)
    assert store.ask(CLOSE, again.after(commit).close()) == b"OK 4"
    assert not {"s", "x"} & store.fields(key).keys()


# ---- commit

WRITES: dict[Script, Callable[[Held], Item]] = {
    COMMIT: Held.commit,
    HEARTBEAT: Held.heartbeat,
    RELEASE: Held.release,
    CLOSE: Held.close,
}


@pytest.mark.parametrize("lease", [LEASE, 0])
def test_a_commit_writes_the_checkpoint_and_its_record(store: Scripted, lease: int) -> None:
    key = new_key()
    session = store.claimed(claim(key))
    for count in range(2 * RING + 1):
        before, start = store.fields(key), store.now()
        commit = session.commit(count, steps=count + 1, lease_ms=lease)
        assert store.ask(COMMIT, commit) == b"OK %d" % commit.n_to
        after, end = store.fields(key), store.now()
        updated = int(after["u"])
        assert start // 1000 <= updated <= end // 1000
        assert after == before | {
            "n": b"%d" % commit.n_to,
            "h": commit.h_to,
            "s": commit.state,
            f"r{count % RING}": commit.records[0],
            "c": b"%d" % (count + 1),
            "l": b"%d" % (updated + LEASE if lease else 0),
            "u": after["u"],
        }
        assert updated + TTL <= store.expires(key) <= end // 1000 + 1 + TTL
        session = session.after(commit)


def test_the_same_commit_again_changes_nothing_but_its_time_to_live(store: Scripted) -> None:
    key = new_key()
    session = store.claimed(claim(key))
    commit = session.commit()
    assert store.ask(COMMIT, commit) == b"OK 1"
    before = store.fields(key)
    store.redis.pexpire(key, 1000)
    assert store.ask(COMMIT, commit) == b"DUPLICATE 1"
    assert store.fields(key) == before
    assert store.redis.pttl(key) > 1000


def test_a_commit_without_a_time_to_live_leaves_the_expiry_to_the_millisecond(store: Scripted) -> None:
    key = new_key()
    session = store.claimed(claim(key))
    store.redis.pexpire(key, 30_000)
    expires = store.expires(key)
    commit = session.commit(ttl_ms=0)
    for answer in (b"OK 1", b"DUPLICATE 1"):
        assert store.ask(COMMIT, commit) == answer
        assert store.expires(key) == expires
    assert store.fields(key)["n"] == b"1"


def test_the_fence_is_tested_before_the_duplicate(store: Scripted) -> None:
    key = new_key()
    old = store.claimed(claim(key))
    commit = old.commit()
    assert store.ask(COMMIT, commit) == b"OK 1"
    new = store.claimed(claim(key, found_epoch=old.owner.epoch))
    before = store.seen(key)
    assert store.ask(COMMIT, commit) == b"FENCED %d %d" % (new.owner.epoch, old.owner.epoch)
    assert store.seen(key) == before


def refused_owners(session: Held) -> list[tuple[str, Owner, bytes]]:
    owner, epoch = session.owner, session.owner.epoch
    fenced = b"FENCED %d 0" % epoch
    return [
        ("another nonce of the same epoch", owner._replace(nonce=new_nonce()), fenced),
        ("an older epoch", owner._replace(epoch=epoch - 1), fenced),
        ("a newer epoch", owner._replace(epoch=epoch + 1), fenced),
        ("another life", owner._replace(incarnation=BOB), fenced),
        ("no session", owner._replace(key=new_key()), b"GONE"),
    ]


@pytest.mark.parametrize("script", [COMMIT, HEARTBEAT, RELEASE, CLOSE], ids=lambda script: script.name)
def test_only_the_claim_may_write(store: Scripted, script: Script) -> None:
    key = new_key()
    session = store.claimed(claim(key))
    before = store.seen(key)
    for name, owner, answer in refused_owners(session):
        other = Held(owner, session.step, session.h)
        assert store.ask(script, WRITES[script](other)) == answer, name
        assert store.seen(owner.key) == (before if owner.key == key else ({}, -2)), name


@pytest.mark.parametrize("script", [COMMIT, HEARTBEAT, RELEASE], ids=lambda script: script.name)
def test_nothing_is_written_to_a_closed_session(store: Scripted, script: Script) -> None:
    key, session = prepared(store, "closed")
    assert session
    before = store.seen(key)
    assert store.ask(script, WRITES[script](session)) == b"CLOSED 3"
    assert store.seen(key) == before


@pytest.mark.parametrize("wrong", [{"n_from": 2}, {"n_from": 4}, {"h_from": WRONG}], ids=["behind", "ahead", "h"])
def test_a_commit_fits_onto_both_step_and_digest(store: Scripted, wrong: dict[str, Any]) -> None:
    key, session = prepared(store, "held")
    assert session
    before = store.seen(key)
    assert store.ask(COMMIT, session.commit(**wrong)) == b"MISMATCH 3"
    assert store.seen(key) == before


def test_a_duplicate_needs_the_digest_too(store: Scripted) -> None:
    key, session = prepared(store, "held")
    assert session
    before = store.seen(key)
    other = Held(session.owner, 2, h_of(2)).commit("other inputs")
    assert other.n_to == 3
    assert store.ask(COMMIT, other) == b"MISMATCH 3"
    assert store.seen(key) == before


def test_numbers_are_exact_up_to_the_largest(store: Scripted) -> None:
    key = new_key()
    session = store.claimed(claim(key))
    store.redis.hset(key, mapping={"n": MAX_STEP - 1, "c": MAX_STEP - 1})
    session = Held(session.owner, MAX_STEP - 1, session.h)
    commit = session.commit()
    assert commit.n_to == MAX_STEP
    assert store.ask(COMMIT, commit) == b"OK %d" % MAX_STEP
    assert store.ask(COMMIT, commit) == b"DUPLICATE %d" % MAX_STEP
    fields = store.fields(key)
    assert (fields["n"], fields["c"]) == (b"%d" % MAX_STEP, b"%d" % MAX_STEP)
    session = session.after(commit)
    resume = ResumePoint(Checkpoint(MAX_STEP, session.h), MAX_STEP)
    again = store.claimed(claim(key, found_epoch=session.owner.epoch, resume_point=resume))
    assert again.step == MAX_STEP
    assert store.ask(CLOSE, again.close(MAX_STEP - 1)) == b"CONFLICT %d" % MAX_STEP
    assert store.ask(CLOSE, again.close()) == b"OK %d" % MAX_STEP


# ---- heartbeat, release, close, kill, peek


def test_a_heartbeat_keeps_lease_and_life(store: Scripted) -> None:
    key = new_key()
    session = store.claimed(claim(key))
    store.redis.hset(key, "l", 1)
    store.redis.pexpire(key, 1000)
    before = store.fields(key)
    assert store.ask(HEARTBEAT, session.heartbeat()) == b"OK"
    after = store.fields(key)
    assert after == before | {"l": b"%d" % (int(after["u"]) + LEASE), "u": after["u"]}
    assert store.redis.pttl(key) > 1000


def test_a_late_heartbeat_does_not_take_a_released_lease_again(store: Scripted) -> None:
    key = new_key()
    session = store.claimed(claim(key))
    assert store.ask(RELEASE, session.release()) == b"OK"
    before = store.fields(key)
    assert store.ask(HEARTBEAT, session.heartbeat()) == b"OK"
    assert store.fields(key)["l"] == before["l"] == b"0"


def test_a_late_commit_does_not_take_a_released_lease_again(store: Scripted) -> None:
    key = new_key()
    session = store.claimed(claim(key))
    assert store.ask(RELEASE, session.release()) == b"OK"
    assert store.ask(COMMIT, session.commit()) == b"OK 1"
    assert store.fields(key)["l"] == b"0"


def test_a_release_lets_the_next_one_in(store: Scripted) -> None:
    key = new_key()
    session = store.claimed(claim(key))
    store.redis.pexpire(key, 1000)
    before = store.fields(key)
    assert store.ask(RELEASE, session.release()) == b"OK"
    after = store.fields(key)
    assert after == before | {"l": b"0", "u": after["u"]}
    assert store.redis.pttl(key) > 1000


def test_a_close_keeps_the_last_record_and_drops_the_rest(store: Scripted) -> None:
    key, session = prepared(store, "held")
    assert session
    before = store.fields(key)
    assert store.ask(CLOSE, session.close()) == b"OK 3"
    after, end = store.fields(key), store.now() // 1000
    kept = {name: value for name, value in before.items() if name not in ("s", "x", "r1")}
    assert after == kept | {"f": b"c", "l": b"0", "u": after["u"]}
    assert after["r0"] == session_record(3)
    assert int(after["u"]) + TOMBSTONE <= store.expires(key) <= end + 1 + TOMBSTONE
    store.redis.pexpire(key, 1000)
    assert store.ask(CLOSE, session.close()) == b"DUPLICATE 3"
    assert store.fields(key) == after
    assert store.redis.pttl(key) > 1000


def session_record(step: int) -> bytes:
    """Alice's record of a step."""
    return Held(Owner(b"", ALICE, b"", 0), step - 1, h_of(step - 1)).commit(step).records[0]


@pytest.mark.parametrize(("step", "answer"), [(4, b"GAP 3"), (2, b"CONFLICT 3"), (0, b"CONFLICT 3")])
def test_a_close_names_the_last_step(store: Scripted, step: int, answer: bytes) -> None:
    key, session = prepared(store, "held")
    assert session
    before = store.seen(key)
    assert store.ask(CLOSE, session.close(step)) == answer
    assert store.seen(key) == before


def test_a_close_by_another_claim_finds_it_closed(store: Scripted) -> None:
    _, session = prepared(store, "closed")
    assert session
    other = Held(session.owner._replace(nonce=new_nonce()), session.step, session.h)
    assert store.ask(CLOSE, other.close()) == b"CLOSED 3"


def test_a_kill_fences_the_owner_and_leaves_a_tombstone(store: Scripted) -> None:
    key, session = prepared(store, "held")
    assert session
    before, start = store.fields(key), store.now()
    assert store.ask(KILL, Kill(key, ALICE, TOMBSTONE)) == b"OK 3"
    after, end = store.fields(key), store.now()
    assert start <= int(after["e"]) <= end
    kept = {name: value for name, value in before.items() if name not in ("s", "x", "r1")}
    assert after == kept | {
        "e": after["e"],
        "o": b"",
        "p": before["e"],
        "f": b"c",
        "l": b"0",
        "u": after["u"],
    }
    assert int(after["u"]) + TOMBSTONE <= store.expires(key) <= end // 1000 + 1 + TOMBSTONE
    assert store.ask(COMMIT, session.commit()) == b"CLOSED 3"
    assert store.ask(CLOSE, session.close()) == b"CLOSED 3"
    assert store.ask(KILL, Kill(key, ALICE, TOMBSTONE)) == b"CLOSED 3"
    assert store.ask(KILL, Kill(new_key(), ALICE, TOMBSTONE)) == b"GONE"
    assert store.fields(key) == after


def test_a_late_kill_leaves_a_later_life_alone(store: Scripted) -> None:
    key, session = prepared(store, "closed")
    assert session
    store.claimed(claim(key, BOB, found_epoch=session.owner.epoch))
    before = store.seen(key)
    assert store.ask(KILL, Kill(key, ALICE, TOMBSTONE)) == b"GONE"
    assert store.seen(key) == before


def test_a_peek_tells_and_changes_nothing(store: Scripted) -> None:
    key, session = prepared(store, "held")
    assert session
    before = store.seen(key)
    answer = store.ask(PEEK, Peek(key))
    assert isinstance(answer, list)
    seen = peek_answer(answer)
    assert store.seen(key) == before
    assert (seen.incarnation, seen.epoch, seen.step, seen.h) == (ALICE, session.owner.epoch, 3, h_of(3))
    assert (seen.model, seen.closed, seen.unnumbered, seen.state_bytes) == (MODEL, False, False, len(b"state 3"))
    assert 0 < seen.lease_left <= LEASE / 1000
    assert 0 < seen.expires_in <= TTL / 1000
    assert seen.updated == int(before[0]["u"]) / 1000
    assert store.ask(PEEK, Peek(new_key())) == b"GONE"


# ---- many items


@pytest.mark.parametrize("script", [CLAIM, COMMIT, HEARTBEAT, RELEASE, CLOSE, KILL, PEEK], ids=lambda s: s.name)
def test_a_poisoned_key_does_not_stop_its_neighbours(store: Scripted, script: Script) -> None:
    first, last = (store.claimed(claim(new_key())) for _ in range(2))
    poisoned = new_key()
    store.redis.set(poisoned, "not a hash")
    middle = Held(first.owner._replace(key=poisoned), 0, first.h)
    makers: dict[Script, Callable[[Held], Item]] = WRITES | {
        CLAIM: lambda session: claim(session.owner.key, found_epoch=session.owner.epoch),
        KILL: lambda session: Kill(session.owner.key, ALICE, TOMBSTONE),
        PEEK: lambda session: Peek(session.owner.key),
    }
    answers = store.call(script, *(makers[script](session) for session in (first, middle, last)))
    assert answers[1] == b"ERROR WRONGTYPE"
    for answer in (answers[0], answers[2]):
        assert (answer[0] if isinstance(answer, list) else answer[:2]) == b"OK"
    assert store.redis.get(poisoned) == b"not a hash"


def test_each_commit_of_a_call_writes_its_own_state_and_records(store: Scripted) -> None:
    """However many records its neighbours have, also those that are refused."""
    sessions = [store.claimed(claim(new_key())) for _ in range(5)]
    poisoned = new_key()
    store.redis.set(poisoned, "not a hash")
    sessions[1] = Held(sessions[1].owner._replace(key=poisoned), 0, sessions[1].h)
    sessions[3] = Held(sessions[3].owner._replace(nonce=new_nonce()), 0, sessions[3].h)
    counts = (2, 2, 1, 3, 2)
    commits = [
        session.commit(f"inputs {at}", messages=count, state=b"state of %d" % at)
        for at, (session, count) in enumerate(zip(sessions, counts, strict=True))
    ]
    answers = store.call(COMMIT, *commits)
    assert [answer[:5] for answer in answers] == [b"OK 2", b"ERROR", b"OK 1", b"FENCE", b"OK 2"]
    for at in (0, 2, 4):
        fields = store.fields(commits[at].key)
        assert fields["s"] == commits[at].state
        assert [fields[f"r{slot}"] for slot in range(counts[at])] == list(commits[at].records)


def test_a_full_store_refuses_what_grows_whole_and_lets_the_rest_through(own_store: EmbeddedStore) -> None:
    store = Scripted(own_store.url)
    sessions = [advanced(store, new_key()) for _ in range(4)]
    store.redis.config_set("maxmemory", "1mb")
    store.redis.config_set("maxmemory-policy", "noeviction")
    keys = [session.owner.key for session in sessions]
    before = [store.seen(key) for key in keys]
    commits = [session.commit("next") for session in sessions]
    assert store.call(COMMIT, *commits) == [b"ERROR OOM"] * 4
    created = claim(new_key())
    assert store.ask(CLAIM, created) == b"ERROR OOM"
    assert store.seen(created.key) == ({}, -2)
    assert [store.seen(key) for key in keys] == before

    taken = store.claimed(claim(keys[0], found_epoch=sessions[0].owner.epoch))
    assert store.ask(HEARTBEAT, taken.heartbeat()) == b"OK"
    assert store.ask(RELEASE, taken.release()) == b"OK"
    assert store.ask(CLOSE, sessions[1].close()) == b"OK 3"
    assert store.ask(KILL, Kill(keys[2], ALICE, TOMBSTONE)) == b"OK 3"
    for key in keys[1:3]:
        fields = store.fields(key)
        assert b"c" in fields["f"]
        assert fields["l"] == b"0"
        assert not {"s", "x", "r1"} & fields.keys()

    store.redis.config_set("maxmemory", "0")
    assert store.ask(COMMIT, commits[3]) == b"OK 4"
    store.redis.close()


def test_a_session_that_expires_amid_a_claim_is_there_whole_or_not_at_all(store: Scripted) -> None:
    """The claim sees it, keeps its time to live as it is, and writes."""
    for at in range(200):
        key, session = prepared(store, "free")
        assert session
        last = -(-store.now() // 1000) + 2 + at % 3
        store.redis.pexpireat(key, last)
        while store.now() < last * 1000 - 400:
            pass
        store.call(CLAIM, *(claim(new_key()) for _ in range(8)), claim(key, ttl_ms=0, found_epoch=session.owner.epoch))
        assert set(store.fields(key)) in (set(), {*"ieopnhscxlmfu", "r0", "r1"}), at
