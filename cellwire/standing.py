"""What a client knows of its session: enough to claim it anywhere, and to notice another history than its own."""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import replace

from cellwire.errors import LineageMismatch, Position, StateRegressed
from cellwire.resume import Checkpoint, ResumePoint
from cellwire.v1 import cell_service_pb2 as pb
from cellwire.v1 import resume_pb2


class Standing:
    """The resume point as replies and openings move it on. Opens are made from it, and compared with it."""

    def __init__(self, point: ResumePoint, options: pb.Open) -> None:
        self.point = point
        """After the last received reply; a secret."""
        self.found_epoch = point.epoch
        """The last epoch that the client was told, in an error too."""
        self._options = options
        self._ahead: Checkpoint | None = None
        """Where the store stands ahead of what was received: a replay must lead there."""
        self._fell_back_to: Checkpoint | None = None
        """Where the store stands behind what it had told, until an open has said so."""

    @property
    def is_fetching(self) -> bool:
        """The stored replies up to where the store stands are still to come."""
        return self._options.HasField("replies_after") and self._ahead is not None

    def opening(self, undurable: Iterable[Checkpoint]) -> pb.Open:
        """Create, or claim with everything that this client knows; the checkpoints are of received steps."""
        opening = pb.Open()
        opening.CopyFrom(self._options)
        opening.session_id, opening.create_token = self.point.session_id, self.point.token
        opening.model, opening.version = self.point.model, self.point.version
        opening.found_epoch = self.found_epoch
        opening.metadata = True
        if self.point.h:
            opening.resume_point.CopyFrom(replace(self.point, undurable=tuple(undurable)).message())
        if opening.HasField("replies_after"):
            opening.replies_after = self.point.step
        if self._fell_back_to is not None:
            step, h = self._fell_back_to
            opening.accept_regression.CopyFrom(resume_pb2.Checkpoint(step=step, h=h))
        if self.point.step:
            opening.mode = pb.OPEN_MODE_RESUME
            for kept in ("constants", "outputs", "gates"):  # with the session, since it was created
                opening.ClearField(kept)
        return opening

    def fall_back(self, place: Position) -> None:
        """The store stands at an earlier step than it told or than was received, on the same history."""
        if place.step < self.point.durable_step:
            self._fell_back_to = (place.step, place.h)
        if place.step < self.point.step:
            self.point = replace(self.point, step=place.step, h=place.h)
        self.point = replace(self.point, durable_step=place.step, undurable=())
        self.found_epoch = place.epoch or self.found_epoch

    def adopt(self, told: pb.Opened, may_have_reached: Callable[[int], bool] | None) -> None:
        """Compare where the session stands with what is known, and take it from there.

        `may_have_reached` says which steps the unanswered messages may have led to; None: the messages that were
        on their way are not known, as this program did not send them. Raises StateRegressed, LineageMismatch.
        """
        point = self.point
        position = place_of(told)
        skips = self._options.skip_lost_replies and told.step > point.step
        if not point.h or skips:  # nothing is known of it, or no longer asked for: it begins where it stands
            point = replace(point, step=told.step, h=told.h)
        elif told.step < point.step:
            raise StateRegressed("the store holds an earlier step than was acknowledged", position=position)
        elif told.step == point.step and told.h != point.h:
            raise LineageMismatch("another history led to the last received step", position=position)
        elif told.step > point.step and may_have_reached is not None and not may_have_reached(told.step):
            raise LineageMismatch("the session stands at a step that this client never sent", position=position)
        self._ahead = (told.step, told.h) if told.step > point.step else None
        self._fell_back_to = None
        self.found_epoch = told.epoch
        is_mine = hashlib.sha256(point.token).digest()[:16] == told.incarnation
        self.point = replace(
            point,
            token=point.token if is_mine else told.create_token,  # opened by its id: without proof from now on
            model=told.model or point.model,
            version=told.version or point.version,
            durable_step=max(point.durable_step, min(told.step, point.step)),  # never beyond what was received
            undurable=(),  # the store holds them
            epoch=told.epoch,
            store_id=told.store_id,
            incarnation=told.incarnation,
        )

    def begin(self) -> None:
        """The session is open: from now on what has no reply is sent again."""
        self._options.ClearField("replies_after")
        self._options.ClearField("skip_lost_replies")

    def compare(self, reply: pb.Reply) -> None:
        """A replayed reply must lead to where the store said that the session stands. Raises LineageMismatch."""
        if self._ahead is not None and reply.step >= self._ahead[0]:
            if self._ahead != (reply.step, reply.h):
                raise LineageMismatch("a replayed step has another history than the store told")
            self._ahead = None

    def receive(self, reply: pb.Reply) -> None:
        """The next reply in its turn."""
        durable_step = max(self.point.durable_step, reply.durable_step)
        self.point = replace(self.point, step=reply.step, h=reply.h, durable_step=durable_step)


def place_of(told: pb.Opened) -> Position:
    """Where an opened session stands in the store."""
    return Position(told.step, told.h, told.epoch, told.incarnation, told.store_id)
