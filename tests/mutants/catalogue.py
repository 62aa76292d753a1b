"""The mutants: each rule of the session protocol broken once, where the code keeps it. It follows the code."""

from tests.mutants.mutant import Mutant

REFUSED_CLAIM = "tests/service/store/test_scripts.py::test_a_refused_claim_says_why_and_where_and_changes_nothing"
BATCHER = "tests/service/test_batcher.py"
SCRIPTS = "tests/service/store/test_scripts.py"
REPLICAS = "tests/service/store/test_replicas.py"
LINK = "tests/service/store/test_link.py"
ONCE = "tests/e2e/test_exactly_once.py"
BEHIND = "tests/e2e/test_write_behind.py"
BAD = "tests/e2e/test_bad_input.py"
OVERLOAD = "tests/e2e/test_overload.py"
LIFE = "tests/e2e/test_life.py"
LEFT = "tests/e2e/test_nothing_left.py"

VALKEY = ("valkey",)
"""Of a call that wrote nothing its WAIT is answered at once on a new connection; Redis waits all the same."""

PRELUDE, CLAIM, COMMIT, HEARTBEAT, RELEASE, CLOSE, KILL = (
    f"service/store/lua/{name}.lua" for name in ("prelude", "claim", "commit", "heartbeat", "release", "close", "kill")
)


_THE_FENCE = (
    Mutant(
        "no-fence-test",
        "Only the current claim writes.",
        PRELUDE,
        "if k.i ~= i or k.e ~= e or k.o ~= o then",
        "if false then",
        (f"{SCRIPTS}::test_only_the_claim_may_write",),
    ),
    Mutant(
        "fence-by-at-least",
        "The fence is equality of epochs: after a failover a newer one may be the one that was lost.",
        PRELUDE,
        "if k.i ~= i or k.e ~= e or k.o ~= o then",
        "if k.i ~= i or tonumber(e) < tonumber(k.e) or e == k.e and k.o ~= o then",
        (f"{SCRIPTS}::test_only_the_claim_may_write",),
    ),
    Mutant(
        "no-nonce",
        "After a failover two claims may hold one epoch; their nonces tell them apart.",
        PRELUDE,
        "if k.i ~= i or k.e ~= e or k.o ~= o then",
        "if k.i ~= i or k.e ~= e then",
        (f"{SCRIPTS}::test_only_the_claim_may_write",),
    ),
    Mutant(
        "no-incarnation",
        "The owner of another life of the id is fenced, whatever its epoch.",
        PRELUDE,
        "if k.i ~= i or k.e ~= e or k.o ~= o then",
        "if k.e ~= e or k.o ~= o then",
        (f"{SCRIPTS}::test_only_the_claim_may_write",),
    ),
    Mutant(
        "release-not-fenced",
        "A late release frees nobody else's lease.",
        RELEASE,
        "if refused then",
        "if refused and not string.find(refused, 'FENCED') then",
        (f"{SCRIPTS}::test_only_the_claim_may_write",),
    ),
    Mutant(
        "write-into-a-closed-session",
        "Nothing is written to a closed session.",
        PRELUDE,
        "elseif k.i == i and is_closed(k.f) then",
        "elseif false then",
        (f"{SCRIPTS}::test_nothing_is_written_to_a_closed_session",),
    ),
    Mutant(
        "superseded-without-p",
        "Who lost its claim in a failover is not told of a rival.",
        "service/store/store.py",
        "if stored(second) >= owner.epoch:",
        "if True:",
        (f"{ONCE}::test_a_lone_client_whose_claim_the_store_forgot_is_not_told_of_a_rival",),
    ),
)

_COMMITS = (
    Mutant(
        "duplicate-before-the-fence",
        "A claim that was displaced is told so, also where its commit is there.",
        COMMIT,
        "local refused = refusal(key, k, i, e, o)",
        "if k and k.i == i and k.n == n_to and k.h == h_to then\n    return 'DUPLICATE ' .. n_to\n  end\n"
        "  local refused = refusal(key, k, i, e, o)",
        (f"{SCRIPTS}::test_the_fence_is_tested_before_the_duplicate",),
    ),
    Mutant(
        "duplicate-keeps-no-life",
        "A session whose commit came twice lives as long as any.",
        COMMIT,
        "redis.call('PEXPIRE', key, ttl)\n    return 'DUPLICATE ' .. n_to",
        "return 'DUPLICATE ' .. n_to",
        (f"{SCRIPTS}::test_the_same_commit_again_changes_nothing_but_its_time_to_live",),
    ),
    Mutant(
        "duplicate-without-its-digest",
        "Only the very same commit is a duplicate, not another way to the same step.",
        COMMIT,
        "if k.n == n_to and k.h == h_to then",
        "if k.n == n_to then",
        (f"{SCRIPTS}::test_a_duplicate_needs_the_digest_too",),
    ),
    Mutant(
        "commit-from-another-step",
        "A commit goes onto the step that it computed from.",
        COMMIT,
        "if k.n ~= n_from or k.h ~= h_from then",
        "if k.h ~= h_from then",
        (f"{SCRIPTS}::test_a_commit_fits_onto_both_step_and_digest",),
    ),
    Mutant(
        "commit-from-another-digest",
        "A commit goes onto the digest that it computed from.",
        COMMIT,
        "if k.n ~= n_from or k.h ~= h_from then",
        "if k.n ~= n_from then",
        (f"{SCRIPTS}::test_a_commit_fits_onto_both_step_and_digest",),
    ),
    Mutant(
        "commit-creates-a-missing-key",
        "A commit never revives a session that expired.",
        COMMIT,
        "local refused = refusal(key, k, i, e, o)",
        "k = k or { i = i, e = e, o = o, p = '0', n = n_from, h = h_from, c = '0', f = '' }\n"
        "  local refused = refusal(key, k, i, e, o)",
        (f"{SCRIPTS}::test_only_the_claim_may_write",),
    ),
    Mutant(
        "ring-not-written",
        "The reply is stored with the checkpoint, for who asks again.",
        COMMIT,
        "for message = count, count + records - 1 do",
        "for message = count, count - 1 do",
        (f"{SCRIPTS}::test_a_commit_writes_the_checkpoint_and_its_record",),
    ),
    Mutant(
        "ttl-not-refreshed",
        "A session lives as long as it is used.",
        COMMIT,
        "redis.call('PEXPIRE', key, ttl)\n  return 'OK ' .. n_to",
        "return 'OK ' .. n_to",
        (f"{SCRIPTS}::test_a_commit_writes_the_checkpoint_and_its_record",),
    ),
    Mutant(
        "one-bad-item-fails-the-batch",
        "An error of one session leaves its neighbours in the call alone.",
        PRELUDE,
        "if not ok then",
        "if not ok then\n      error(result)",
        (f"{SCRIPTS}::test_a_poisoned_key_does_not_stop_its_neighbours",),
    ),
)

_REPLICAS = (
    Mutant(
        "duplicate-without-a-write",
        "A commit that is there already is written to, so that the WAIT behind it waits for the replicas.",
        COMMIT,
        "redis.call('PEXPIRE', key, ttl)\n    return 'DUPLICATE ' .. n_to",
        "return 'DUPLICATE ' .. n_to",
        (f"{REPLICAS}::test_a_commit_is_answered_once_a_replica_has_it",),
        VALKEY,
    ),
    Mutant(
        "closed-again-without-a-write",
        "So is a close that is there already.",
        CLOSE,
        "redis.call('PEXPIRE', key, tombstone)\n    return 'DUPLICATE ' .. k.n",
        "return 'DUPLICATE ' .. k.n",
        (f"{REPLICAS}::test_a_close_is_answered_once_a_replica_has_it",),
        VALKEY,
    ),
    Mutant(
        "claimed-again-without-a-write",
        "So is a claim that is there already.",
        CLAIM,
        "keep(key, ttl)\n    return granted('resumed')",
        "return granted('resumed')",
        (f"{REPLICAS}::test_a_claim_is_granted_once_a_replica_has_it",),
        VALKEY,
    ),
    Mutant(
        "open-answered-before-wait",
        "A claim is granted once the replicas that it asks for have it.",
        "service/store/link.py",
        "isinstance(item, Commit | Close | Claim | Kill)",
        "isinstance(item, Commit | Close | Kill)",
        (f"{REPLICAS}::test_a_claim_is_granted_once_a_replica_has_it",),
    ),
    Mutant(
        "too-few-replicas-are-enough",
        "What too few replicas hold is in doubt, unless the store may degrade.",
        "service/store/link.py",
        "elif short and not degrade:",
        "elif False:",
        (f"{REPLICAS}::test_what_no_replica_holds_by_the_deadline_stays_in_doubt",),
    ),
    Mutant(
        "degraded-not-told",
        "A store that degrades says so in each reply.",
        "service/store/link.py",
        "Told(result, short, self.in_doubt)",
        "Told(result, False, self.in_doubt)",
        (f"{REPLICAS}::test_a_store_that_may_degrade_says_so",),
    ),
)

_CALLS_OF_THE_STORE = (
    Mutant(
        "no-echo-check",
        "An answer is given to the call that it echoes, and to no other.",
        "service/store/link.py",
        "return len(answer) == len(self.items) + 1 and answer[0] == self.tag",
        "return len(answer) == len(self.items) + 1",
        (f"{LINK}::test_a_shifted_answer_closes_the_connection_and_is_given_to_nobody",),
    ),
    Mutant(
        "a-connection-out-of-step-is-kept",
        "A connection that gave another call's answer gives no more.",
        "service/store/wire.py",
        "check(answers)\n            except BaseException:\n                await self._close()",
        "check(answers)\n            except BaseException:",
        (f"{LINK}::test_a_shifted_answer_closes_the_connection_and_is_given_to_nobody",),
    ),
    Mutant(
        "a-doubt-is-not-asked-again",
        "A call whose answer was lost goes out again until its deadline.",
        "service/store/link.py",
        "elif late or (call.fault and call.node in self._gave_up):",
        "elif late or call.fault:",
        (f"{LINK}::test_a_commit_in_doubt_is_sent_again_identically",),
    ),
    Mutant(
        "another-store-is-not-noticed",
        "A store that came back empty is another one: its sessions are told lost.",
        "service/store/store.py",
        'if known not in (b"", self.condition.store_id):',
        "if False:",
        (f"{LIFE}::test_a_store_that_comes_back_empty_is_told_and_used",),
    ),
    Mutant(
        "a-damaged-state-is-taken",
        "A state with a wrong bit is told, and nobody goes on from it.",
        "service/store/records.py",
        "if _CRC.unpack_from(blob, len(blob) - _CRC.size)[0] != crc32(blob[: -_CRC.size]):",
        "if False:",
        ("tests/service/store/test_records.py::test_one_wrong_bit_of_a_state_is_seen",),
    ),
    Mutant(
        "a-foreign-hash-is-written-to",
        "A hash that this protocol did not write is refused and left as it is.",
        PRELUDE,
        "if not sound(name, k[name]) then",
        "if false then",
        ("tests/service/store/test_scripts_hostile.py::test_a_number_that_no_script_writes_is_corrupt",),
    ),
)

_CLAIMS = (
    Mutant(
        "claim-without-found-e",
        "A late copy of an old claim displaces nobody.",
        CLAIM,
        "if found ~= k.e then\n    return refuse('STALE_OPEN')\n  end\n  local e = new_epoch(k.e)",
        "local e = new_epoch(k.e)",
        (REFUSED_CLAIM,),
    ),
    Mutant(
        "open-not-idempotent",
        "A claim that comes again, in doubt, is told what it was granted.",
        CLAIM,
        "if k.o == o then",
        "if false then",
        (f"{SCRIPTS}::test_the_same_nonce_again_is_told_its_claim_and_leaves_the_lease_alone",),
    ),
    Mutant(
        "epochs-of-e-plus-1-only",
        "No epoch is granted twice, also when the store lost the last one.",
        PRELUDE,
        "math.max((tonumber(e) or 0) + 1, time[1] * 1000000 + time[2])",
        "(tonumber(e) or 0) + 1",
        (f"{SCRIPTS}::test_an_epoch_is_never_used_twice",),
    ),
    Mutant(
        "epochs-of-time-only",
        "No epoch is granted twice, also when the store's clock went back.",
        PRELUDE,
        "math.max((tonumber(e) or 0) + 1, time[1] * 1000000 + time[2])",
        "time[1] * 1000000 + time[2]",
        (f"{SCRIPTS}::test_an_epoch_is_never_used_twice",),
    ),
    Mutant(
        "any-token-is-the-holders",
        "Only the token's holder displaces an owner.",
        CLAIM,
        "local holder = i == k.i",
        "local holder = true",
        (REFUSED_CLAIM,),
    ),
    Mutant(
        "a-refused-claim-keeps-the-session",
        "A claim that is refused has changed nothing, not even the time to live.",
        CLAIM,
        "local holder = i == k.i",
        "local holder = i == k.i\n  redis.call('PEXPIRE', key, ttl)",
        (REFUSED_CLAIM,),
    ),
    Mutant(
        "lease-not-respected",
        "Who has no token waits for the lease.",
        CLAIM,
        "if leased and not holder then",
        "if false then",
        (REFUSED_CLAIM,),
    ),
    Mutant(
        "lease-of-another-clock",
        "A lease further ahead than any can be holds for nobody.",
        CLAIM,
        "left > 0 and left <= max_lease",
        "left > 0",
        (f"{SCRIPTS}::test_a_lease_that_cannot_be_is_no_lease",),
    ),
    Mutant(
        "a-resume-point-creates",
        "Who comes to resume never gets a fresh state.",
        CLAIM,
        "if knows_steps or mode == RESUME and found ~= '0' then",
        "if mode == RESUME and found ~= '0' then",
        (REFUSED_CLAIM,),
    ),
    Mutant(
        "lineage-not-compared",
        "A client's history is compared with the stored one before it goes on.",
        CLAIM,
        "if stored and stored ~= h then",
        "if false then",
        (REFUSED_CLAIM,),
    ),
    Mutant(
        "undurable-not-compared",
        "What was answered before its commit is compared, too.",
        CLAIM,
        "if told == n and told_h ~= k.h then",
        "if false then",
        (REFUSED_CLAIM,),
    ),
    Mutant(
        "regression-not-seen",
        "A store that fell behind what it told says so.",
        CLAIM,
        "if n < durable then",
        "if false then",
        (REFUSED_CLAIM,),
    ),
    Mutant(
        "any-regression-accepted",
        "A client accepts the very step and digest that the store fell back to, not any.",
        CLAIM,
        "if accept_step ~= k.n or accept_h ~= k.h then",
        "if accept_step == '' then",
        (REFUSED_CLAIM,),
    ),
    Mutant(
        "no-regression-accepted",
        "A client that accepts what it was told goes on.",
        CLAIM,
        "if accept_step ~= k.n or accept_h ~= k.h then",
        "if true then",
        (f"{SCRIPTS}::test_a_resume_point_that_fits_goes_on",),
    ),
    Mutant(
        "an-unwanted-claim-is-kept",
        "What was granted to a client that left is released.",
        "service/sessions.py",
        "claiming.add_done_callback(self._release_unwanted)",
        "pass",
        (f"{LEFT}::test_cancelled_streams_leave_no_task_descriptor_claim_or_lease",),
    ),
)

_LEASES_AND_ENDS = (
    Mutant(
        "the-older-claim-holds",
        "Of two streams on one replica the one with the older claim ends, whichever comes later.",
        "service/sessions.py",
        "if superseded and superseded.owner.epoch > session.owner.epoch:",
        "if False:",
        ("tests/service/test_sessions.py::test_of_two_streams_the_one_with_the_older_claim_is_ended",),
    ),
    Mutant(
        "heartbeat-relocks",
        "A late heartbeat does not hold a released lease for nobody.",
        HEARTBEAT,
        "if k.l ~= '0' then",
        "if true then",
        (f"{SCRIPTS}::test_a_late_heartbeat_does_not_take_a_released_lease_again",),
    ),
    Mutant(
        "heartbeat-keeps-no-life",
        "An idle stream's session does not expire under it.",
        HEARTBEAT,
        "redis.call('PEXPIRE', key, ttl)",
        "",
        (f"{SCRIPTS}::test_a_heartbeat_keeps_lease_and_life",),
    ),
    Mutant(
        "close-without-a-tombstone",
        "A closed session is not created again by a late open.",
        CLOSE,
        "redis.call('PEXPIRE', key, tombstone)\n  return 'OK ' .. n",
        "redis.call('DEL', key)\n  return 'OK ' .. n",
        (f"{SCRIPTS}::test_a_close_keeps_the_last_record_and_drops_the_rest",),
    ),
    Mutant(
        "close-at-any-step",
        "A close names the last step.",
        CLOSE,
        "elseif n ~= k.n then",
        "elseif false then",
        (f"{SCRIPTS}::test_a_close_names_the_last_step",),
    ),
    Mutant(
        "kill-without-incarnation",
        "A late kill leaves a later life alone.",
        KILL,
        "if not k or k.i ~= i then",
        "if not k then",
        (f"{SCRIPTS}::test_a_late_kill_leaves_a_later_life_alone",),
    ),
    Mutant(
        "kill-does-not-fence",
        "An operator's close takes the session from its owner.",
        KILL,
        "'e', e, 'o', '', 'p', k.e, 'f'",
        "'f'",
        (f"{SCRIPTS}::test_a_kill_fences_the_owner_and_leaves_a_tombstone",),
    ),
    Mutant(
        "session-survives-a-fenced-heartbeat",
        "A stream whose session was taken over ends, also when it sends nothing.",
        "service/leases.py",
        "session.lose(answer)",
        "pass",
        (f"{ONCE}::test_an_idle_stream_learns_from_its_heartbeat_that_it_was_superseded",),
    ),
)

_STEPS = (
    Mutant(
        "reply-before-the-commits-answer",
        "In write-through a reply leaves when its commit is acknowledged.",
        "service/session.py",
        "written = await self._write(Checkpoint(self.step_number, self.h), (record,), state, lease_ms)",
        "self._write(Checkpoint(self.step_number, self.h), (record,), state, lease_ms)\n"
        "            written = Written(record.last)",
        (f"{ONCE}::test_a_commit_that_comes_after_a_takeover_is_fenced",),
    ),
    Mutant(
        "session-survives-a-doubt",
        "When a commit's outcome is not known to be good the Session ends: it may be behind the store.",
        "service/session.py",
        "written = await self._write(Checkpoint(self.step_number, self.h), (record,), state, lease_ms)\n"
        "        except StoreFull:\n            raise",
        "written = await self._write(Checkpoint(self.step_number, self.h), (record,), state, lease_ms)\n"
        "        except CellwireError:\n            raise StoreFull('refused') from None",
        (f"{ONCE}::test_a_commit_in_doubt_ends_the_session_and_its_stream",),
    ),
    Mutant(
        "a-refused-step-is-adopted",
        "A refused step has not used up its number.",
        "service/session.py",
        "written = await self._write(Checkpoint(self.step_number, self.h), (record,), state, lease_ms)\n"
        "        except StoreFull:\n            raise",
        "written = await self._write(Checkpoint(self.step_number, self.h), (record,), state, lease_ms)\n"
        "        except StoreFull:\n            self.step_number, self.h = record.last, record.h_after\n"
        "            raise",
        (f"{ONCE}::test_a_full_store_refuses_a_step_and_takes_it_later",),
    ),
    Mutant(
        "duplicates-executed-again",
        "A message that was committed is answered from the ring.",
        "service/session.py",
        "if first != self.step_number + 1:",
        "if first > self.step_number + 1:",
        (f"{ONCE}::test_every_message_sent_twice_is_executed_once",),
    ),
    Mutant(
        "a-replay-of-other-inputs",
        "A committed step with other inputs is a conflict.",
        "service/session.py",
        "if self._digest(record.h_before, timestep) != record.h_after:",
        "if False:",
        (f"{ONCE}::test_every_message_sent_twice_is_executed_once",),
    ),
    Mutant(
        "digest-without-history",
        "The digest of a step covers all steps before it.",
        "service/session.py",
        "h = chain(h, self.cell.signature, row)",
        "h = chain(b'', self.cell.signature, row)",
        (f"{ONCE}::test_the_digest_of_a_step_tells_every_step_before_it",),
    ),
    Mutant(
        "batch-rows-aliased",
        "Each session of a batch gets its own next state.",
        "service/model/cell.py",
        "CellResult(state[at * width : (at + 1) * width], span)",
        "CellResult(state[:width], span)",
        (f"{ONCE}::test_each_of_200_sessions_in_shared_batches_is_as_if_it_were_alone",),
    ),
    Mutant(
        "results-by-another-order",
        "Each waiter of a batch gets the result of its own item.",
        "service/batcher.py",
        "for future, result in zip(futures, results, strict=True):",
        "for future, result in zip(futures, reversed(results), strict=True):",
        (f"{BATCHER}::test_an_idle_batcher_takes_what_the_event_loop_holds",),
    ),
    Mutant(
        "cancellation-kills-the-committer",
        "A client that leaves takes nothing from the others in its batch.",
        "service/batcher.py",
        "if future.done():\n                    continue",
        "",
        (f"{BATCHER}::test_a_cancelled_waiter_takes_nothing_from_the_others",),
    ),
    Mutant(
        "not-finite-is-committed",
        "A state or an answer that is not finite is refused, and its batch-mates are answered.",
        "service/model/cell.py",
        "for at in _poisoned([*answers, *(tail for _, tail in tails)]):",
        "for at in ():",
        (f"{BAD}::test_113_what_is_not_finite_is_not_committed",),
    ),
    Mutant(
        "replay-refused-by-admission",
        "Only the next message is refused for load: without a replay its successors would come out of order.",
        "service/session.py",
        "if step in (0, self.step_number + 1):",
        "if True:",
        (f"{ONCE}::test_only_what_follows_is_refused_for_load",),
    ),
    Mutant(
        "late-but-executed",
        "A message whose time is over before it enters a batch is not executed.",
        "service/batcher.py",
        "if future.done() or deadline < now:",
        "if future.done():",
        (f"{OVERLOAD}::test_a_message_that_did_not_enter_a_batch_in_time_is_refused_and_its_number_not_used",),
    ),
    Mutant(
        "admission-released-twice",
        "A message is counted out of what is in flight once, however it ends.",
        "service/admission.py",
        "self.in_flight -= 1",
        "self.in_flight -= 1 if done else 2",
        ("tests/service/test_admission.py::test_a_cancelled_one_is_counted_out",),
    ),
    Mutant(
        "replies-after-not-checked",
        "Stored replies that are asked for are all there, or the open is refused.",
        "service/session.py",
        "if step < self.step_number and (not records or records[0].first != step + 1):",
        "if False:",
        (f"{BEHIND}::test_stored_replies_that_are_not_all_there_are_refused",),
    ),
    Mutant(
        "a-drain-interrupts-a-step",
        "A drain lets each stream finish the message in hand.",
        "service/servicer.py",
        "if self.waiting and self._task:",
        "if self._task:",
        (f"{LIFE}::test_a_drain_finishes_what_is_in_hand_and_hands_the_sessions_over",),
    ),
)

_CALLS = (
    Mutant(
        "a-kept-session-answers-everything",
        "A Session kept between calls serves the next step only: nothing else meets the fence.",
        "service/calls.py",
        "if timestep.step in (0, kept.step_number + 1):",
        "if True:",
        (f"{ONCE}::test_a_repeated_call_is_answered_by_the_store_and_not_by_what_its_replica_remembers",),
    ),
    Mutant(
        "a-call-keeps-its-lease",
        "A call that did not commit gives the lease up.",
        "service/calls.py",
        "if not committed:\n                    self._sessions.release(session)",
        "pass",
        (f"{LEFT}::test_a_call_that_did_not_commit_leaves_no_lease",),
    ),
    Mutant(
        "a-call-surfaces-its-rival",
        "Calls that compete look again, each until its deadline.",
        "service/calls.py",
        "committed = not reply.replayed\n            except (Superseded, ClaimLost) as error:",
        "committed = not reply.replayed\n            except ClaimLost as error:",
        (f"{ONCE}::test_unary_calls_that_compete_are_each_executed_once",),
    ),
)

_WRITE_BEHIND = (
    Mutant(
        "watermark-advanced-on-send",
        "durable_step is what the store acknowledged, not what was sent to it.",
        "service/tail.py",
        "self._flying = self._write(self.durable, records)",
        "self._flying = self._write(self.durable, records)\n"
        "            self.durable = Checkpoint(records[-1].last, records[-1].h_after)",
        (f"{BEHIND}::test_a_commit_under_way_is_not_told_as_durable_and_holds_the_session_at_u",),
    ),
    Mutant(
        "u-ignored",
        "A session stops at U undurable steps.",
        "service/tail.py",
        "while self._records and self._steps + steps > self._terms.most:",
        "while False:",
        (f"{BEHIND}::test_a_commit_under_way_is_not_told_as_durable_and_holds_the_session_at_u",),
    ),
    Mutant(
        "two-flushes-in-flight",
        "A session has one commit on its way at a time.",
        "service/tail.py",
        "if self._records and self._flying is None:",
        "if self._records:",
        (f"{BEHIND}::test_a_commit_under_way_is_not_told_as_durable_and_holds_the_session_at_u",),
    ),
    Mutant(
        "a-lost-tail-is-not-told",
        "When the store did not take a tail the stream ends, and its client replays.",
        "service/tail.py",
        "self._lost(error)",
        "pass",
        (f"{BEHIND}::test_a_store_that_does_not_take_the_tail_ends_the_stream",),
    ),
    Mutant(
        "close-before-the-tail",
        "A close writes the tail first.",
        "service/session.py",
        "await self.flush()\n        try:",
        "try:",
        (f"{BEHIND}::test_a_close_writes_first",),
    ),
    Mutant(
        "release-before-the-tail",
        "A session that is left writes its tail before it is given up.",
        "service/sessions.py",
        "await session.tail.settled()",
        "pass",
        (f"{BEHIND}::test_leaving_writes_the_tail_and_gives_the_session_up",),
    ),
)

MUTANTS: tuple[Mutant, ...] = (
    *_THE_FENCE,
    *_COMMITS,
    *_REPLICAS,
    *_CALLS_OF_THE_STORE,
    *_CLAIMS,
    *_LEASES_AND_ENDS,
    *_STEPS,
    *_CALLS,
    *_WRITE_BEHIND,
)
