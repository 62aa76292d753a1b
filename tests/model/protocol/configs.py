"""The worlds that are explored: who is there, on which store, and what may fail."""

from dataclasses import replace

from tests.model.protocol.client import Kind
from tests.model.protocol.world import LOSSES, Config

RIVAL = ("R", Kind.STREAM, True)
"""Another program with the lone client's token."""
STRANGER = ("S", Kind.STREAM, False)
"""One without a token: it comes by the session's id."""
OTHER_UNARY = ("U", Kind.UNARY, True)

ALONE = Config("alone")
ALONE_LOSSY = Config("alone-lossy", budget=LOSSES)
FAILING = Config("failing", budget={"fail_over": 3})
AGAIN_FAILING = Config("again-failing", budget={"close": 2, "again": 2, "steps": 2, "fail_over": 1})
RIVALS_FAILING = Config("rivals-failing", rivals=(RIVAL,), budget={"opens": 7, "steps": 7, "fail_over": 1})
SPANS = Config("spans", span=2, budget={"steps": 5} | LOSSES)
RIVALS = Config("rivals", rivals=(RIVAL,), budget={"opens": 7})
RIVALS_LOSSY = replace(RIVALS, name="rivals-lossy", span=2, budget={"opens": 7} | LOSSES)
STRANGERS = Config("strangers", rivals=(STRANGER,), budget=LOSSES)
BEHIND = Config("write-behind", write_behind=True, span=2, budget={"steps": 6} | LOSSES)
BEHIND_RIVALS = Config("write-behind-rivals", rivals=(RIVAL,), write_behind=True, span=2, budget={"steps": 6} | LOSSES)
UNARY = Config("unary", lone=Kind.UNARY, span=2, budget={"opens": 8} | LOSSES)
UNARY_RIVALS = Config("unary-rivals", rivals=(OTHER_UNARY,), budget={"opens": 7} | LOSSES)
UNNUMBERED = Config("unnumbered", lone=Kind.UNNUMBERED, budget={"opens": 8, "fail_over": 0})
SKIPS = Config("skips", rivals=(RIVAL,), skips=True, budget={"opens": 8, "steps": 7} | LOSSES)
AGAIN = Config("closed-and-again", budget={"close": 3, "again": 3, "opens": 6, "steps": 1, "expire": 1})
KILLED = Config("killed", budget={"kill": 2, "close": 1, "again": 3, "opens": 6, "steps": 2} | LOSSES)
FACADE = Config("facade", lone=Kind.FACADE, budget={"opens": 8, "restart": 3, "steps": 2})
FACADE_RIVALS = Config(
    "facade-rivals", rivals=(("F", Kind.FACADE, True),), budget={"opens": 8, "restart": 3, "steps": 3}
)
REPLICATED = Config("replicated", replicas=1, budget={"fail_over": 2})
REPLICATED_ANY = Config("replicated-any", replicas=1, best=False, budget={"fail_over": 2})
REPLICATED_BEHIND = Config("replicated-behind", replicas=1, write_behind=True, budget={"fail_over": 2})
CLUSTER = Config("cluster", shards=2, budget={"move": 2, "replaced": 1, "fail_over": 0})
CLUSTER_LOSSY = Config("cluster-lossy", shards=2, rivals=(RIVAL,), budget={"move": 2, "replaced": 1} | LOSSES)
CLUSTER_REPLICATED = Config("cluster-replicated", shards=2, replicas=1, budget={"move": 1, "fail_over": 2})

CONFIGS = (
    ALONE,
    ALONE_LOSSY,
    FAILING,
    AGAIN_FAILING,
    SPANS,
    RIVALS,
    RIVALS_LOSSY,
    RIVALS_FAILING,
    STRANGERS,
    BEHIND,
    BEHIND_RIVALS,
    UNARY,
    UNARY_RIVALS,
    UNNUMBERED,
    SKIPS,
    AGAIN,
    KILLED,
    FACADE,
    FACADE_RIVALS,
    REPLICATED,
    REPLICATED_ANY,
    REPLICATED_BEHIND,
    CLUSTER,
    CLUSTER_LOSSY,
    CLUSTER_REPLICATED,
)
