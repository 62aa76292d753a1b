"""The scripts of service/store/lua as pure functions of one key: what each answers and what it leaves."""

from dataclasses import replace

from tests.model.protocol.items import (
    Answer,
    Chain,
    Claim,
    Close,
    Commit,
    Heartbeat,
    Item,
    Key,
    Kill,
    Lease,
    Mode,
    Owner,
    Point,
)
from tests.model.protocol.rules import Rules

Result = tuple[Answer, Key | None, bool]
"""The answer, the key as it is now, and whether anything was written."""


def execute(item: Item, key: Key | None, now: int, rules: Rules) -> Result:
    """One execution at the store's time `now`, which no two executions share."""
    match item:
        case Claim():
            return _claim(item, key, now, rules)
        case Kill():
            return _kill(item, key, now, rules)
        case Close():
            return _close(item, key, now, rules)
        case Commit():
            return _commit(item, key, now, rules)
    refused = _refusal(item.owner, key, rules, fenced=isinstance(item, Heartbeat) or rules.release_fenced)
    if refused or key is None:
        return refused or Answer("GONE"), key, False
    lease = Lease.RELEASED
    if isinstance(item, Heartbeat):
        kept = rules.heartbeat_keeps_release and key.lease is Lease.RELEASED
        lease = key.lease if kept else Lease.HELD
    return Answer("OK"), replace(key, lease=lease, touched=now), True


def _epoch(key: Key | None, now: int, rules: Rules) -> int:
    following = (key.epoch if key else 0) + 1
    return max(following, now) if rules.epochs_from_time else following


def _fence(key: Key, owner: Owner, rules: Rules) -> Answer | None:
    passes = {"equal": owner.epoch == key.epoch, "at_least": owner.epoch >= key.epoch, "none": True}[rules.fence]
    if rules.fence == "equal" and rules.nonce:
        passes = passes and owner.nonce == key.owner
    return None if passes else Answer("FENCED", key.step, key.epoch, key.displaced)


def _refusal(owner: Owner, key: Key | None, rules: Rules, fenced: bool = True) -> Answer | None:
    if key is None:
        return Answer("GONE")
    if rules.incarnation and rules.other_life_fences and key.incarnation != owner.incarnation:
        return Answer("FENCED", key.step, key.epoch, key.displaced)
    if key.closed:
        return Answer("CLOSED", key.step)
    if rules.incarnation and key.incarnation != owner.incarnation:
        return Answer("GONE")
    return _fence(key, owner, rules) if fenced else None


def known(key: Key, step: int) -> Chain | None:
    """The digest of a step, from the checkpoint or the ring."""
    if step == key.step:
        return key.h
    for record in key.ring:
        if record.last == step:
            return record.after
        if record.first - 1 == step:
            return record.before
    return None


def _broken(point: Point, key: Key, rules: Rules) -> str | None:
    """Why a caller with this resume point may not go on from here."""
    stored = known(key, point.step)
    if rules.lineage_checked and stored is not None and stored != point.h:
        return "LINEAGE"
    if rules.old_lineage_refused and stored is None and point.step < key.step and not point.skip_lost:
        return "TOO_OLD"
    if key.step < point.durable and rules.durable_checked:
        accepted = point.accept == (key.step, key.h) if rules.accept_pair else point.accept is not None
        return None if accepted else "REGRESSED"
    if key.step < point.step and rules.undurable_compared:
        told_h = dict(point.undurable).get(key.step, key.h)
        return "LINEAGE" if told_h != key.h else None
    return None


def _claim(item: Claim, key: Key | None, now: int, rules: Rules) -> Result:
    def refuse(word: str) -> Result:
        answer = Answer(word, key.step, key.epoch, 0, key.h) if key else Answer(word)
        return answer, key, False

    def grant(new: Key) -> Result:
        return Answer("OK", new.step, new.epoch, new.displaced, new.h, new), new, True

    def create() -> Result:
        old = key.epoch if key else 0
        h = (f"{item.token}@",)
        return grant(Key(item.token, _epoch(key, now, rules), item.nonce, old, 0, h, (), Lease.HELD, now))

    point = item.point
    resumes = item.mode is Mode.RESUME
    beyond = point is not None and point.step > 0
    checks_found = rules.restart_found if item.mode is Mode.RESTART else rules.found_epoch
    stale = checks_found and item.found != (key.epoch if key else 0)
    if key is None:
        if not rules.resume_creates:
            if beyond or (resumes and item.found):
                return refuse("MISSING")
            if resumes:
                return refuse("UNKNOWN")
        return refuse("STALE") if stale and not rules.resume_creates else create()
    holder = item.token == key.incarnation
    if key.closed:
        if rules.tombstone_names_life and point and point.incarnation != key.incarnation:
            return refuse("INCARNATION")
        if holder or resumes or beyond:
            answer, _, _ = refuse("CLOSED")
            return answer, key, rules.wait_for_closed
        return refuse("STALE") if stale else create()
    if item.mode is Mode.RESTART and not holder:
        return refuse("STALE") if stale else create()
    if rules.incarnation:
        if not holder and item.token and item.mode is Mode.CREATE:
            return refuse("EXISTS")
        if not holder and item.token and resumes:
            return refuse("UNKNOWN")
        if point and point.incarnation != key.incarnation:
            return refuse("INCARNATION")
    broken = _broken(point, key, rules) if point else None
    if broken:
        return refuse(broken)
    if rules.same_nonce and key.owner == item.nonce:
        return grant(replace(key, touched=now))
    if key.lease is Lease.HELD and not holder:
        return refuse("BUSY")
    if stale:
        return refuse("STALE")
    epoch = _epoch(key, now, rules)
    return grant(replace(key, epoch=epoch, owner=item.nonce, displaced=key.epoch, lease=Lease.HELD, touched=now))


def _commit(item: Commit, key: Key | None, now: int, rules: Rules) -> Result:
    last = item.records[-1]
    if key is None and rules.commit_creates:
        owner = item.owner
        h, lease = item.h_from, Lease.HELD
        key = Key(owner.incarnation, owner.epoch, owner.nonce, 0, item.step_from, h, (), lease, now)
    refused = _refusal(item.owner, key, rules)
    if key is None:
        return Answer("GONE"), key, False
    is_done = (key.step, key.h) == (last.last, last.after) and not key.closed
    if is_done and (refused is None or (refused.word == "FENCED" and not rules.duplicate_behind_fence)):
        touched = replace(key, touched=now) if rules.duplicate_writes else key
        return Answer("DUPLICATE", key.step), touched, rules.duplicate_writes
    if refused:
        return refused, key, False
    if rules.from_checked and (key.step, key.h) != (item.step_from, item.h_from):
        return Answer("MISMATCH", key.step), key, False
    kept = rules.commit_keeps_release and key.lease is Lease.RELEASED
    new = replace(
        key,
        step=last.last,
        h=last.after,
        ring=(key.ring + item.records)[-rules.ring :],
        lease=Lease.HELD if item.holds and not kept else Lease.RELEASED,
        touched=now,
    )
    return Answer("OK", new.step), new, True


def _tombstone(key: Key, now: int, rules: Rules) -> Key | None:
    closed = replace(key, closed=True, lease=Lease.RELEASED, ring=key.ring[-1:], touched=now)
    return closed if rules.tombstone else None


def _close(item: Close, key: Key | None, now: int, rules: Rules) -> Result:
    if key and key.closed and key.incarnation == item.owner.incarnation and not _fence(key, item.owner, rules):
        return Answer("DUPLICATE", key.step), replace(key, touched=now), True
    refused = _refusal(item.owner, key, rules)
    if refused or key is None:
        closed = refused is not None and refused.word == "CLOSED"
        return refused or Answer("GONE"), key, closed and rules.wait_for_closed
    if item.step != key.step:
        return Answer("MISMATCH", key.step), key, False
    return Answer("OK", key.step), _tombstone(key, now, rules), True


def _kill(item: Kill, key: Key | None, now: int, rules: Rules) -> Result:
    if key is None or (rules.kill_names_life and key.incarnation != item.incarnation):
        return Answer("GONE"), key, False
    if key.closed:
        return Answer("CLOSED", key.step), key, False
    fenced = replace(key, epoch=_epoch(key, now, rules), owner="", displaced=key.epoch)
    return Answer("OK", key.step), _tombstone(fenced, now, rules), True
