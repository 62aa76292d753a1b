"""What opening and closing a session mean on a stream of either kind: what the client is told, and what is done."""

from cellwire.v1 import cell_service_pb2 as pb
from service.codec import duration
from service.errors import SessionClosed
from service.session import Session, Terms
from service.sessions import OpenedSession
from service.tensors import tensor_spec


def opened_message(opened: OpenedSession, terms: Terms, metadata: bool) -> pb.Opened:
    """Where the session stands and the terms that it is held under; with `metadata` the specs of its tensors."""
    session = opened.session
    spec, chosen = session.cell.spec, session.options.outputs
    outputs = [tensor for tensor in (*spec.outputs, *spec.gates) if tensor.name in chosen]
    return pb.Opened(
        created=opened.created,
        step=session.step_number,
        h=session.h,
        epoch=session.owner.epoch,
        incarnation=session.owner.incarnation,
        create_token=opened.drawn_token,
        store_id=opened.store_id,
        write_mode=pb.WRITE_MODE_WRITE_BEHIND if session.tail else pb.WRITE_MODE_WRITE_THROUGH,
        replicas=session.replicas,
        max_undurable=terms.tail.most if session.tail else 0,
        window=terms.window,
        ring=terms.ring,
        max_timesteps=terms.max_timesteps,
        max_message_bytes=terms.max_message_bytes,
        idle_ttl=duration(session.ttl_ms / 1000),
        model=spec.name,
        version=spec.version,
        model_digest=spec.digest,
        inputs=[tensor.name for tensor in spec.inputs],
        outputs=[tensor.name for tensor in outputs],
        input_specs=[tensor_spec(tensor) for tensor in spec.inputs] if metadata else (),
        output_specs=[tensor_spec(tensor) for tensor in outputs] if metadata else (),
    )


async def close(session: Session, message: pb.Close) -> int:
    """Ends the session for good, or with `keep` writes what the store lacks: the last step.

    Raises:
        CellwireError: why not. A session that was closed already is no error.
    """
    step = session.step_number
    if message.keep:
        await session.flush()
    elif not session.closed:
        try:
            step = await session.close(message.step)
        except SessionClosed as error:  # by an operator, or by this client elsewhere: it is what was asked for
            step = error.position.step if error.position else step
    return step
