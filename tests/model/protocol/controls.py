"""Rules broken one at a time: each must be found out by walks through the worlds in which it shows."""

from dataclasses import dataclass, replace

from tests.model.protocol import configs as at
from tests.model.protocol.rules import Rules
from tests.model.protocol.world import Config


@dataclass(frozen=True)
class Control:
    """Rules with one broken, and where that shows."""

    rules: Rules
    configs: tuple[Config, ...]
    seed: int = 1
    """Of the first walk: where it takes many, one that comes to the point soon."""


_RULES = Rules()
_CALM = {"close": 0, "refuse": 0, "crash": 0, "lapse": 0}
_SURE = {"close": 0, "refuse": 0, "lapse": 0, "give_up": 0, "lost_answer": 0}
_DOUBT = Config("doubt", budget=_CALM | {"steps": 1, "give_up": 0}, bias={"execute": 0.3, "abandon": 3})
_IDLE = Config(
    "idle",
    budget=_CALM | {"steps": 1, "lost_answer": 3, "give_up": 0, "lapse": 1, "expire": 1, "abandon": 0},
    bias={"lose_answer": 5, "lapse": 5, "expire": 5},
)
_LEFT = Config("left", budget=_CALM | {"steps": 1, "give_up": 5, "abandon": 5})
_BEHIND = Config(
    "behind",
    rivals=(at.RIVAL,),
    write_behind=True,
    span=2,
    budget=_SURE | {"steps": 3, "crash": 2, "opens": 6, "abandon": 2},
    bias={"flush": 0.5, "open": 2},
)
_REOPENED = Config(
    "reopened",
    budget=_SURE | {"steps": 0, "crash": 0, "opens": 7, "abandon": 6, "fail_over": 1},
    bias={"fail_over": 4, "abandon": 2},
)
_LIVES = Config("lives", budget=_CALM | {"close": 3, "again": 3, "steps": 1, "fail_over": 1, "abandon": 0})
_CLOSES = Config(
    "closes",
    replicas=1,
    budget=_SURE | {"close": 2, "give_up": 3, "crash": 0, "steps": 1, "fail_over": 2},
    bias={"close": 8, "copy": 0.4, "fail_over": 2, "execute_at_old": 0},
)
_KILLS = Config("kills", budget=_CALM | {"kill": 2, "again": 2, "steps": 1})
_SPANS = Config("overtaken", rivals=(at.RIVAL,), span=2, budget={"close": 0, "opens": 8, "steps": 6, "fail_over": 1})

CONTROLS: dict[str, Control] = {
    # the store
    "no-fence": Control(replace(_RULES, fence="none"), (at.RIVALS,)),
    "fence-at-least": Control(replace(_RULES, fence="at_least"), (at.ALONE_LOSSY, at.RIVALS_LOSSY)),
    "no-nonce": Control(replace(_RULES, nonce=False, epochs_from_time=False), (at.ALONE_LOSSY, at.RIVALS_LOSSY)),
    "same-nonce-unknown": Control(replace(_RULES, same_nonce=False), (at.ALONE,)),
    "no-incarnation": Control(replace(_RULES, incarnation=False), (at.AGAIN, at.KILLED, at.FACADE_RIVALS)),
    "no-found-epoch": Control(replace(_RULES, found_epoch=False), (at.RIVALS, at.ALONE)),
    "restart-without-found": Control(replace(_RULES, restart_found=False), (at.FACADE,)),
    "epochs-one-more": Control(replace(_RULES, epochs_from_time=False), (at.ALONE_LOSSY, at.RIVALS_LOSSY)),
    "superseded-without-p": Control(replace(_RULES, displaced_told=False), (at.ALONE_LOSSY,)),
    "resume-creates": Control(replace(_RULES, resume_creates=True), (at.ALONE_LOSSY,)),
    "commit-creates": Control(replace(_RULES, commit_creates=True), (at.ALONE_LOSSY,)),
    "commit-from-anywhere": Control(replace(_RULES, from_checked=False), (at.ALONE_LOSSY, at.RIVALS_LOSSY)),
    "duplicate-before-fence": Control(replace(_RULES, duplicate_behind_fence=False), (_DOUBT,)),
    "duplicate-without-ttl": Control(replace(_RULES, duplicate_writes=False), (_IDLE,)),
    "duplicate-without-write": Control(replace(_RULES, duplicate_writes=False), (at.REPLICATED,)),
    "no-lineage": Control(replace(_RULES, lineage_checked=False), (at.RIVALS_LOSSY,)),
    "no-lineage-beyond-ring": Control(
        replace(_RULES, old_lineage_refused=False, position_checked=False, ring=2), (_SPANS,), seed=900
    ),
    "no-durable-step": Control(replace(_RULES, durable_checked=False), (at.ALONE_LOSSY,)),
    "accept-any-regression": Control(replace(_RULES, accept_pair=False), (at.FAILING,)),
    "undurable-not-compared": Control(replace(_RULES, undurable_compared=False), (_BEHIND,), seed=170),
    "release-not-fenced": Control(replace(_RULES, release_fenced=False), (at.RIVALS, at.ALONE)),
    "heartbeat-relocks": Control(replace(_RULES, heartbeat_keeps_release=False), (at.ALONE,)),
    "commit-relocks": Control(replace(_RULES, commit_keeps_release=False), (_LEFT,)),
    "no-tombstone": Control(replace(_RULES, tombstone=False), (at.AGAIN,)),
    "kill-without-life": Control(replace(_RULES, kill_names_life=False), (_KILLS,)),
    "other-life-is-loss": Control(
        replace(_RULES, other_life_fences=False, losses_asked_again=False), (at.KILLED, at.FACADE_RIVALS)
    ),
    "other-life-is-closed": Control(replace(_RULES, other_life_fences=False), (_LIVES,)),
    "tombstone-of-any-life": Control(replace(_RULES, tombstone_names_life=False), (_LIVES,)),
    # replicas
    "reply-before-commit": Control(replace(_RULES, reply_after_commit=False), (at.ALONE,)),
    "watermark-on-send": Control(replace(_RULES, watermark_after_commit=False), (at.BEHIND,)),
    "doubt-survived": Control(replace(_RULES, doubt_ends_session=False), (at.ALONE,)),
    "commit-before-wait": Control(replace(_RULES, wait_for_commits=False), (at.REPLICATED,)),
    "open-before-wait": Control(replace(_RULES, wait_for_claims=False), (at.REPLICATED,)),
    "close-before-wait": Control(replace(_RULES, wait_for_closes=False), (_CLOSES,), seed=710),
    "closed-before-wait": Control(replace(_RULES, wait_for_closed=False), (_CLOSES,), seed=760),
    "replay-not-compared": Control(replace(_RULES, replay_compares=False), (at.RIVALS, at.UNARY_RIVALS)),
    "spans-in-part": Control(replace(_RULES, spans_whole=False), (at.SPANS,)),
    "kept-answers-any-step": Control(replace(_RULES, kept_next_only=False), (at.UNARY, at.UNARY_RIVALS)),
    "unary-keeps-lease": Control(replace(_RULES, unary_releases=False), (at.UNARY,)),
    "unnumbered-run-again": Control(replace(_RULES, unnumbered_once=False), (at.UNNUMBERED,)),
    "restart-asked-again": Control(replace(_RULES, restart_asked_once=False), (at.FACADE,)),
    "hold-by-arrival": Control(replace(_RULES, hold_by_epoch=False, hold_by_displaced=False), (at.ALONE,)),
    "hold-without-p": Control(replace(_RULES, hold_by_displaced=False), (_REOPENED,), seed=440),
    "replaced-is-loss": Control(replace(_RULES, replaced_ends_softly=False, losses_asked_again=False), (at.CLUSTER,)),
    "ask-not-followed": Control(replace(_RULES, ask_followed=False), (at.CLUSTER,)),
    # clients
    "losses-not-asked-again": Control(replace(_RULES, losses_asked_again=False), (at.ALONE_LOSSY, at.BEHIND)),
    "replay-not-in-doubt": Control(replace(_RULES, replayed_in_doubt=False), (at.BEHIND, at.ALONE_LOSSY), seed=901),
    # sizes
    "ring-below-window": Control(replace(_RULES, ring=1, window=2), (at.ALONE,)),
}
