"""The scripts on hashes that somebody else wrote to: a sound answer or a refusal that changes nothing, and no neighbour
is touched."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from service.store.scripts import (
    CLAIM,
    CLOSE,
    COMMIT,
    HEARTBEAT,
    KILL,
    PEEK,
    RELEASE,
    Item,
    Kill,
    Peek,
    Script,
    claim_answer,
    peek_answer,
)
from service.values import MAX_STEP, Mode
from tests.scripted import BOB, MODEL, TOMBSTONE, Answer, Held, Scripted, claim, new_key

NUMBERS = b"encplu"
FIELDS = ("i", "e", "o", "p", "n", "h", "c", "s", "x", "m", "l", "f", "u")
ODD_NUMBERS = [
    b"",
    b" 1",
    b"1 ",
    b"01",
    b"-1",
    b"1.5",
    b"1e3",
    b"0x10",
    b"1_0",
    b"inf",
    b"nan",
    b"-nan",
    b"%d" % MAX_STEP,
    b"%d" % (MAX_STEP + 1),
    b"9" * 5000,
    b"1\n",
    b"\xd9\xa3",
]
ODD_MODELS = [b"", b"/", b"//", b"m", b"m/1", b"m/1/", b"a/b/c/d", b"\xff/\xff/\xff", b"other/1/" + b"00" * 16]
ODD_MODELS += [b"other/1/" + b"00" * 16 + b"\n" + MODEL.encode(), b"\n", b"m/1/\0", b"%s%d/1/"]

NAMES: st.SearchStrategy[str] = st.sampled_from((*FIELDS, "r0", "r1", "r9", "r", "r-1", "z"))
VALUES: st.SearchStrategy[bytes] = st.one_of(
    st.sampled_from(ODD_NUMBERS + ODD_MODELS + [b"c", b"u", b"uc"]),
    st.binary(max_size=60),
    st.binary(min_size=16, max_size=16),
    st.integers(0, MAX_STEP).map(lambda number: b"%d" % number),
)
DAMAGE: st.SearchStrategy[Mapping[str, bytes | None]] = st.dictionaries(
    NAMES, st.none() | VALUES, min_size=1, max_size=3
)
"""New values of some fields; None: the field is gone."""

ITEMS: dict[str, tuple[Script, Callable[[Held], Item]]] = {
    "claim": (CLAIM, lambda session: claim(session.owner.key, found_epoch=session.owner.epoch)),
    "claim by its id": (CLAIM, lambda s: claim(s.owner.key, b"", Mode.RESUME, name="", found_epoch=s.owner.epoch)),
    "claim by another": (CLAIM, lambda s: claim(s.owner.key, BOB, Mode.RESTART, found_epoch=s.owner.epoch)),
    "commit": (COMMIT, lambda session: session.commit()),
    "heartbeat": (HEARTBEAT, lambda session: session.heartbeat()),
    "release": (RELEASE, lambda session: session.release()),
    "close": (CLOSE, lambda session: session.close()),
    "kill": (KILL, lambda session: Kill(session.owner.key, session.owner.incarnation, TOMBSTONE)),
    "peek": (PEEK, lambda session: Peek(session.owner.key)),
}


@pytest.fixture(scope="module")
def store(store_url: str) -> Iterator[Scripted]:
    scripted = Scripted(store_url)
    yield scripted
    scripted.redis.close()


def advanced(store: Scripted) -> Held:
    """A session, free, at step 2."""
    session = store.claimed(claim(new_key()))
    for step in (1, 2):
        commit = session.commit(step)
        assert store.ask(COMMIT, commit) == b"OK %d" % step
        session = session.after(commit)
    assert store.ask(RELEASE, session.release()) == b"OK"
    return session


def number(value: bytes) -> bool:
    """True for a number as the protocol writes it."""
    return value.isdigit() and value == b"%d" % int(value[:20]) and int(value) <= MAX_STEP


def sound(fields: Mapping[str, bytes]) -> bool:
    """True for a hash that the protocol may have written, its blobs aside."""
    kept = all(len(fields.get(name, b"")) == 16 for name in ("i", "h"))
    return kept and all(number(fields.get(chr(name), b"")) for name in NUMBERS)


def damaged(store: Scripted, key: bytes, damage: Mapping[str, bytes | None]) -> None:
    for name, value in damage.items():
        if value is None:
            store.redis.hdel(key, name)
        else:
            store.redis.hset(key, name, value)


def written_by_us(was: Mapping[str, bytes], now: Mapping[str, bytes]) -> bool:
    """True if every field that changed has a name and a form of the protocol."""
    changed = {name: value for name, value in now.items() if was.get(name) != value}
    numbers = [value for name, value in changed.items() if name.encode() in NUMBERS]
    return changed.keys() <= {*FIELDS, "r0", "r1"} and all(map(number, numbers))


@contextmanager
def readable(was: Mapping[str, bytes]) -> Iterator[None]:
    """Only what the scripts do not look into may be unreadable to the service: it says so, and goes on."""
    try:
        yield
    except ValueError:
        assert not was.get("m", b"").isascii()


def refused(answer: Answer) -> bool:
    """True for an answer after which nothing may have changed."""
    word = answer[0] if isinstance(answer, list) else answer.split(b" ")[0]
    return word not in (b"OK", b"DUPLICATE")


@pytest.mark.parametrize("what", ITEMS)
@example(damage={"i": None})
@example(damage=dict.fromkeys((*FIELDS, "r0", "r1")) | {"z": b"1"})
@example(damage={"e": b"nan"})
@example(damage={"c": b"0.5"})
@example(damage={"c": b"%d" % MAX_STEP})
@example(damage={"m": ODD_MODELS[-4]})
@given(damage=DAMAGE)
def test_a_hash_of_another_hand_is_refused_untouched_or_stays_sound(
    store: Scripted, what: str, damage: Mapping[str, bytes | None]
) -> None:
    script, make = ITEMS[what]
    first, session, last, bystander = (advanced(store) for _ in range(4))
    key = session.owner.key
    damaged(store, key, damage)
    was = store.seen(key)
    theirs = store.seen(bystander.owner.key)
    answers = store.call(script, *(make(each) for each in (first, session, last)))
    answer, now = answers[1], store.seen(key)
    if refused(answer) or script is PEEK:
        assert now == was
    else:
        assert written_by_us(was[0], now[0])
    if isinstance(answer, list):
        with readable(was[0]):
            (peek_answer if script is PEEK else claim_answer)(answer)
    for other, told in ((first, answers[0]), (last, answers[2])):
        assert not refused(told)
        assert sound(store.fields(other.owner.key))
    assert store.seen(bystander.owner.key) == theirs


@pytest.mark.parametrize("what", ITEMS)
@pytest.mark.parametrize("field", ["e", "n"])
def test_a_number_that_no_script_writes_is_corrupt(store: Scripted, what: str, field: str) -> None:
    script, make = ITEMS[what]
    session = advanced(store)
    for value in (odd for odd in ODD_NUMBERS if not number(odd)):
        store.redis.hset(session.owner.key, field, value)
        was = store.seen(session.owner.key)
        assert (store.ask(script, make(session)), value) == (b"ERROR CORRUPT", value)
        assert store.seen(session.owner.key) == was


@pytest.mark.parametrize("field", ["c", "l"])
def test_a_commit_looks_at_what_it_replaces(store: Scripted, field: str) -> None:
    session = advanced(store)
    for value in (None, *(odd for odd in ODD_NUMBERS if not number(odd))):
        damaged(store, session.owner.key, {field: value})
        was = store.seen(session.owner.key)
        assert (store.ask(COMMIT, session.commit()), value) == (b"ERROR CORRUPT", value)
        assert store.seen(session.owner.key) == was


@pytest.mark.parametrize("what", ["claim", "claim by its id", "claim by another", "kill"])
def test_after_the_last_epoch_there_is_none(store: Scripted, what: str) -> None:
    script, make = ITEMS[what]
    session = advanced(store)
    last = Held(session.owner._replace(epoch=MAX_STEP), session.step, session.h)
    store.redis.hset(session.owner.key, "e", MAX_STEP)
    was = store.seen(session.owner.key)
    assert store.ask(script, make(last)) == b"ERROR CORRUPT"
    assert store.seen(session.owner.key) == was


@pytest.mark.parametrize("what", ITEMS)
@pytest.mark.parametrize("fields", [{"z": b"1"}, {"n": b"3", "e": b"7"}], ids=["none of ours", "some of ours"])
def test_a_hash_without_an_incarnation_is_no_free_place(store: Scripted, what: str, fields: dict[str, bytes]) -> None:
    script, make = ITEMS[what]
    session = advanced(store)
    store.redis.delete(session.owner.key)
    store.redis.hset(session.owner.key, mapping=fields)
    for incarnation in (session.owner.incarnation, BOB):
        item = make(session)
        if script is CLAIM:
            item = claim(session.owner.key, incarnation)
        assert store.ask(script, item) == b"ERROR CORRUPT"
    assert store.fields(session.owner.key) == fields
