"""What must never happen, whoever fails: the observer of a world, who sees everything and raises Violation."""

from tests.model.protocol.client import Client, Kind
from tests.model.protocol.items import Answer, Chain, Claim, Commit, Item, Key, Kill, Lease, Release
from tests.model.protocol.replica import Call, Opened, Reply, Response, Session
from tests.model.protocol.store import Shard, Store, Version


class Violation(Exception):
    """An invariant is broken. Its first word names the invariant."""


LONE = frozenset(
    {
        "SUPERSEDED",
        "INCARNATION_MISMATCH",
        "SESSION_EXISTS",
        "STEP_CONFLICT",
        "LINEAGE_MISMATCH",
        "SESSION_CLOSED",
        "LAST_STEP_MISMATCH",
    }
)
"""What only a rival, or an operator, may bring about."""
LOSSES = frozenset({"SESSION_EXPIRED_OR_LOST", "STORE_LOST", "STATE_REGRESSED", "STEP_GAP"})
"""What only a loss of the store may bring about."""
LOSSES_OR_RIVALS = frozenset({"STEP_TOO_OLD", "SESSION_UNKNOWN"})
"""What only a loss or a rival may."""


class Observer:
    """Knows the whole history; nobody in the world sees it."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.rival = False
        """Somebody else than the lone client was there."""
        self.misled = False
        """A primary that was deposed, which knows less, answered somebody."""
        self.expired: dict[str, int] = {}
        """Lives by incarnation, and when they expired."""
        self.released: set[tuple[str, int]] = set()
        """Claims that gave up their lease."""
        self.acknowledged: dict[tuple[str, int], tuple[int, Session]] = {}
        """Claims whose grant reached their Session, and when they were granted."""
        self.granted: dict[tuple[str, int], int] = {}
        """When each claim was granted."""
        self.answered_well = 0
        self.released.clear()
        """The store's time of the last write that was answered well."""

    # at the store

    def executed(self, call: Call, before: Version, after: Version, answer: Answer, now: int) -> None:
        """A call was executed in the history that counts."""
        item, key = call.item, before.key
        if isinstance(item, Kill):
            if answer.word == "OK" and key and key.incarnation != item.incarnation:
                raise Violation("KILL a kill ended another life than the one it was asked for")
            return
        if isinstance(item, Claim) and answer.word == "OK":
            self._granted(call, item, before, after, now)
        elif isinstance(item, Claim) and key and key.owner == item.nonce and call.grants and self._is_waited_for(call):
            raise Violation("OPEN a claim that was granted is refused when it is asked again")
        elif isinstance(item, Commit) and answer.word == "OK":
            self._committed(call, item, before)
        elif isinstance(item, Commit) and answer.word == "DUPLICATE" and self._is_waited_for(call):
            self._found_done(call, item, before)
        elif isinstance(item, Release) and answer.word == "OK" and key:
            frees = key.lease is Lease.HELD and key.owner != item.owner.nonce
            if frees:
                raise Violation("LEASE a release gave up the lease of another claim")
        self._watch_lease(item, key, after.key)
        if answer.word in ("OK", "DUPLICATE") and after.key:
            self.answered_well = now

    def _watch_lease(self, item: Item, key: Key | None, now: Key | None) -> None:
        if now is None or isinstance(item, Claim | Kill):
            return
        claim = (now.owner, now.epoch)
        if isinstance(item, Release) and now.lease is Lease.RELEASED:
            self.released.add(claim)
        if now.lease is Lease.HELD and claim in self.released and key and key.lease is not Lease.HELD:
            raise Violation("LEASE a lease that was given up is held again, for nobody")

    def _granted(self, call: Call, item: Claim, before: Version, after: Version, now: int) -> None:
        key, new = before.key, after.key
        assert new is not None
        assert call.session is not None
        if key is not None and key.owner == item.nonce:
            call.grants += 1
            return
        if new.incarnation in before.ended:
            raise Violation("I10 a closed session lives again")
        nobody = call.session.call is not call or call.session.abandoned or call.grants > 0
        call.grants += 1
        self.granted[item.nonce, new.epoch] = now
        if nobody and key is None and call.made < self.expired.get(new.incarnation, 0):
            raise Violation("I10 a late claim created an expired session again")
        if nobody and key is not None and not key.closed:
            granted, owner = self.acknowledged.get((key.owner, key.epoch), (0, None))
            knew_nothing = owner and (call.session.client == owner.client or call.made < granted)
            if owner and knew_nothing and self._is_served(owner):
                raise Violation("GHOST a late claim, for nobody, took a session from its acknowledged owner")

    def _is_served(self, session: Session) -> bool:
        return session.state == "live" and session.told and not session.abandoned

    def _committed(self, call: Call, item: Commit, before: Version) -> None:
        key, records = before.key, item.records
        if key is None:
            raise Violation("I10 a commit created a session")
        if key.incarnation in before.ended:
            raise Violation("I10 a commit into a closed session")
        if key.owner != item.owner.nonce or key.incarnation != item.owner.incarnation:
            raise Violation("I4 a commit of another claim than the current one")
        if key.h != records[0].before or key.step != records[0].first - 1:
            raise Violation("I1 a commit that does not follow")
        chain = records[-1].after
        if len(set(chain)) != len(chain):
            raise Violation("I1 an input advanced the session twice")
        if len(chain) != records[-1].last + 1:
            raise Violation("I1 as many inputs as steps")

    def _found_done(self, call: Call, item: Commit, before: Version) -> None:
        assert call.session is not None
        if before.key is None or call.session.write_behind:
            return
        for record in before.key.ring:
            if record.after == item.records[-1].after and record.output != item.records[-1].output:
                raise Violation("I7 DUPLICATE for a reply that is not the stored one")

    def _is_waited_for(self, call: Call) -> bool:
        return call.session is not None and call.session.call is call

    def expires(self, key: Key, now: int) -> None:
        """The key's time to live is over."""
        if key.touched < self.answered_well:
            raise Violation("TTL a call was answered well and left the time to live as it was")
        if not key.closed:
            self.expired[key.incarnation] = now

    def fails_over(self, shard: Shard, last: int, covered: bool) -> None:
        """What is behind `last` is lost; `covered`: answered writes may not be."""
        self.answered_well = 0
        self.released.clear()
        if covered and last < shard.told:
            raise Violation("WAIT an answered write is lost, though the replica that is promoted was to hold it")

    # at a replica

    def acknowledged_claim(self, session: Session) -> None:
        """The grant reached its Session."""
        claim = (session.owner.nonce, session.owner.epoch)
        self.acknowledged[claim] = (self.granted.get(claim, 0), session)

    def leaves(self, session: Session, reply: Reply) -> None:
        """A reply is on its way to the client: what it says is durable must be in the store."""
        key = self._store.key
        from_memory = reply.replayed and session.from_kept and not self.misled
        if from_memory and (key is None or key.h[: reply.step + 1] != reply.h):
            raise Violation("I4 a kept Session answered a step that is not in the store's history")
        if self._store.lost or key is None or key.closed or key.incarnation != session.owner.incarnation:
            return
        step = reply.durable if session.write_behind else reply.step
        if key.step < step or key.h[: reply.step + 1][: step + 1] != reply.h[: step + 1]:
            raise Violation("I4 a reply left whose step is not in the store's history")

    # at a client

    def before(self, client: Client, response: Response) -> None:
        """A response is about to be taken."""
        if isinstance(response, Opened) and client.knows:
            self._opened(client, response)

    def _opened(self, client: Client, told: Opened) -> None:
        if told.step < client.durable and client.accept != (told.step, told.h):
            raise Violation(f"I2 opened at {told.step}, below the durable step {client.durable} that was told")

    def after(self, client: Client, response: Response, told: dict[int, Chain], received: int) -> None:
        """A response was taken by a client that had been told these digests."""
        if client.failure:
            self._surfaced(client)
            return
        match response:
            case Opened(step, h) if told and client.received == received:  # and not further, knowingly
                same = min(step, received)
                if h[: same + 1] != told[received][: same + 1]:
                    raise Violation("I2 opened silently on another lineage")
            case Reply():
                self._replied(client, response)

    def _replied(self, client: Client, reply: Reply) -> None:
        sent = next((each for each in client.log if each.message.last == reply.step), None)
        if sent is None:
            return
        inputs = sent.message.inputs
        if reply.h[-len(inputs) :] != inputs:
            raise Violation("REPLY to other inputs than those that were sent")
        base = client.told.get(sent.message.first - 1)
        if base is not None and client.told[reply.step] != base + inputs:
            raise Violation("I2 went on silently on another lineage")
        if client.write_behind or self._store.lost:
            return
        if client.delivered.setdefault(reply.h, reply.output) != reply.output:
            raise Violation("I7 a replayed reply is not the first one")

    def _surfaced(self, client: Client) -> None:
        why = client.failure
        lossy = self._store.lost or self.misled
        if why in LONE and not self.rival:
            # an earlier life of the id, which had been closed, may be back
            told = why in ("INCARNATION_MISMATCH", "LINEAGE_MISMATCH") or (why == "SESSION_CLOSED" and not client.token)
            came_back = lossy and client.lives > 1 and told
            if not came_back:
                raise Violation(f"LONE a lone client was told {why}")
        if why == "STATE_REGRESSED" and client.kind is Kind.STREAM and not self.rival:
            raise Violation("REPLAY a client that holds everything gave up instead of sending it again")
        if (why in LOSSES or (why in LOSSES_OR_RIVALS and not self.rival)) and not lossy:
            raise Violation(f"FALSELOSS {why} without any loss")

    # at the end

    def closed(self, client: Client) -> None:
        """A close that was told must still be so, where failovers lose nothing that was answered."""
        key = self._store.key
        if key and not key.closed and client.closed and key.incarnation == client.token:
            raise Violation("WAIT a close that was told is undone")

    def idle(self, session: Session) -> None:
        """A unary call is over."""
        key = self._store.key
        if self._store.lost:
            return  # maybe the commit that gave it up
        if key and key.lease is Lease.HELD and (key.owner, key.epoch) == (session.owner.nonce, session.owner.epoch):
            raise Violation("LEASE a unary call that is over holds its lease")
