"""The scripts on a real store against the model of `tests.model`: any order of calls, late copies, lost keys."""

from typing import Any, ClassVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from service.store.scripts import (
    CLAIM,
    CLOSE,
    COMMIT,
    HEARTBEAT,
    KILL,
    PEEK,
    RELEASE,
    Claim,
    Commit,
    Granted,
    Kill,
    Peek,
    Script,
    claim_answer,
)
from service.values import Checkpoint, Mode, ResumePoint
from tests.model.session_model import SessionModel
from tests.scripted import (
    ALICE,
    BOB,
    LEASE,
    MAX_LEASE,
    TOMBSTONE,
    TTL,
    Answer,
    Held,
    Scripted,
    claim,
    digest,
    held,
    new_key,
)

few = st.integers(1, 3)
index = st.integers(0, 1 << 16)
often = st.sampled_from([True, True, True, False])
sometimes = st.sampled_from([False, False, True])
rarely = st.sampled_from([False] * 7 + [True])


class ScriptsAsModelled(RuleBasedStateMachine):
    """One key; every call that was ever made may come again, late."""

    store: ClassVar[Scripted]

    @initialize()
    def start(self) -> None:
        self.key = new_key()
        self.model = SessionModel()
        self.claims: list[Claim] = []
        self.held: list[Held] = []
        self.late: list[tuple[Script, Any]] = []
        self.epochs = [0]
        self.told = [Checkpoint(0, digest(ALICE))]
        self.claims.append(claim(self.key))
        self._granted(self.claims[0])

    # ---- calls

    @rule(
        incarnation=st.sampled_from([ALICE, ALICE, BOB, b""]),
        mode=st.sampled_from([Mode.CREATE_OR_RESUME, Mode.CREATE, Mode.RESUME, Mode.RESTART]),
        knows=often,
        epoch=index,
        point=st.none() | st.tuples(index, st.integers(-2, 2), st.booleans()),
        named=st.sampled_from([b"", b"", ALICE, BOB]),
        accepts=st.booleans(),
        goes_on=st.integers(0, 4),
        fields=st.sampled_from(
            [{}] * 12
            + [{"skip_lost_replies": True}, {"name": ""}, {"name": "n"}, {"asked_version": "2"}, {"served": ()}]
        ),
    )
    def claim(
        self,
        incarnation: bytes,
        mode: Mode,
        knows: bool,
        epoch: int,
        point: tuple[int, int, bool] | None,
        named: bytes,
        accepts: bool,
        goes_on: int,
        fields: dict[str, Any],
    ) -> None:
        if mode is not Mode.RESUME and not fields.get("name", "m"):
            fields = {}  # what may create names its model
        now = self.model.fields
        here = Checkpoint(int(now.get("n", b"0")), now.get("h", digest(BOB)))
        resume_point = None
        if point:
            received = self.told[point[0] % len(self.told)]
            if point[2]:
                received = here
            durable = max(0, received.step + point[1])
            resume_point = ResumePoint(received, durable, b"", named, (here,) if accepts else (self.told[-1],))
        item = claim(
            self.key,
            incarnation or (ALICE if mode is not Mode.RESUME else b""),
            mode,
            found_epoch=int(now.get("e", b"0")) if knows else self.epochs[epoch % len(self.epochs)],
            resume_point=resume_point,
            accept_regression=here if accepts else None,
            **fields,
        )
        self.claims.append(item)
        self._granted(item)
        self._advance(goes_on, 1, LEASE)

    @rule(at=index)
    def late_claim(self, at: int) -> None:
        self._granted(self.claims[at % len(self.claims)])

    def _granted(self, item: Claim) -> None:
        answer = self._both(CLAIM, item)
        assert isinstance(answer, list)
        granted = claim_answer(answer)
        if isinstance(granted, Granted):
            self.epochs.append(granted.epoch)
            self.held.append(held(item, granted))

    @rule(count=few, steps=few, messages=few, again=often, keeps=st.booleans(), moves=st.booleans())
    def advance(self, count: int, steps: int, messages: int, again: bool, keeps: bool, moves: bool) -> None:
        """The newest claim goes on, and may leave the expiry alone; perhaps it sends its last commit once more."""
        self._advance(count, steps, LEASE if keeps else 0, messages, TTL if moves else 0)
        if again:
            self._both(*self.late[-1])

    def _advance(self, count: int, steps: int, lease: int, messages: int = 1, ttl: int = TTL) -> None:
        for text in range(count):
            item = self.held[-1].commit(text, steps, messages, lease_ms=lease, ttl_ms=ttl)
            self._commit(len(self.held) - 1, item)

    @rule(at=index, told=index, text=st.integers(0, 2))
    def commit_from_elsewhere(self, at: int, told: int, text: int) -> None:
        """Any claim, from any step that was ever reached."""
        at %= len(self.held)
        base = self.told[told % len(self.told)]
        self._commit(at, Held(self.held[at].owner, base.step, base.h).commit(text))

    def _commit(self, at: int, item: Commit) -> None:
        self.late.append((COMMIT, item))
        if self._both(COMMIT, item)[:2] == b"OK":
            self.held[at] = self.held[at].after(item)
            self.told.append(Checkpoint(item.n_to, item.h_to))

    @rule(at=index, script=st.sampled_from([HEARTBEAT, RELEASE]))
    def heartbeat_or_release(self, at: int, script: Script) -> None:
        session = self.held[at % len(self.held)]
        item = session.heartbeat() if script is HEARTBEAT else session.release()
        self.late.append((script, item))
        self._both(script, item)

    @rule(at=index, newest=often, off=st.sampled_from([0, -1, 1, 1]), really=sometimes)
    def close(self, at: int, newest: bool, off: int, really: bool) -> None:
        if really:
            session = self.held[-1 if newest else at % len(self.held)]
            item = session.close(max(0, session.step + off))
            self.late.append((CLOSE, item))
            self._both(CLOSE, item)

    @rule(at=index)
    def late_copy(self, at: int) -> None:
        if self.late:
            self._both(*self.late[at % len(self.late)])

    @rule(really=rarely, incarnation=st.sampled_from([ALICE, BOB]))
    def kill(self, really: bool, incarnation: bytes) -> None:
        if really:
            item = Kill(self.key, incarnation, TOMBSTONE)
            self.late.append((KILL, item))
            self._both(KILL, item)

    # ---- what the store does by itself

    @rule(far=st.booleans())
    def lease_lapses(self, far: bool) -> None:
        if self.model.fields:
            lease = self.store.now() // 1000 + 10 * MAX_LEASE if far else 1
            self._set("l", b"%d" % lease)

    @rule()
    def clock_was_ahead(self) -> None:
        if self.model.fields:
            self._set("e", b"%d" % (int(self.model.fields["e"]) + 3_600_000_000))

    @rule(really=rarely)
    def expires(self, really: bool) -> None:
        if really:
            self.store.redis.delete(self.key)
            self.model.fields = {}

    def _set(self, name: str, value: bytes) -> None:
        self.store.redis.hset(self.key, name, value)
        self.model.fields[name] = value

    # ---- comparison

    def _both(self, script: Script, item: Any) -> Answer:
        """Calls the script, then the model at the very time that the script told by what it wrote."""
        before, start = self.store.fields(self.key), self.store.now()
        answer = self.store.ask(script, item)
        after, end = self.store.fields(self.key), self.store.now()
        micros = start
        if after and after["e"] != before.get("e") and start <= int(after["e"]) <= end:
            micros = int(after["e"])
        elif after and after != before:
            micros = max(start, int(after["u"]) * 1000)
            assert start <= micros <= end
        modelled, slack = self.model.call(item, micros), (end - start) // 1000 + 1
        if isinstance(answer, list) and isinstance(modelled, list):
            # what is left of a time, told by a call that wrote nothing, is not known to the millisecond
            for place in (7, 9) if script is PEEK else (4,) if answer[0] == b"BUSY" else ():
                assert abs(int(answer[place]) - int(modelled[place])) <= slack
                modelled[place] = answer[place]
        assert answer == modelled
        if after:
            expires = self.store.expires(self.key)
            assert abs(expires - self.model.expires) <= slack
            self.model.expires = expires
        return answer

    @invariant()
    def every_field_is_as_modelled(self) -> None:
        if hasattr(self, "model"):
            assert self.store.fields(self.key) == self.model.fields

    @rule(really=rarely)
    def peek(self, really: bool) -> None:
        if really:
            self._both(PEEK, Peek(self.key))


def test_the_scripts_do_what_the_model_does(store_url: str) -> None:
    class OnThisStore(ScriptsAsModelled):
        store = Scripted(store_url)

    try:
        run_state_machine_as_test(OnThisStore, settings=settings(stateful_step_count=50))
    finally:
        OnThisStore.store.redis.close()
