"""A small world in which everything that may happen happens one action at a time, in any order.

Knows which actions are possible and carries them out; what must not come of them stands in `invariants`.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from tests.model.protocol.client import Client, Kind
from tests.model.protocol.invariants import Observer, Violation
from tests.model.protocol.items import Answer, Claim, Close, Commit, Heartbeat, Item, Kill, Lease, Release
from tests.model.protocol.replica import Call, CloseAt, Failed, Message, Replica, Session, Surroundings
from tests.model.protocol.rules import Rules
from tests.model.protocol.scripts import execute
from tests.model.protocol.store import REPLICAS, Address, Store, Version

Action = tuple[str, ...]
QUIET_ROUNDS = 60
LONE = "C"
"""The client whose progress and peace are promised."""

BUDGET = {
    "opens": 5,
    "steps": 4,
    "abandon": 3,
    "refuse": 1,
    "give_up": 3,
    "lost_answer": 2,
    "crash": 2,
    "lapse": 2,
    "close": 1,
    "again": 1,
}
LOSSES = {"fail_over": 1, "empty": 1, "expire": 1}


@dataclass(frozen=True)
class Config:
    """Who is in a world, and how often what may happen."""

    name: str
    lone: Kind = Kind.STREAM
    rivals: tuple[tuple[str, Kind, bool], ...] = ()
    """Name, kind, and whether it has the lone client's token."""
    write_behind: bool = False
    span: int = 1
    """The most steps of a message."""
    shards: int = 1
    replicas: int = 0
    """That must hold a write before it is answered."""
    skips: bool = False
    """Clients give up replies that the ring no longer has."""
    best: bool = True
    """A failover promotes the replica that has most; else any."""
    budget: dict[str, int] = field(default_factory=dict)
    bias: dict[str, float] = field(default_factory=dict)
    """Factors of the weights of actions, by name."""


class World:
    """One store, two replicas of the service, a few clients, an operator."""

    def __init__(self, rules: Rules, config: Config) -> None:
        self.rules = rules
        self.config = config
        self.store = Store(config.shards)
        self.observer = Observer(self.store)
        around = Surroundings(rules, self.send, lambda: self.store.store_id, self.observer.leaves)
        self.replicas = {name: Replica(name, around) for name in "AB"}
        self.clients = {LONE: Client(LONE, config.lone, rules, config.write_behind)}
        for name, kind, with_token in config.rivals:
            rival = Client(name, kind, rules, config.write_behind, with_token)
            if with_token:
                rival.token = self.clients[LONE].token
            self.clients[name] = rival
        for client in self.clients.values():
            client.skips = config.skips
        self.sessions: dict[str, Session] = {}
        self.calls: dict[str, Call] = {}
        self.budget = {**BUDGET, **config.budget}
        self.now = 1
        self.late_writes = 0
        self.crashed: set[str] = set()
        """Sessions whose replica is gone."""

    # what may happen

    def actions(self) -> dict[Action, float]:
        """Everything that may happen now, with its weight."""
        found: dict[Action, float] = {}
        for client in self.clients.values():
            found.update(self._of_client(client))
        for session in self.sessions.values():
            if session.state != "ended":
                found.update(self._of_session(session))
        for call in self.calls.values():
            found.update(self._of_call(call))
        found.update(self._of_store())
        if self._may("crash"):
            found["crash", "A"] = found["crash", "B"] = 0.3
        if self._may("kill") and self.store.key and not self.store.key.closed:
            found["kill",] = 0.6
        if self._may("replaced"):
            found["replaced",] = 0.3
        bias = self.config.bias
        return {action: weight * bias.get(action[0], 1.0) for action, weight in found.items()} if bias else found

    def _may(self, what: str) -> bool:
        return self.budget.get(what, 0) > 0

    def _of_client(self, client: Client) -> Iterator[tuple[Action, float]]:
        name, session = client.name, client.session
        if client.failure not in ("", "SESSION_CLOSED"):
            return
        if client.closed or client.failure:
            if self._may("again"):
                yield ("again", name), 3
            return
        if session is None:
            wants = client.kind is Kind.STREAM or client.unanswered or client.steps < self.budget["steps"]
            if wants and client.attempts < self.budget["opens"] + self.budget["again"]:
                yield ("open", name, "A"), 4
                yield ("open", name, "B"), 4
            if client.kind is Kind.FACADE and client.lives <= self.budget.get("restart", 0):
                yield ("restart", name), 1
            return
        if session.down:
            yield ("receive", name), 8
        if self._may("abandon"):
            yield ("abandon", name), 1
        if client.kind is Kind.STREAM and client.opened and not client.closing:
            unanswered = client.unanswered
            if client.next() and sum(sent.on_stream for sent in client.log) < self.rules.window:
                yield ("send", name), 7
            elif len(unanswered) < self.rules.window and client.steps < self.budget["steps"]:
                yield ("add", name, "1"), 7
                if self.config.span > 1:
                    yield ("add", name, str(self.config.span)), 5
            if self._may("close") and client.received and not unanswered and not client.next():
                yield ("close", name), 1

    def _of_session(self, session: Session) -> Iterator[tuple[Action, float]]:
        name = session.name
        if session.call is not None:
            if session.call.sends < 2:
                yield ("resend", name), 0.7
            if self._may("give_up"):
                yield ("give_up", name), 0.7
            if session.write_behind and session.state == "live" and self._has_room(session):
                yield ("serve", name), 8
            return
        if session.state == "waiting":
            yield ("look", name), 2
        elif session.state == "granted":
            yield ("hold", name), 8
        elif session.state == "live" and not session.unary:
            if session.abandoned:
                yield ("leave", name), 3
            if session.up and self._has_room(session):
                yield ("serve", name), 8
                follows = isinstance(session.up[0], Message) and session.up[0].first == session.step + 1
                if follows and self._may("refuse"):
                    yield ("refuse", name), 0.3
            elif session.up and isinstance(session.up[0], CloseAt):
                yield ("serve", name), 8
            if session.undurable:
                yield ("flush", name), 4
            if not self._may("heartbeats") and not self._beats(session):
                return
            yield ("heartbeat", name), 0.5

    def _has_room(self, session: Session) -> bool:
        """For its next message, which a write-behind session runs while a flush is under way."""
        return bool(session.up) and isinstance(session.up[0], Message) and len(session.undurable) < self.rules.undurable

    def _beats(self, session: Session) -> bool:
        key = self.store.key
        return key is None or key.owner != session.owner.nonce or key.lease is not Lease.HELD

    def _of_call(self, call: Call) -> Iterator[tuple[Action, float]]:
        if call.session is None and call.sends < 2:
            yield ("resend_kill", call.name), 1
        if not call.copies:
            return
        waited_for = call.session is not None and call.session.call is call
        yield ("execute", call.name), 8 if waited_for else 1.5
        if waited_for and self._may("lost_answer"):
            yield ("lose_answer", call.name), 0.7
        shard = self.store.shards[self.store.owner]
        if waited_for and shard.deposed is not None and self.late_writes < 3:
            yield ("execute_at_old", call.name), 3

    def _of_store(self) -> Iterator[tuple[Action, float]]:
        store, key = self.store, self.store.key
        if key and key.lease is Lease.HELD and self._may("lapse"):
            yield ("lapse",), 0.8
        for index, shard in enumerate(store.shards):
            if self.config.replicas:
                for replica in range(REPLICAS):
                    if shard.copied[replica] < shard.offset:
                        yield ("copy", str(index), str(replica)), 3
            if self._may("fail_over"):
                for last in self._promotable(index):
                    yield ("fail_over", str(index), str(last)), 0.5
        if self._may("empty") and key:
            yield ("empty",), 0.2
        if self._may("expire") and key and key.lease is not Lease.HELD:
            yield ("expire",), 1 if key.closed else 0.5
        if len(store.shards) > 1:
            if store.target is None:
                if self._may("move"):
                    yield ("start_move",), 1
            elif store.shards[store.owner].now.key is not None:
                yield ("move_key",), 3
            else:
                yield ("end_move",), 2

    def _promotable(self, index: int) -> list[int]:
        """How many of the last writes a failover of this shard may lose."""
        shard = self.store.shards[index]
        if not self.config.replicas:
            return [lost for lost in (1, 2, 3) if lost <= shard.offset]
        copied = [max(shard.copied)] if self.config.best else shard.copied
        return sorted({shard.offset - each for each in copied})

    # how it happens

    def do(self, action: Action) -> None:
        """Carry out an action that is possible now. Raises Violation."""
        what, *on = action
        if what in self.budget and what != "steps":
            self.budget[what] -= 1
        getattr(self, f"_do_{what}")(*on)

    def send(self, session: Session, item: Item) -> Call:
        """An item on its way to the store."""
        return self._new_call(f"{session.name}.{type(item).__name__.lower()}", item, session)

    def _new_call(self, stem: str, item: Item, session: Session | None) -> Call:
        self.now += 1
        number = sum(1 for name in self.calls if name.startswith(stem))
        address = Address(session.replica.route if session else self.store.owner)
        call = Call(f"{stem}{number}", item, session, self.now, [address])
        self.calls[call.name] = call
        return call

    # clients

    def _do_open(self, name: str, replica_name: str) -> None:
        client, replica = self.clients[name], self.replicas[replica_name]
        self.observer.rival |= name != LONE
        client.attempts += 1
        session_name = f"{name}#{client.attempts}@{replica_name}"
        claim = Claim(client.token, session_name, client.mode(), client.found, client.point())
        unary = client.kind is not Kind.STREAM
        session = Session(session_name, name, replica, claim, unary, client.write_behind and not unary)
        self.sessions[session_name] = client.session = session
        if unary:
            message = client.call(1 + client.attempts % self.config.span)
            session.up.append(message)
            kept = replica.take(claim, message)
            if kept:
                session.state, session.owner, session.from_kept = "live", kept.owner, True
                session.step, session.h, session.ring, session.durable = kept.step, kept.h, kept.ring, kept.step
                replica.step(session, message)
                return
        session.call = self.send(session, claim)

    def _do_restart(self, name: str) -> None:
        client = self.clients[name]
        client.begin()
        client.found = self.store.key.epoch if self.store.key else 0

    def _do_again(self, name: str) -> None:
        self.clients[name].begin()

    def _do_add(self, name: str, span: str) -> None:
        self.clients[name].add(int(span))

    def _do_send(self, name: str) -> None:
        client = self.clients[name]
        sent = client.next()
        assert sent is not None
        assert client.session is not None
        sent.on_stream = True
        client.session.up.append(sent.message)

    def _do_close(self, name: str) -> None:
        client = self.clients[name]
        assert client.session is not None
        client.closing = True
        client.session.up.append(CloseAt(client.received))

    def _do_abandon(self, name: str) -> None:
        self.clients[name].leave()

    def _do_receive(self, name: str) -> None:
        client = self.clients[name]
        assert client.session is not None
        response = client.session.down.popleft()
        self.observer.before(client, response)
        told, received = client.told.copy(), client.received
        client.take(response)
        self.observer.after(client, response, told, received)

    # replicas

    def _do_hold(self, name: str) -> None:
        session = self.sessions[name]
        session.replica.hold(session)

    def _do_serve(self, name: str) -> None:
        session = self.sessions[name]
        session.replica.serve(session)

    def _do_refuse(self, name: str) -> None:
        session = self.sessions[name]
        session.replica.refuse_load(session)

    def _do_flush(self, name: str) -> None:
        session = self.sessions[name]
        session.replica.flush(session)

    def _do_leave(self, name: str) -> None:
        session = self.sessions[name]
        session.replica.leave(session)

    def _do_look(self, name: str) -> None:
        session = self.sessions[name]
        session.replica.claim_again(session)

    def _do_give_up(self, name: str) -> None:
        session = self.sessions[name]
        session.replica.give_up(session)

    def _do_heartbeat(self, name: str) -> None:
        session = self.sessions[name]
        self.send(session, Heartbeat(session.owner))

    def _do_crash(self, name: str) -> None:
        self.replicas[name].crash()
        for session in self.sessions.values():
            if session.replica.name == name and session.state != "ended":
                session.state, session.call = "ended", None
                self.crashed.add(session.name)
                self._cut(session)

    def _cut(self, session: Session) -> None:
        client = self.clients[session.client]
        if client.session is session:
            client.leave()

    # calls

    def _do_resend(self, name: str) -> None:
        session = self.sessions[name]
        assert session.call is not None
        session.call.copies.append(Address(session.replica.route))
        session.call.sends += 1

    def _do_resend_kill(self, name: str) -> None:
        self.calls[name].copies.append(Address(self.store.owner))
        self.calls[name].sends += 1

    def _do_kill(self) -> None:
        key = self.store.key
        assert key is not None
        self.observer.rival = True
        self._new_call("kill", Kill(key.incarnation), None)

    def _do_execute(self, name: str) -> None:
        self._execute(self.calls[name], answered=True)

    def _do_lose_answer(self, name: str) -> None:
        self.budget["lost_answer"] -= 1
        self._execute(self.calls[name], answered=False)

    def _do_execute_at_old(self, name: str) -> None:
        call = self.calls[name]
        shard = self.store.shards[self.store.owner]
        assert shard.deposed is not None
        self.late_writes += 1
        self.observer.misled = True
        call.copies.pop(0)
        self.now += 1
        answer, key, wrote = execute(call.item, shard.deposed.key, self.now, self.rules)
        shard.deposed = Version(key, shard.deposed.ended)
        if not (wrote and self._waits(call.item)):  # it has no replicas any more
            self._answer(call, answer)

    def _execute(self, call: Call, answered: bool) -> None:
        address = call.copies.pop(0)
        waited_for = self._is_waited_for(call)
        elsewhere = self.store.redirect(address)
        if elsewhere is not None and elsewhere.asking and not self.rules.ask_followed:
            self._answer(call, execute(call.item, None, self.now, self.rules)[0])
            return
        if elsewhere is not None:
            if waited_for or call.session is None:
                call.copies.insert(0, elsewhere)
            if call.session and not elsewhere.asking:
                call.session.replica.route = elsewhere.shard
            return
        self.now += 1
        index, shard = address.shard, self.store.shards[address.shard]
        before, at_home = shard.now, self.store.home
        answer, key, wrote = execute(call.item, before.key, self.now, self.rules)
        ended = before.ended
        if isinstance(call.item, Close | Kill) and answer.word == "OK" and before.key:
            ended = ended | {before.key.incarnation}
        after = Version(key, ended)
        if wrote:
            shard.write(after)
        if shard is at_home:
            self.observer.executed(call, before, after, answer, self.now)
        else:  # a failover in the middle of a move left two keys
            self.observer.misled = True
        if not answered:
            return
        if self._waits(call.item) and (wrote or answer.word == "DUPLICATE"):
            call.parked.append((answer, index, shard.offset if wrote else 0, shard.offset))
            self._answer_parked(call)
        else:
            self._answer(call, answer)

    def _waits(self, item: Item) -> bool:
        """Whether the item is answered behind WAIT."""
        rules = self.rules
        return self.config.replicas > 0 and (
            (isinstance(item, Commit) and rules.wait_for_commits)
            or (isinstance(item, Claim) and rules.wait_for_claims)
            or (isinstance(item, Close) and rules.wait_for_closes)
        )

    def _answer_parked(self, call: Call) -> None:
        for parked in tuple(call.parked):
            answer, index, awaited, relied_on = parked
            if self.store.shards[index].holders(awaited) >= self.config.replicas:
                call.parked.remove(parked)
                self._answer(call, answer, index, relied_on)

    def _answer(self, call: Call, answer: Answer, index: int = 0, relied_on: int | None = None) -> None:
        session = call.session
        if session is None or not self._is_waited_for(call):
            return
        if relied_on is None:
            relied_on = self.store.shards[index].offset
        if self.config.replicas and answer.word in ("OK", "DUPLICATE") and not isinstance(call.item, Heartbeat):
            shard = self.store.shards[index]
            shard.told = max(shard.told, min(relied_on, shard.offset))
        if isinstance(call.item, Heartbeat):
            call.heard = True
        session.replica.answer(session, call.item, answer)
        if isinstance(call.item, Claim) and answer.word == "OK":
            self.observer.acknowledged_claim(session)

    def _is_waited_for(self, call: Call) -> bool:
        session = call.session
        if session is None or session.state == "ended":
            return False
        if isinstance(call.item, Heartbeat):
            return session.state == "live" and not call.heard
        return session.call is call

    # the store

    def _do_lapse(self) -> None:
        shard = self.store.home
        assert shard.now.key is not None
        shard.history[-1] = Version(replace(shard.now.key, lease=Lease.LAPSED), shard.now.ended)

    def _do_copy(self, index: str, replica: str) -> None:
        shard = self.store.shards[int(index)]
        shard.copied[int(replica)] = shard.offset
        for call in list(self.calls.values()):
            if call.parked:
                self._answer_parked(call)

    def _do_fail_over(self, index: str, lost: str) -> None:
        shard = self.store.shards[int(index)]
        last = shard.offset - int(lost)
        self.observer.fails_over(shard, last, covered=self.config.replicas > 0 and self.config.best)
        self.store.lost |= last < shard.offset
        shard.fail_over(last)
        for call in self.calls.values():
            call.parked = [parked for parked in call.parked if parked[1] != int(index)]
        if self.config.replicas and self.config.best and self.config.shards == 1:
            for client in self.clients.values():
                self.observer.closed(client)

    def _do_empty(self) -> None:
        self.store.empty()
        self.observer.answered_well = 0
        for call in self.calls.values():
            call.parked.clear()

    def _do_replaced(self) -> None:
        """The shard that has the store's id was lost, and the key is on another one."""
        self.store.store_id += 1
        for session in self.sessions.values():
            if session.state == "live" and not session.unary:
                reason = "STORE_UNAVAILABLE" if self.rules.replaced_ends_softly else "STORE_LOST"
                session.replica.end(session, Failed(reason))

    def _do_expire(self) -> None:
        """Everybody is idle until the key expires; no copy of a call outlives that."""
        shard = self.store.home
        assert shard.now.key is not None
        self.now += 1
        self.observer.expires(shard.now.key, self.now)
        self.store.lost = True
        shard.write(Version(None, frozenset() if shard.now.key.closed else shard.now.ended))
        for each in self.store.shards:
            each.deposed = None
        for call in self.calls.values():
            call.copies.clear()
            call.parked.clear()
            call.sends = 9
        for session in self.sessions.values():
            if session.call is not None or session.state == "waiting":
                session.from_kept = False
                session.replica.end(session, Failed("STORE_UNAVAILABLE"))
        for call in self.calls.values():
            call.copies.clear()

    def _do_start_move(self) -> None:
        self.budget["move"] -= 1
        self.store.target = 1 - self.store.owner

    def _do_move_key(self) -> None:
        self.store.move_key()

    def _do_end_move(self) -> None:
        self.store.end_move()

    # the quiet after

    def rest(self, mode: int) -> None:
        """Faults heal and everything that is on its way arrives: the lone client must come on.

        `mode`: 1 stray calls are executed, not lost; 2 the lone client's stream is cut first.
        """
        self.budget = dict.fromkeys(self.budget, 0) | {"heartbeats": 1}
        lone = self.clients[LONE]
        for client in self.clients.values():
            if client is not lone or mode & 2:
                client.leave()
        self._settle(mode)
        goal = lone.durable + 2 if lone.write_behind else lone.received + 2
        for turn in range(QUIET_ROUNDS):
            self._turn(turn)
            if lone.failure or lone.closed:
                break
            if lone.received >= goal:
                break
            self._go_on(lone, turn)
        else:
            raise Violation("I9 the lone client does not come on in a quiet time")
        if self.config.replicas and self.config.best and self.config.shards == 1:
            for client in self.clients.values():
                self.observer.closed(client)

    def _settle(self, mode: int) -> None:
        if self.store.target is not None:
            if self.store.shards[self.store.owner].now.key is not None:
                self.store.move_key()
            self.store.end_move()
        for shard in self.store.shards:
            shard.deposed = None
        for call in list(self.calls.values()):
            if not self._is_waited_for(call):
                while call.copies and mode & 1:
                    self._execute(call, answered=True)
                call.copies.clear()

    def _turn(self, turn: int) -> None:
        """Everything that the service and the store have to do."""
        for shard_index, shard in enumerate(self.store.shards):
            for replica in range(REPLICAS):
                if shard.copied[replica] < shard.offset:
                    self._do_copy(str(shard_index), str(replica))
        for session in list(self.sessions.values()):
            call = session.call
            if call and not call.copies and not call.parked:
                call.copies.append(Address(session.replica.route))
                call.sends += 1
        for call in list(self.calls.values()):
            if call.copies:
                self._execute(call, answered=True)
        for session in list(self.sessions.values()):
            self._serve_quietly(session)
        key = self.store.key
        owned = key and any(
            session.state in ("live", "granted") and session.owner.nonce == key.owner
            for session in self.sessions.values()
        )
        if key and key.lease is Lease.HELD and not owned and turn % 4 == 3:
            self._do_lapse()

    def _serve_quietly(self, session: Session) -> None:
        replica = session.replica
        if session.state == "granted" and session.call is None:
            replica.hold(session)
        if session.state == "waiting" and session.call is None:
            replica.claim_again(session)
        while session.state == "live" and not session.unary and session.call is None and session.up:
            before = len(session.up)
            replica.serve(session)
            if len(session.up) == before:
                break
        if session.state == "live" and session.call is None and not session.unary:
            if session.undurable:
                replica.flush(session)
            elif session.abandoned:
                replica.leave(session)
            elif self._beats(session):
                self.send(session, Heartbeat(session.owner))
        if session.unary and session.state == "ended" and session.name not in self.crashed:
            released = any(isinstance(call.item, Release) and call.session is session for call in self.calls.values())
            if not released:
                self.observer.idle(session)

    def _go_on(self, client: Client, turn: int) -> None:
        """The lone client does what it can."""
        if client.session is None:
            self._do_open(client.name, "AB"[turn % 2])
        while client.session is not None and client.session.down:
            self._do_receive(client.name)
        if client.session is None or not client.opened or client.kind is not Kind.STREAM:
            return
        while len(client.unanswered) < self.rules.window and not client.closing:
            client.add(1)
        while sum(sent.on_stream for sent in client.log) < self.rules.window and client.next():
            self._do_send(client.name)
