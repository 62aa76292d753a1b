"""The session protocol (docs/protocol.md) in plain Python: what each script answers for one key and what it does to it.

Knows the rules and the names of the fields, not Redis. Time is given with each call; the scripts are compared with
this, reply by reply and field by field.
"""

from service.store.records import decode_record
from service.store.scripts import Claim, Close, Commit, Heartbeat, Kill, Owner, Peek, Release
from service.values import Mode, ResumePoint

Answer = bytes | list[bytes]


def number(value: int) -> bytes:
    return b"%d" % value


class SessionModel:
    """One key: its fields (none: there is no key) and when it expires, in milliseconds."""

    def __init__(self) -> None:
        self.fields: dict[str, bytes] = {}
        self.expires = 0

    def call(self, item: Claim | Commit | Heartbeat | Release | Close | Kill | Peek, micros: int) -> Answer:
        """The answer to an item that is executed at this time, microseconds since 1970."""
        now = micros // 1000
        match item:
            case Claim():
                return self._claim(item, micros, now)
            case Commit():
                return self._refusal(item.owner) or self._commit(item, now)
            case Heartbeat():
                return self._refusal(item.owner) or self._heartbeat(item, now)
            case Release():
                return self._refusal(item.owner) or self._release(item, now)
            case Close():
                return self._close(item, now)
            case Kill():
                return self._kill(item, micros, now)
            case Peek():
                return self._peek(now)

    # ---- claim

    def _claim(self, item: Claim, micros: int, now: int) -> Answer:
        k, point = self.fields, item.resume_point
        resumes = item.mode is Mode.RESUME
        stale = number(item.found_epoch) != k.get("e", b"0")
        knows_steps = point is not None and (point.received.step > 0 or point.durable_step > 0)
        if not k:
            if knows_steps or (resumes and item.found_epoch):
                return self._refuse(b"MISSING")
            if resumes:
                return self._refuse(b"UNKNOWN")
            return self._refuse(b"STALE_OPEN") if stale else self._create(item, micros, now)
        holder = item.incarnation == k["i"]
        if b"c" in k["f"]:
            if holder or resumes or knows_steps:
                named = point.incarnation if point else b""
                return self._refuse(b"INCARNATION" if named not in (b"", k["i"]) else b"CLOSED")
            return self._refuse(b"STALE_OPEN") if stale else self._create(item, micros, now)
        if item.mode is Mode.RESTART and not holder:
            return self._refuse(b"STALE_OPEN") if stale else self._create(item, micros, now)
        refused = self._identity(item, holder) or self._model(item)
        if refused is None and point:
            refused = self._lineage(item, point)
        if refused:
            return refused
        if k["o"] == item.nonce:
            self.expires = now + item.ttl_ms
            return self._granted(b"resumed", item.ring)
        left = int(k["l"]) - now
        leased = 0 < left <= item.max_lease_ms
        if leased and not holder:
            return self._refuse(b"BUSY", number(left))
        if stale:
            return self._refuse(b"STALE_OPEN")
        self.expires = now + item.ttl_ms
        k.update(e=self._epoch(micros), o=item.nonce, p=k["e"], l=number(now + item.lease_ms), u=number(now))
        return self._granted(b"displaced" if leased else b"resumed", item.ring)

    def _identity(self, item: Claim, holder: bool) -> Answer | None:
        named = item.resume_point.incarnation if item.resume_point else b""
        if item.incarnation and not holder and item.mode is Mode.CREATE:
            return self._refuse(b"EXISTS")
        if item.incarnation and not holder and item.mode is Mode.RESUME:
            return self._refuse(b"UNKNOWN")
        if named and named != self.fields["i"]:
            return self._refuse(b"INCARNATION")
        return None

    def _model(self, item: Claim) -> Answer | None:
        model = self.fields["m"].decode()
        name, version, _ = model.split("/")
        if item.name not in ("", name) or item.asked_version not in ("", version):
            return self._refuse(b"MODEL_CHANGED", model.encode())
        if model in item.served:
            return None
        here = any(served.startswith(f"{name}/{version}/") for served in item.served)
        return self._refuse(b"MODEL_CHANGED" if here else b"MODEL_NOT_HERE", model.encode())

    def _lineage(self, item: Claim, point: ResumePoint) -> Answer | None:
        n, h, step = int(self.fields["n"]), self.fields["h"], point.received.step
        known = self._known(item.ring).get(step)
        if known is not None and known != point.received.h:
            return self._refuse(b"LINEAGE")
        if known is None and step < n and not item.skip_lost_replies:
            return self._refuse(b"TOO_OLD")
        if n < point.durable_step:
            accepted = item.accept_regression
            if accepted is None or (accepted.step, accepted.h) != (n, h):
                return self._refuse(b"REGRESSED")
        elif n < step and any(at.step == n and at.h != h for at in point.undurable):
            return self._refuse(b"LINEAGE")
        return None

    def _known(self, ring: int) -> dict[int, bytes]:
        """The digest of each step that the key still knows."""
        known = {}
        for body in self._ring(ring):
            record = decode_record(body)
            assert record
            known[record.last] = record.h_after
            known.setdefault(record.first - 1, record.h_before)
        known[int(self.fields["n"])] = self.fields["h"]
        return known

    def _ring(self, ring: int) -> list[bytes]:
        return [self.fields[f"r{slot}"] for slot in range(ring) if f"r{slot}" in self.fields]

    def _create(self, item: Claim, micros: int, now: int) -> Answer:
        self.fields = {
            "e": self._epoch(micros),
            "p": self.fields.get("e", b"0"),
            "i": item.incarnation,
            "o": item.nonce,
            "n": b"0",
            "h": item.h0,
            "s": item.state,
            "c": b"0",
            "x": item.options,
            "m": f"{item.name}/{item.version}/{item.digest}".encode(),
            "l": number(now + item.lease_ms),
            "f": item.flags,
            "u": number(now),
        }
        self.expires = now + item.ttl_ms
        return self._granted(b"created", item.ring)

    def _granted(self, how: bytes, ring: int) -> Answer:
        return [b"OK", how, *(self.fields[name] for name in "epimnhcfxs"), *self._ring(ring)]

    def _refuse(self, why: bytes, detail: bytes = b"") -> Answer:
        k = self.fields
        return [why, k.get("e", b"0"), k.get("n", b"0"), k.get("h", b""), detail]

    def _epoch(self, micros: int) -> bytes:
        return number(max(int(self.fields.get("e", b"0")) + 1, micros))

    # ---- what the current claim may do

    def _refusal(self, owner: Owner) -> Answer | None:
        k = self.fields
        if not k:
            return b"GONE"
        if k["i"] == owner.incarnation and b"c" in k["f"]:
            return b"CLOSED " + k["n"]
        if (k["i"], k["e"], k["o"]) != (owner.incarnation, number(owner.epoch), owner.nonce):
            return b"FENCED " + k["e"] + b" " + k["p"]
        return None

    def _commit(self, item: Commit, now: int) -> Answer:
        k = self.fields
        at = (k["n"], k["h"])
        expires = now + item.ttl_ms if item.ttl_ms else self.expires
        if at == (number(item.n_to), item.h_to):
            self.expires = expires
            return b"DUPLICATE " + k["n"]
        if at != (number(item.n_from), item.h_from):
            return b"MISMATCH " + k["n"]
        count = int(k["c"])
        lease = number(now + item.lease_ms) if item.lease_ms and k["l"] != b"0" else b"0"
        after = number(count + len(item.records))
        k.update(n=number(item.n_to), h=item.h_to, s=item.state, c=after, l=lease, u=number(now))
        k.update({f"r{at % item.ring}": record for at, record in enumerate(item.records, count)})
        self.expires = expires
        return b"OK " + k["n"]

    def _heartbeat(self, item: Heartbeat, now: int) -> Answer:
        self.expires = now + item.ttl_ms
        if self.fields["l"] != b"0":
            self.fields.update(l=number(now + item.lease_ms), u=number(now))
        return b"OK"

    def _release(self, item: Release, now: int) -> Answer:
        self.expires = now + item.ttl_ms
        self.fields.update(l=b"0", u=number(now))
        return b"OK"

    def _close(self, item: Close, now: int) -> Answer:
        k, owner = self.fields, item.owner
        mine = (owner.incarnation, number(owner.epoch), owner.nonce)
        if k and b"c" in k["f"] and (k["i"], k["e"], k["o"]) == mine:
            self.expires = now + item.tombstone_ms
            return b"DUPLICATE " + k["n"]
        refused = self._refusal(owner)
        if refused:
            return refused
        if item.n != int(k["n"]):
            return (b"GAP " if item.n > int(k["n"]) else b"CONFLICT ") + k["n"]
        self._bury(item.tombstone_ms, now)
        return b"OK " + k["n"]

    # ---- the operator's

    def _kill(self, item: Kill, micros: int, now: int) -> Answer:
        k = self.fields
        if not k or k["i"] != item.incarnation:
            return b"GONE"
        if b"c" in k["f"]:
            return b"CLOSED " + k["n"]
        k.update(e=self._epoch(micros), o=b"", p=k["e"])
        self._bury(item.tombstone_ms, now)
        return b"OK " + k["n"]

    def _bury(self, tombstone: int, now: int) -> None:
        """Leaves a tombstone: no payload, and of the ring only the record of the last step."""
        k = self.fields
        records = {name: decode_record(value) for name, value in k.items() if name[0] == "r"}
        last = max((record.last for record in records.values() if record), default=0)
        for name, record in records.items():
            if record and record.last != last:
                del k[name]
        for name in ("s", "x"):
            del k[name]
        k.update(f=k["f"] + b"c", l=b"0", u=number(now))
        self.expires = now + tombstone

    def _peek(self, now: int) -> Answer:
        k = self.fields
        if not k:
            return b"GONE"
        left = max(0, int(k["l"]) - now)
        size = len(k.get("s", b""))
        seen = [k[name] for name in "ienhmf"]
        return [b"OK", *seen, number(left), k["u"], number(self.expires - now), number(size)]
