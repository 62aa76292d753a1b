"""The rules of the session protocol (docs/protocol.md), each a switch: a control breaks one to see it found."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Rules:
    """The defaults are the protocol; a control is the same with one of them broken."""

    # what the store checks
    fence: str = "equal"
    """Epochs of writes: "equal" to the one in the key, "at_least" it, or "none" compared."""
    nonce: bool = True
    """The fence compares the owner's nonce too."""
    same_nonce: bool = True
    """A claim knows its own nonce again: the second copy changes nothing."""
    incarnation: bool = True
    """A life is named by its token: another token's claim, and another life's writes, are refused."""
    found_epoch: bool = True
    """A claim names the epoch that its caller knows; with another one in the key it changes nothing."""
    restart_found: bool = True
    """A restart over a living session names it too."""
    epochs_from_time: bool = True
    """A new epoch is at least the store's time, not only one more."""
    displaced_told: bool = True
    """FENCED tells the epoch that the current claim displaced, so that a claim lost in a failover is not a rival."""
    resume_creates: bool = False
    """A claim with a resume point may create."""
    commit_creates: bool = False
    """A commit may create."""
    from_checked: bool = True
    """A commit names the step and digest that it computed from."""
    duplicate_behind_fence: bool = True
    """DUPLICATE is for the current claim only."""
    duplicate_writes: bool = True
    """DUPLICATE refreshes the time to live, and is therefore covered by WAIT."""
    lineage_checked: bool = True
    """A claim's digest of its last received step is compared with the ring."""
    old_lineage_refused: bool = True
    """A claim whose last received step is older than the ring cannot be compared and is refused."""
    durable_checked: bool = True
    """A claim whose durable step is above the store's is refused."""
    accept_pair: bool = True
    """Only the very (step, digest) that was told is accepted as a regression, not whatever the store fell back to."""
    undurable_compared: bool = True
    """In write-behind a claim's digests above its durable step are compared with the store's, by store and client."""
    release_fenced: bool = True
    """Only the current claim gives up its lease."""
    heartbeat_keeps_release: bool = True
    """A heartbeat does not set a lease that was released."""
    commit_keeps_release: bool = True
    """Nor does a commit that was in doubt when its session was left."""
    tombstone: bool = True
    """A closed session leaves one; else its key is gone."""
    kill_names_life: bool = True
    """An operator's kill ends the life that was meant, not the one that has the id by now."""
    other_life_fences: bool = True
    """A write of another life of the id is FENCED by what is there, not told GONE or CLOSED."""
    tombstone_names_life: bool = True
    """A claim that names another life than that of the tombstone is not told that its own was closed."""

    # what a replica does
    reply_after_commit: bool = True
    """In write-through a reply leaves behind its commit."""
    watermark_after_commit: bool = True
    """In write-behind durable_step counts what is committed, not what was sent."""
    doubt_ends_session: bool = True
    """A commit in doubt ends the Session."""
    wait_for_commits: bool = True
    """Where replicas are asked for, a commit is answered behind WAIT."""
    wait_for_claims: bool = True
    """So is a claim."""
    wait_for_closes: bool = True
    """So is a close."""
    wait_for_closed: bool = True
    """CLOSED to a claim or a close, which a client that closes takes for success, writes too and is behind WAIT."""
    replay_compares: bool = True
    """A stored reply goes only to the inputs that it was computed from."""
    spans_whole: bool = True
    """A message of several steps is one commit, and is never run in part."""
    kept_next_only: bool = True
    """A Session kept between unary calls answers the next step only."""
    unary_releases: bool = True
    """A unary call that claimed and did not commit releases."""
    unnumbered_once: bool = True
    """A unary call without a number whose commit is in doubt is not run again: nobody could tell."""
    restart_asked_once: bool = True
    """A restart told STALE is the caller's to repeat: the server does not ask again by itself."""
    hold_by_epoch: bool = True
    """Of two grants of one replica, the stream with the lower epoch ends, whichever comes last."""
    hold_by_displaced: bool = True
    """It is told SUPERSEDED only if the other claim displaced it, as a write would be told."""
    replaced_ends_softly: bool = True
    """When the store's id has changed, streams end as unavailable; their next claim says what is lost."""

    ask_followed: bool = True
    """In a Cluster a call that is told ASK goes there: the key is not missing, it has moved ahead of its slot."""

    # what a client does
    position_checked: bool = True
    """A client knows which of its messages may have been executed: elsewhere the session is not its own."""
    losses_asked_again: bool = True
    """After STATE_REGRESSED or STORE_LOST within a stream the client opens again: the claim says what is left."""
    replayed_in_doubt: bool = True
    """What is sent again after an accepted regression may be in the store: it fell back only as far as was seen."""

    # sizes
    ring: int = 3
    window: int = 2
    undurable: int = 2
