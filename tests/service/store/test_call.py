"""One call until each item has its answer: what is known of an item that was sent before."""

from service.store.call import Call, Told
from service.store.scripts import COMMIT, Owner
from tests.scripted import Held, new_key


def held() -> Held:
    return Held(Owner(new_key(), b"i" * 16, b"o" * 16, 7), 3, b"h" * 16)


def test_a_write_that_too_few_replicas_hold_was_executed_all_the_same() -> None:
    """Sent again it may meet what came after it: its caller must know that an earlier copy was taken."""
    short, whole = (held().commit(4)._replace(replicas=replicas) for replicas in (1, 0))
    call = Call(COMMIT, [(0, short), (1, whole)])
    call.take([b"OK 4", b"OK 4"], 0, degrade=False)
    assert call.told == {1: Told(b"OK 4")}
    assert [place for place, _ in call.items] == [0]
    call.take([b"FENCED 9 8"], 1, degrade=False)
    assert call.told[0] == Told(b"FENCED 9 8", in_doubt=True)
