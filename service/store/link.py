"""Calls scripts on the primaries that hold their items, and calls again what is in doubt until a deadline.

Every answer must echo the call's random tag and have one result an item; anything else closes the connection, because
a shifted answer would hand one session's state to another. What was not answered goes out again: the very same call
while all its items are in doubt, otherwise those of its items that are.
"""

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

import structlog
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import AskError, MovedError, NoScriptError, RedisError, ResponseError

from service import failpoints, metrics
from service.store.call import SHORT, Call, Told, Unanswered
from service.store.endpoint import Node
from service.store.exchange import Command, nothing
from service.store.scripts import COMMIT, Item, Script
from service.store.topology import PRIMARY, NoPrimary, Topology
from service.store.wire import FAULTS, Send, Wire, ask

logger = structlog.get_logger(__name__)

FIRST_PAUSE, LAST_PAUSE = 0.02, 0.5
WAIT_SHARE = 0.5
"""Of the time of an answer: what WAIT may use of it, so that it answers before its reader gives up."""
Meet = Callable[[Node, Send], Awaitable[None]]
"""What is asked first on each new connection to a primary."""

DENIED = frozenset(("AuthenticationError", "NoPermissionError", "NOAUTH", "NOPERM"))


class WrongAnswer(RedisError):
    """The answer is not that of the call: the connection is out of step."""


def _after_send() -> None:
    failpoints.hit("after_send")


async def _ask_nothing(_: Node, __: Send) -> None:
    """The first question on a connection whose store need not be known."""


class Link:
    """Connections of one user, one to each primary that he needs."""

    def __init__(self, topology: Topology, name: str, meet: Meet = _ask_nothing, degrade: bool = False) -> None:
        self._topology = topology
        self._name = name
        self._meet = meet
        self._degrade = degrade
        self._wires: dict[Node, Wire] = {}
        self._gave_up: set[Node | None] = set()
        """Where the last call found nobody: until one does, calls try once instead of queueing for their deadlines."""

    async def aclose(self) -> None:
        """Closes the connections."""
        for wire in self._wires.values():
            await wire.close()

    async def ask(self, node: Node, *commands: Command) -> list[object]:
        """The answers of a primary to plain commands, which are tried once.

        Raises:
            RedisError, OSError, TimeoutError: one has none, or a refusal.
        """
        try:
            answers = await self._wire(node).exchange(commands, time.monotonic() + 2 * self._topology.timeout)
            for answer in answers:
                if isinstance(answer, ResponseError):
                    raise answer
        except FAULTS:
            await self.leave(node)
            raise
        return answers

    async def leave(self, node: Node) -> None:
        """Whatever stands at the node, it is not what was looked for: the next call connects anew."""
        self._topology.doubt()
        await self._wire(node).close()

    async def call(self, script: Script, items: Sequence[Item], deadline: float) -> list[Told | Unanswered]:
        """One answer an item, in their order.

        Args:
            script: the script.
            items: each with the key of its session; no two of one session.
            deadline: monotonic time after which what has no answer is given up.
        """
        told: dict[int, Told] = {}
        places = list(enumerate(items))
        parts = [[place] for place in places] if self._topology.one_key_a_call else [places]
        calls = [Call(script, part) for part in parts if part]
        pause, redirects, warned = FIRST_PAUSE, 0, False
        while calls:
            await self._round(calls, max(FIRST_PAUSE, deadline - time.monotonic()))
            unanswered: list[Call] = []
            for call in calls:
                told |= call.told
                if call.items:
                    unanswered.append(call)
                else:
                    self._gave_up.discard(call.node)
            if not unanswered:
                break
            late = time.monotonic() + pause > deadline
            again: list[Call] = []
            lost: list[Call] = []
            for call in unanswered:
                (lost if late or (call.fault and call.node in self._gave_up) else again).append(call)
            if not warned and any(call.fault in DENIED for call in unanswered):
                warned = True
                logger.warning("store.denied", script=script.name)
            if lost:
                self._gave_up |= {call.node for call in lost}
                kinds = sorted({call.fault or "redirected" for call in lost})
                logger.warning("store.gave_up", script=script.name, items=len(lost), kinds=kinds)
            calls = again
            redirects += 1
            if any(call.fault for call in calls) or (redirects > 1 and calls):
                await asyncio.sleep(pause * (0.5 + secrets.randbelow(1000) / 1000))
                pause = min(2 * pause, LAST_PAUSE)
        return [told.get(place) or Unanswered("the store does not answer") for place, _ in places]

    async def _round(self, calls: Sequence[Call], left: float) -> None:
        """Sends each call where its key is, those of one primary in one write, all primaries at once."""
        if self._topology.in_doubt:
            with suppress(*FAULTS):  # what is missing then shows by the calls
                async with asyncio.timeout(left):
                    await self._topology.learn()
        groups: dict[Node, list[Call]] = {}
        for call in calls:
            try:
                call.node = call.ask_at or self._topology.holder(call.items[0][1].key)
            except NoPrimary as error:
                call.node = None
                call.fail(type(error).__name__)
            else:
                groups.setdefault(call.node, []).append(call)
        if len(groups) == 1:
            (group,) = groups.items()
            await self._deliver(*group, left)
            return
        async with asyncio.TaskGroup() as deliveries:
            for node, group_calls in groups.items():
                deliveries.create_task(self._deliver(node, group_calls, left))

    async def _deliver(self, node: Node, calls: Sequence[Call], left: float) -> None:
        """Sends calls to a primary; each then has answers, a fault, or another place to go to."""
        try:
            await self._exchange(node, calls, time.monotonic() + min(2 * self._topology.timeout, left))
        except FAULTS as error:
            for call in calls:
                if call.items:
                    call.in_doubt, call.ask_at = True, None
                    call.fail(type(error).__name__)
            self._topology.doubt()
            return
        for call in calls:
            if call.fault and call.fault != SHORT:
                await self.leave(node)
                return

    async def _exchange(self, node: Node, calls: Sequence[Call], deadline: float, load: bool = False) -> None:
        """One write with the calls, and WAIT behind them where replicas are asked for: it looks only at what its own
        connection wrote last."""
        commands: list[Command] = [(b"SCRIPT", b"LOAD", calls[0].script.source)] if load else []
        at: list[int] = []
        for call in calls:
            if call.ask_at:
                commands.append((b"ASKING",))
            at.append(len(commands))
            commands.append(call.command)
        replicas = max([call.replicas for call in calls])
        if replicas:
            commands.append((b"WAIT", replicas, max(1, round(self._topology.timeout * 1000 * WAIT_SHARE))))

        def check(answers: list[object]) -> None:
            for call, index in zip(calls, at, strict=True):
                if not call.is_answered_by(answers[index]):
                    metrics.STORE_ERRORS.labels("wrong_answer").inc()
                    raise WrongAnswer("the answer does not echo the call")

        sent = nothing
        if calls[0].script is COMMIT:
            failpoints.hit("before_send")
            sent = _after_send
        answers = await self._wire(node).exchange(commands, deadline, check, sent)
        holding = answers[-1] if replicas and isinstance(answers[-1], int) else 0
        unloaded: list[Call] = []
        for call, index in zip(calls, at, strict=True):
            answer = answers[index]
            if isinstance(answer, NoScriptError) and not load:
                unloaded.append(call)
                continue
            call.ask_at = None
            if isinstance(answer, list):
                call.take(answer[1:], holding, self._degrade)
            elif isinstance(answer, AskError):  # MOVED is one too
                self._redirect(call, answer)
            else:
                call.fail(type(answer).__name__)
        if unloaded:
            await self._exchange(node, unloaded, deadline, load=True)

    def _redirect(self, call: Call, told: AskError) -> None:
        """A node that does not know its own name says none: it is the one that was asked."""
        asked = call.node or PRIMARY
        node = Node(told.host or asked.host, told.port)
        call.fault = None
        if isinstance(told, MovedError):
            self._topology.moved(told.slot_id, node)
        else:
            call.ask_at = node

    def _wire(self, node: Node) -> Wire:
        wire = self._wires.get(node)
        if wire is None:
            wire = self._wires[node] = Wire(lambda: self._open(node))
        return wire

    async def _open(self, node: Node) -> AbstractConnection:
        connection = await self._topology.open(node, self._name)
        try:
            await self._meet(node, lambda command: ask(connection, *command))
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        return connection
