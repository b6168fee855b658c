"""The bugs to plant, one at a time, each with the test that must detect it."""

from dataclasses import dataclass

PARALLEL = "tests/concurrency/test_parallel.py"
OVERLAP = "tests/concurrency/test_forced_overlap.py"
BATCHES = "tests/app/credits/test_committer.py"
HELD = "tests/faults/test_held_wallets.py"
OUT = "tests/stores/test_outbox.py"
SINK = "tests/adapters/kafka/test_producer.py"
WEBHOOKS = "tests/app/webhooks/test_deliverer.py"
SENDER = "tests/app/webhooks/test_sender.py"
LIMITERS = "tests/adapters/limiters/test_limiter_contract.py"
LIMITER_OUTAGE = "tests/faults/test_limiter_outage.py"
EXAMPLES = "tests/core/ledger/test_examples.py::test_example"
AGREE = "tests/stores/test_reads_agree.py::"
ENTITLEMENTS = "tests/surfaces/test_entitlements.py"
ALLOWANCES = "tests/surfaces/test_allowances.py"
REQUIRED = "tests/surfaces/test_required.py"
SUBSCRIPTIONS = "core/ledger/subscriptions.py"
SUBSCRIBED = f"{EXAMPLES}[subscription: "
SUBSCRIBING = "tests/surfaces/test_subscriptions.py"
RENEWALS = "tests/core/test_renewals.py::test_a_wall_time_"

IMPORTS = "tests/transports/cli/test_importing.py"
ORIGIN = "tests/transports/cli/test_origin.py"
EXPORTS = "tests/transports/cli/test_exporting.py"
INBOX = "tests/stores/test_inbox.py"
CONSUMER = "tests/app/inbox/test_consumer.py"
EVENTS = "tests/transports/http/test_events.py"
OBJECTS = "tests/surfaces/test_entitlement_service.py::"
NEAR = "tests/transports/http/test_near_limits.py"
GUARDS = "tests/surfaces/test_fastapi.py::"

IMPORTING = "app/operations/importing.py"
APPLY = "core/ledger/apply.py"
ANSWERS = "core/ledger/answers.py"
COMMITTER = "app/credits/committer.py"
BATCH = "app/credits/batch.py"
REPORT = "core/ledger/usage.py"
RELAY = "app/outbox/relay.py"
OUTBOX = "adapters/postgres/outbox.sql"
LIMITER = "adapters/redis/limiter.py"
LUA = "adapters/redis/limits.lua"
PRODUCER = "adapters/kafka/producer.py"
LEDGER = "adapters/postgres/ledger.sql"
WRITING = "adapters/postgres/writing.py"
RIGHTS = "adapters/rights.py"
DATABASE = "adapters/postgres/database.py"
COMMIT = "adapters/postgres/ledger.py"


@dataclass(frozen=True)
class Mutant:
    """A bug: in ``file``, the first text of each pair becomes the second; ``killer`` is a test."""

    name: str
    file: str
    texts: tuple[tuple[str, str], ...]
    killer: str


def mutant(name: str, file: str, old: str, new: str, killer: str) -> Mutant:
    return Mutant(name, file, ((old, new),), killer)


LOCK = "            wallets, clock = await lock(db, keys, skip_locked=skip_locked)\n"
LOAD = "                book = await load(db, needs, wallets, now)\n"
READ_BEFORE_LOCK = """\
            seen = await db.fetch(
                SQL["lock_wallets"].replace("FOR UPDATE", ""), *rows.columns(keys, 3)
            )
            early = await load(
                db, needs, [rows.wallet(row) for row in seen], await db.fetchval(SQL["clock"])
            )
"""
BOOK_BEFORE_LOCK = """\
                book = early
                for wallet in wallets:
                    book.put_wallet(wallet)
"""
DECIDED = "self.outcomes.append(self._outcome(book, submission))"
ANSWERED = "submission.future.done() or submission.future.set_result(self.outcomes[-1])"
JOB_KNOWN = """\
        return None
    job = draft.job(command.job)
"""
IN_TIME = """\
        if submission.deadline > now:
            kept.append(submission)
        else:
            fail(submission, error)"""

MUTANTS = (
    mutant(
        "wallets are read without a lock",
        LEDGER,
        "{{lock_wallets FOR UPDATE}}",
        "{{lock_wallets}}",
        f"{OVERLAP}::test_a_grant_that_the_rival_adds_pays_for_the_waiting_command",
    ),
    Mutant(
        "grants are read before the lock was waited for",
        COMMIT,
        ((LOCK, READ_BEFORE_LOCK + LOCK), (LOAD, BOOK_BEFORE_LOCK)),
        f"{OVERLAP}::test_a_sooner_expiring_grant_that_the_rival_adds_is_drawn_first",
    ),
    Mutant(
        "receipts are read before the lock was waited for",
        COMMIT,
        (
            (LOCK, READ_BEFORE_LOCK + LOCK),
            (LOAD, LOAD + "                book.receipts = early.receipts\n"),
            (
                "await write_batch(db, decided)",
                "decided.changes.receipts.clear() or await write_batch(db, decided)",
            ),
        ),
        f"{OVERLAP}::test_a_receipt_that_the_rival_writes_during_the_lock_wait_is_replayed",
    ),
    mutant(
        "every command waits for a locked wallet",
        LEDGER,
        "{{lock_wallets FOR UPDATE SKIP LOCKED}}",
        "{{lock_wallets FOR UPDATE}}",
        f"{HELD}::test_others_proceed_while_a_wallet_is_locked_and_its_commands_follow_the_release",
    ),
    mutant(
        "a policy is activated in the middle of a batch",
        LEDGER,
        "LOCK TABLE policy_lock IN ROW SHARE MODE;",
        "",
        "tests/concurrency/test_policy_overlap.py::"
        "test_an_activation_waits_for_a_batch_that_uses_the_earlier_version[postgres-loaded]",
    ),
    mutant(
        "a plan of an earlier schema is not replaced",
        DATABASE,
        "asyncpg.DeadlockDetectedError, *STALE)",
        "asyncpg.DeadlockDetectedError)",
        "tests/faults/test_schema_change.py::test_a_plan_of_an_earlier_schema_is_replaced",
    ),
    mutant(
        "holds are read in the order of the table",
        LEDGER,
        "        SELECT {{hold_columns}} FROM holds",
        "        SELECT * FROM holds",
        "tests/faults/test_schema_change.py::"
        "test_every_kind_of_work_succeeds_on_the_first_attempt_after_each_change[postgres]",
    ),
    mutant(
        "wallets ahead of the clock are not detected",
        BATCH,
        "        self.ahead = ahead_in(book)\n",
        "",
        "tests/faults/test_clock.py::"
        "test_wallets_written_by_a_clock_ahead_are_reported_until_that_time[sqlite]",
    ),
    mutant(
        "read-only sessions stay in the pool",
        DATABASE,
        "TimeoutError, asyncpg.ReadOnlySQLTransactionError)",
        "TimeoutError)",
        "tests/faults/test_failover.py::"
        "test_read_only_sessions_are_replaced_once_writes_are_possible_again",
    ),
    mutant(
        "a command is committed after its caller was refused",
        BATCH,
        "any(submission.is_refused for submission in decided)",
        "not decided",
        "tests/faults/test_refused.py::"
        "test_a_command_refused_while_the_server_hangs_is_not_charged",
    ),
    mutant(
        "a commit in progress is reported as not applied",
        BATCH,
        "        if submission.is_sent:\n",
        "        if False:\n",
        "tests/faults/test_refused.py::"
        "test_the_result_of_a_slow_commit_is_unknown_until_its_key_is_repeated",
    ),
    mutant(
        "the limiter's breaker closes on a ping",
        LIMITER,
        "self._evaluate([key], PROBE)",
        'self._ask_server("PING", key)',
        "tests/faults/test_limiter_outage.py::"
        "test_a_redis_that_refuses_writes_is_unavailable_until_it_accepts_them[OOM]",
    ),
    mutant(
        "the service's role may delete jobs",
        RIGHTS,
        '"jobs": Rights(),',
        '"jobs": Rights(delete=True),',
        "tests/adapters/postgres/test_service_role.py::"
        "test_the_service_role_cannot_rewrite_history[jobs]",
    ),
    mutant(
        "receipts are not looked at",
        ANSWERS,
        "if receipt is not None and receipt.expires_at > draft.now:",
        "if receipt is None and draft.now is None:",
        f"{PARALLEL}::"
        "test_one_key_16_times_at_once_is_one_debit_and_15_replays[postgres-one engine]",
    ),
    Mutant(
        "receipts are not written",
        WRITING,
        (
            ("rows.receipt_columns(changes.receipts)", "rows.receipt_columns([])"),
            ("receipts, len(changes.receipts)", "receipts, 0"),
        ),
        f"{BATCHES}::"
        "test_after_a_lost_commit_acknowledgement_receipts_give_the_first_outcome[postgres]",
    ),
    mutant(
        "a rival's receipt for the same key is overlooked",
        "adapters/postgres/reads.sql",
        "WHERE r.expires_at <= excluded.created_at\n",
        "",
        f"{OVERLAP}::"
        "test_a_key_that_the_rival_uses_on_another_wallet_is_refused_alone_in_its_batch",
    ),
    mutant(
        "the fingerprint is not compared",
        ANSWERS,
        "if receipt.fingerprint != origin.fingerprint:",
        "if receipt.fingerprint == '':",
        f"{PARALLEL}::"
        "test_when_two_engines_race_for_a_key_the_rest_of_their_batches_succeeds[postgres]",
    ),
    mutant(
        "the outcome of a retried batch is taken for a replay",
        ANSWERS,
        "if outcome.operation_id == command.id:",
        "if command.id == '':",
        f"{BATCHES}::"
        "test_after_a_lost_commit_acknowledgement_receipts_give_the_first_outcome[postgres]",
    ),
    mutant(
        "jobs are not unique",
        ANSWERS,
        JOB_KNOWN,
        JOB_KNOWN.replace("draft.job(command.job)", "None"),
        f"{PARALLEL}::"
        "test_one_job_8_times_at_once_under_different_keys_is_one_debit[postgres-one engine]",
    ),
    mutant(
        "a reported job is the same in all batches",
        "core/model.py",
        'self.metric, self.batch_id or ""\n',
        "self.metric\n",
        f"{EXAMPLES}"
        "[report: another batch, or no batch, is another job, for reports and requests alike]",
    ),
    mutant(
        "a requested job is the same in all batches",
        "app/operations/consumption.py",
        'body.metric, body.batch_id or "")',
        "body.metric)",
        "tests/transports/http/test_consumption.py::test_a_job_of_another_batch_is_another_job",
    ),
    mutant(
        "a job is stored by its number without its batch",
        "adapters/postgres/rows.py",
        '"\\x1f".join(job)',
        '"\\x1f".join(job[:4])',
        "tests/stores/test_jobs.py::"
        "test_an_old_job_gets_its_batch_from_its_operation_else_from_its_report[postgres]",
    ),
    mutant(
        "the answer comes before the commit",
        BATCH,
        DECIDED,
        f"{DECIDED}; {ANSWERED}",
        f"{BATCHES}::test_an_outcome_is_returned_only_after_the_commit",
    ),
    mutant(
        "a grant's remaining credits are not guarded",
        LEDGER,
        " AND g.remaining = n.loaded AND g.live = n.was_live",
        "",
        f"{BATCHES}::test_a_grant_reduced_outside_the_ledger_is_not_overdrawn",
    ),
    mutant(
        "a wallet's version is not guarded",
        LEDGER,
        " AND w.version = n.loaded",
        "",
        f"{BATCHES}::test_a_conflict_is_halved_until_its_culprit_fails_alone[postgres]",
    ),
    mutant(
        "a failed batch is committed",
        "adapters/postgres/ledger.py",
        '_rollback = "ROLLBACK"',
        '_rollback = "COMMIT"',
        "tests/faults/test_refused.py::"
        "test_a_batch_is_committed_without_a_command_that_was_refused_in_the_meantime[postgres]",
    ),
    mutant(
        "the settings of a batch stay in the caller's transaction",
        "adapters/postgres/transactions.py",
        "await db.execute(self._end)",
        'await db.execute("RELEASE SAVEPOINT entitlements")',
        "tests/surfaces/test_transactions.py::test_the_settings_of_the_callers_transaction_are_its_own",
    ),
    mutant(
        "a transaction on SQLite is committed though its block raised",
        "adapters/sqlite/database.py",
        "if not is_wanted:",
        "if False:",
        "tests/surfaces/test_transactions.py::test_a_block_that_raises_leaves_nothing[sqlite]",
    ),
    mutant(
        "a COMMIT that the server answered with ROLLBACK is a success",
        "adapters/postgres/connection.py",
        'if done != "COMMIT":',
        "if False:",
        "tests/surfaces/test_transactions.py::"
        "test_a_statement_that_failed_unheard_is_never_taken_for_a_commit[postgres]",
    ),
    mutant(
        "a joined transaction that was aborted looks committed",
        "adapters/postgres/transactions.py",
        "if is_open(db) and db.is_in_transaction():",
        "if False:",
        "tests/surfaces/test_transactions.py::"
        "test_a_joined_transaction_that_was_aborted_is_not_taken_for_committed",
    ),
    mutant(
        "a late call of a handler revokes the grants of a subscription that began again",
        "handling.py",
        "if one not in kept",
        "if True",
        "tests/surfaces/test_lifecycle_handlers.py::"
        "test_a_late_cancellation_spares_a_subscription_that_has_begun_again[sqlite]",
    ),
    mutant(
        "others learn of allowances that may be rolled back",
        "app/credits/batch.py",
        "if not self._sees_uncommitted:",
        "if True:",
        "tests/surfaces/test_transactions.py::test_what_is_rolled_back_is_not_remembered[sqlite]",
    ),
    mutant(
        "a later call of a subscription overtakes the one that failed",
        "adapters/sqlite/lifecycle.sql",
        "e.version < w.version",
        "e.version < 0",
        "tests/surfaces/test_lifecycle_handlers.py::"
        "test_a_failing_handler_is_called_again_and_blocks_its_subscription_alone[sqlite]",
    ),
    mutant(
        "what a handler grants has no key",
        "handling.py",
        "if key is None and call.verb.is_keyed:",
        "if key is None and not call.verb.is_keyed:",
        "tests/surfaces/test_lifecycle_handlers.py::"
        "test_what_a_handler_grants_is_granted_once_however_often_it_is_called[sqlite]",
    ),
    mutant(
        "the handler that a cancellation names is not called",
        "core/ledger/subscriptions.py",
        "    ended = replace(ended, lifecycle=command.lifecycle or kept.lifecycle)\n",
        "",
        "tests/surfaces/test_lifecycle_handlers.py::test_a_cancellation_can_name_a_handler[sqlite]",
    ),
    mutant(
        "halving a batch drops its second half",
        COMMITTER,
        "                await self._commit(submissions[middle:])\n",
        "",
        f"{BATCHES}::test_a_conflict_is_halved_until_its_culprit_fails_alone[postgres]",
    ),
    Mutant(
        "deadlines are not kept",
        BATCH,
        (
            (IN_TIME, IN_TIME.replace("submission.deadline > now", "submission.deadline")),
            ("submission.deadline <= now and not submission.is_sent", "not submission.deadline"),
        ),
        f"{BATCHES}::"
        "test_a_command_past_its_deadline_is_dropped_before_it_changes_anything[postgres]",
    ),
    mutant(
        "one root subject can fill the queue",
        COMMITTER,
        "self._roots[root] >= ROOT_SHARE_MAX",
        "self._roots[root] >= QUEUE_MAX",
        f"{BATCHES}::test_one_root_subject_fills_only_its_share_of_the_queue[postgres]",
    ),
    mutant(
        "a stopping engine drops accepted commands",
        COMMITTER,
        "            if not self._queue:\n                if self._stopping:\n",
        "            if not self._queue or self._stopping:\n                if self._stopping:\n",
        f"{BATCHES}::"
        "test_a_stopping_engine_finishes_what_it_accepted_and_accepts_no_more[postgres]",
    ),
    mutant(
        "an account opened twice in one request gets two bonuses",
        "core/ledger/accounts.py",
        "draft.book.accounts | draft.accounts:",
        "draft.book.accounts:",
        f"{EXAMPLES}[together: each account gets its bonus once]",
    ),
    mutant(
        "< instead of <= at the time of expiry",
        "core/ledger/due.py",
        "until = DuePlace(now, START)",
        "until = DuePlace(now, EXPIRY - 1)",
        f"{EXAMPLES}[adjust: set does not count expired credits]",
    ),
    mutant(
        "due effects are not applied before a consumption",
        APPLY,
        "        apply_all_due(draft, command, wallets)\n",
        "        if type(command) is not c.Consume:\n"
        "            apply_all_due(draft, command, wallets)\n",
        f"{EXAMPLES}[attribution: the payer is chosen by the current balances]",
    ),
    mutant(
        "of equal grants the id decides before the age",
        "core/burndown.py",
        "grant.granted_at, grant.id)",
        "grant.id, grant.granted_at)",
        f"{EXAMPLES}[burndown: with equal expiry the oldest burns first]",
    ),
    mutant(
        "an org that covers only a part pays",
        "core/attribution.py",
        "available(subject, credit_type) < credits",
        "available(subject, credit_type) <= 0",
        f"{EXAMPLES}[attribution: an org that covers only a part does not pay]",
    ),
    mutant(
        "exactly enough credits do not cover a cost",
        "core/attribution.py",
        "available(subject, credit_type) < credits",
        "available(subject, credit_type) <= credits",
        f"{EXAMPLES}[attribution: credits equal to the cost cover it]",
    ),
    mutant(
        "the overdraft limit is exceeded by one credit",
        "core/ledger/consume.py",
        "floor = policy.overdraft_limit",
        "floor = policy.overdraft_limit + 1",
        f"{EXAMPLES}[consume: one credit beyond the overdraft limit is a debt]",
    ),
    mutant(
        "amounts reserved for items of one command are counted twice",
        "core/ledger/consume.py",
        ".available - promised.get(key, 0)",
        ".available",
        f"{EXAMPLES}[together: later items are covered by the credits that earlier ones leave]",
    ),
    mutant(
        "of items that come together those that are covered pay",
        "core/ledger/consume.py",
        "        if paid is None:\n            return None\n        payers",
        "        if paid is None:\n            continue\n        payers",
        f"{EXAMPLES}[together: a payer that covers its items pays nothing if another does not]",
    ),
    mutant(
        "one key twice in one command is charged twice",
        APPLY,
        "if named.isdisjoint(names) and ",
        "if ",
        f"{EXAMPLES}[together: one key twice in one command is one item]",
    ),
    mutant(
        "the credits drawn first are returned first",
        "core/ledger/reversals.py",
        "*reversed(drawn)",
        "*drawn",
        f"{EXAMPLES}[reverse: all credits return to their grants]",
    ),
    mutant(
        "a repaid overdraft is restored by a reversal",
        "core/ledger/reversals.py",
        "            if part:\n                repaid.append",
        "            if not one:\n                repaid.append",
        f"{EXAMPLES}[reverse: credits returned to an ended grant that repaid an overdraft lapse]",
    ),
    mutant(
        "a repayment of older work counts for newer work too",
        "core/ledger/reversals.py",
        "older, undone = operation.overdraft_after - unpaid, 0",
        "older, undone = 0, 0",
        f"{EXAMPLES}[reverse: of two overdrafts the older was repaid first, and each returns to the"
        " grants that repaid it]",
    ),
    mutant(
        "a reversed grant loses held credits",
        "core/ledger/reversals.py",
        "min(amount, grant.remaining - grant.held)",
        "min(amount, grant.remaining)",
        f"{EXAMPLES}[reverse: a grant is reversed up to its remaining credits, except held ones]",
    ),
    mutant(
        "a reversal exceeds the amount of its operation",
        "core/ledger/reversals.py",
        "left = operation.amount - before",
        "left = operation.amount",
        f"{EXAMPLES}[reverse: a part returns to the last-drawn grant first, then to earlier ones]",
    ),
    mutant(
        "work is charged again each time it is priced",
        "core/ledger/unpriced.py",
        "    draft.debts[filed.id] = replace(debt, closed_by=made[0].id)\n",
        "",
        f"{EXAMPLES}[consume: it is charged once, however often it is priced]",
    ),
    mutant(
        "a repeat never finds the price of unpriced work",
        ANSWERS,
        "    if isinstance(outcome, Consumed) and outcome.is_unpriced:\n"
        "        outcome = unpriced.repeated(draft, command, outcome)\n",
        "",
        f"{EXAMPLES}[consume: a repeat that finds a price charges once and returns the charge]",
    ),
    mutant(
        "work with a price can be priced again",
        LEDGER,
        "      AND debts.owed IS NOT DISTINCT FROM n.was_owed\n",
        "",
        "tests/stores/test_unpriced.py::test_the_database_refuses_to_settle_a_part_twice[postgres]",
    ),
    mutant(
        "a settled part is still owed",
        "core/ledger/debts.py",
        "replace(debt, owed=left)",
        "debt",
        f"{EXAMPLES}[debt: available credits settle a part, and the next settlement the rest]",
    ),
    mutant(
        "a subject above the debt gate can pay",
        "core/check.py",
        "owing.get(WalletKey(*subject, name), 0) <= gate",
        "owing.get(WalletKey(*subject, name), 0) >= 0",
        f"{EXAMPLES}[hold: if all candidates owe more than the debt gate nothing is held, but"
        " finished work is charged]",
    ),
    mutant(
        "an unknown metric is free",
        "core/pricing.py",
        "is_free = policy.unknown_metrics_free or metric in policy.limits",
        "is_free = True",
        f"{EXAMPLES}[consume: the debtor is the root subject, but the outcome names the user]",
    ),
    mutant(
        "a fraction of a credit is not charged",
        "core/pricing.py",
        "-(-units * cost.credits // cost.per)",
        "units * cost.credits // cost.per",
        "tests/core/test_pricing.py::test_price[a part of a credit is rounded up]",
    ),
    mutant(
        "a script that timed out is sent again",
        "adapters/redis/limiter.py",
        "        reply = await _within(patience_s, self._evaluate(keys, arguments))\n",
        "        try:\n"
        "            reply = await _within(patience_s / 4, self._evaluate(keys, arguments))\n"
        "        except TimeoutError:\n"
        "            await self._connection.connect()\n"
        "            reply = await _within(patience_s / 4, self._evaluate(keys, arguments))\n",
        f"{LIMITER_OUTAGE}::test_a_use_without_a_response_counts_once",
    ),
    mutant(
        "a late event loop counts as a dead server",
        "adapters/redis/limiter.py",
        "        for patience_s in (seconds, GRACE_S):\n",
        "        async with asyncio.timeout(seconds):\n"
        "            return await task\n"
        "        for patience_s in (seconds, GRACE_S):\n",
        f"{LIMITER_OUTAGE}::test_a_response_that_is_read_late_is_accepted",
    ),
    mutant(
        "the breaker stays closed",
        "adapters/redis/limiter.py",
        "        self.failures += self.is_available\n        self.is_available = False\n",
        "        self.failures += 1\n",
        f"{LIMITER_OUTAGE}::test_a_paused_redis_delays_calls_once_and_then_not_at_all",
    ),
    mutant(
        "a cancelled reset is still sent",
        "adapters/redis/limiter.py",
        "            if not call.is_abandoned:\n",
        "            if True:\n",
        f"{LIMITER_OUTAGE}::test_a_cancelled_caller_does_not_disturb_others",
    ),
    mutant(
        "a window of a clock far ahead is kept",
        "core/windows.py",
        "if self._newest - number > SLICES:",
        "if number > self._newest and self._newest - number > SLICES:",
        f"{LIMITERS}::test_example[memory-a window ahead by more than its own length is dropped]",
    ),
    mutant(
        "in Redis a window of a clock far ahead is kept",
        LUA,
        "if newest - window.newest > SLICES then",
        "if newest - window.newest > newest then",
        f"{LIMITERS}::test_example[redis-a window ahead by more than its own length is dropped]",
    ),
    mutant(
        "in Redis the limit itself is refused",
        LUA,
        "excess <= 0 then return 0 end",
        "excess < 0 then return 0 end",
        f"{LIMITERS}::test_example[redis-exactly the limit passes, one more does not]",
    ),
    mutant(
        "in memory the limit itself is refused",
        "core/windows.py",
        "used + amount <= limit:",
        "used + amount < limit:",
        f"{LIMITERS}::test_example[memory-exactly the limit passes, one more does not]",
    ),
    mutant(
        "in Redis the slice partly outside does not count",
        LUA,
        "local left = math.min(window.newest - KEPT, newest)",
        "local left = math.min(window.newest - SLICES, newest)",
        f"{LIMITERS}::test_example"
        "[redis-a slice partly outside counts completely until it is completely outside]",
    ),
    mutant(
        "an id can address the window of another subject",
        "adapters/redis/limiter.py",
        'quote(text, safe="", errors="surrogatepass")',
        "text",
        f"{LIMITERS}::test_different_windows_have_different_keys",
    ),
    mutant(
        "every denial of a minute is an event",
        "app/limits/events.py",
        "        if what in self._seen:\n            return\n",
        "",
        "tests/app/limits/test_events.py::test_a_thousand_denials_are_one_event_a_minute",
    ),
    mutant(
        "a warning is rounded down",
        "core/policy.py",
        "-(-percent * amount // 100)",
        "percent * amount // 100",
        "tests/core/test_limits.py::test_example[a part of a unit is rounded up]",
    ),
    mutant(
        "a warning comes one unit late",
        "app/limits/events.py",
        "used < use.warn.units",
        "used <= use.warn.units",
        "tests/app/limits/test_events.py::test_the_event_says_how_near_the_limit_is",
    ),
    mutant(
        "every process has its own warning",
        "adapters/postgres/limits.sql",
        "WHERE e.again_at <= excluded.created_at",
        "WHERE true",
        "tests/app/limits/test_events.py"
        "::test_a_warning_that_another_process_is_writing_is_not_written_again",
    ),
    mutant(
        "a window has one warning for ever",
        "adapters/sqlite/limits.sql",
        "WHERE again_at <= excluded.created_at",
        "WHERE false",
        f"{NEAR}::test_a_window_warns_again_when_its_length_has_passed[sqlite]",
    ),
    mutant(
        "a process forgets that a window has had its warning",
        "app/limits/events.py",
        "        self._again_at |= again_at\n",
        "",
        "tests/app/limits/test_events.py"
        "::test_a_process_learns_when_another_warned_and_writes_nothing_until_then",
    ),
    mutant(
        "a warning whose write is cancelled is lost",
        "app/limits/events.py",
        "            if near := list(self._near.values()):\n",
        "            near, self._near = list(self._near.values()), {}\n            if near:\n",
        "tests/app/limits/test_events.py"
        "::test_events_whose_write_is_cancelled_are_written_once_at_the_end",
    ),
    mutant(
        "the warnings of the last commits are not written",
        "app/engine.py",
        "        stack.push_async_callback(limit_events.flush)\n",
        "",
        f"{NEAR}::test_a_stopping_service_writes_the_warnings_of_its_last_commits",
    ),
    mutant(
        "in Redis a warning is of the usage before",
        LIMITER,
        "            self._send(RedisCall(CallKind.RECORD, uses=part))\n"
        "            if report is not None:\n"
        "                self._report(part, report)\n",
        "            if report is not None:\n"
        "                self._report(part, report)\n"
        "            self._send(RedisCall(CallKind.RECORD, uses=part))\n",
        f"{LIMITERS}::test_uses_with_a_warn_level_are_reported_with_the_units_after_the_call[redis]",
    ),
    mutant(
        "a process with Redis warns by its own count as well",
        "app/limits/limiter.py",
        "self._report if self._decides_alone else None",
        "self._report",
        "tests/app/limits/test_limiter.py"
        "::test_the_shared_limiter_reports_uses_with_those_of_other_processes",
    ),
    mutant(
        "a published warning hides the one that replaced it",
        "adapters/postgres/limits.sql",
        "u.created_at = k.created_at AND u.event_id = k.event_id::uuid",
        "k.event_id IS NOT NULL",
        f"{OUT}::test_a_near_event_that_replaced_a_published_one_is_published_too[postgres]",
    ),
    mutant(
        "warnings are never purged",
        "adapters/postgres/limits.py",
        """            await db.execute(SQL["purge_limit_near"], self._db.now(), limit)\n""",
        "",
        "tests/stores/test_limits.py"
        "::test_near_events_are_purged_a_day_after_the_time_of_their_window[postgres]",
    ),
    mutant(
        "reported use warns of nothing",
        "core/limits.py",
        "            yield from _uses(policy, metric, count, subject, command.origin)\n",
        "            yield from uses(\n"
        "                policy, metric, count, user_id=subject.user_id, org_id=subject.org_id\n"
        "            )\n",
        f"{NEAR}::test_reported_use_warns_as_requests_do[sqlite]",
    ),
    mutant(
        "a restart forgets the use of limits",
        "wiring.py",
        "return Limiters(local, recounting=local)",
        "return Limiters(local)",
        "tests/service/test_service.py::test_a_restarted_service_knows_what_was_used_of_a_limit",
    ),
    mutant(
        "windows are not rebuilt at startup",
        "app/limits/backfill.py",
        "        self._limiter.take_over(new, recount.windows)\n",
        "",
        "tests/app/limits/test_backfill.py"
        "::test_a_new_limiter_counts_the_same_from_history_as_the_old_one",
    ),
    mutant(
        "a grant emptied by a settlement still expires",
        "core/ledger/due.py",
        "grant = draft.grant(key, first.id)",
        "grant = first",
        f"{EXAMPLES}[debt: credits that settled a debt in time do not expire]",
    ),
    mutant(
        "the debts of wallets with due effects are not loaded",
        "core/ledger/book.py",
        "if self.due_debts else ()",
        "if not self.due_debts else ()",
        "tests/stores/test_ledger.py::test_a_paid_grant_settles_debts_when_it_starts[postgres]",
    ),
    mutant(
        "written rows are joined by their keys",
        LEDGER,
        "WHERE g.ctid = found.ctid",
        "WHERE g.id = n.id::uuid",
        "tests/adapters/postgres/test_plans.py::test_no_plan_of_a_batch_reads_a_table_whole",
    ),
    mutant(
        "invariants are verified by nested loops",
        "adapters/postgres/schema.sql",
        "SET LOCAL enable_nestloop = off;",
        "",
        "tests/adapters/postgres/test_plans.py::test_no_invariant_is_verified_by_a_nested_loop",
    ),
    mutant(
        "revoked keys prevent a new bootstrap key",
        "service/bootstrap.py",
        "if any(key.revoked_at is None for key in await store.keys.all()):",
        "if await store.keys.all():",
        "tests/service/test_service.py::test_when_every_key_was_revoked_the_next_start_makes_one",
    ),
    mutant(
        "held credits are drawn by others",
        "core/burndown.py",
        "min(grant.remaining - grant.held, unpaid)",
        "min(grant.remaining, unpaid)",
        "tests/core/ledger/test_laws.py::test_held_credits_do_not_pay",
    ),
    mutant(
        "a lapse comes before an expiry at the same time",
        "core/ledger/due.py",
        "return DuePlace(at, LAPSE)",
        "return DuePlace(at, -1)",
        f"{EXAMPLES}[hold: at the same time an expiry comes before a lapse]",
    ),
    mutant(
        "an ended grant that paid for a hold is restored with no time left",
        "core/ledger/reversals.py",
        "elif restore and (_paid_until(grant, paid.at) or NEVER) > paid.at:",
        "elif restore:",
        f"{EXAMPLES}[reverse: credits that a hold paid from an ended grant lapse, also with"
        " restore]",
    ),
    mutant(
        "a read shows a start before the debts that it settles",
        "core/ledger/due.py",
        "if not book.policy.settle_debts or",
        "if book.policy.settle_debts or",
        f"{AGREE}test_a_start_settles_debts_before_its_credits_can_be_spent[postgres]",
    ),
    mutant(
        "a start is applied before lapses of its instant that were not loaded",
        "core/ledger/due.py",
        "else min(DuePlace(now, START), cut)",
        "else min(DuePlace(now, START), DuePlace(cut.at, START))",
        "tests/stores/test_ledger.py::test_a_start_waits_for_all_lapses_of_its_instant[sqlite]",
    ),
    mutant(
        "the next expiry counts loaded grants twice",
        "adapters/postgres/loading.py",
        "loaded = [grant_id for grants in book.grants.values() for grant_id in grants]",
        "loaded: list[str] = []",
        f"{AGREE}test_the_next_expiry_counts_each_grant_once_while_a_lapse_is_due[postgres]",
    ),
    mutant(
        "each part of a hold is shown by the clock of its own wallet",
        "app/credits/reader.py",
        "as_lapsed(part) if part.id in lapsed else part",
        "part",
        f"{AGREE}test_a_hold_of_two_wallets_lapses_as_a_whole[sqlite]",
    ),
    mutant(
        "the prediction takes starts that are not to be counted",
        "core/explain.py",
        "            if not grant.started:",
        "            if grant.started and not grant.id:",
        "tests/transports/http/test_checks.py::test_a_scheduled_grant_gives_no_retry_after",
    ),
    mutant(
        "returned credits do not repay the overdraft",
        "core/ledger/backing.py",
        "repaid = 0 if grant.ended_at is not None else",
        "repaid = 0 if grant else",
        f"{EXAMPLES}[hold: returned credits repay an overdraft immediately]",
    ),
    mutant(
        "credits returned to an ended grant stay in the balance",
        "core/ledger/backing.py",
        "    for lost in ended:\n",
        "    for lost in ended[:0]:\n",
        f"{EXAMPLES}[hold: an expiry takes the credits that are not held, the lapse the rest]",
    ),
    mutant(
        "a closed hold is settled again",
        "core/ledger/settlement.py",
        "    if first.closing is not None:\n",
        "    if first.closing is None and first.taken < 0:\n",
        "tests/core/ledger/test_streams.py",
    ),
    mutant(
        "units in flight do not count",
        "app/limits/limiter.py",
        "            self._in_progress[use.window] += use.amount\n",
        "            self._in_progress[use.window] += 0 * use.amount\n",
        "tests/transports/http/test_holds.py::test_a_limit_is_never_exceeded_by_concurrent_holds",
    ),
    mutant(
        "a hold does not set the due time of its wallet",
        "core/ledger/backing.py",
        "sooner(wallet.next_due_at, until)",
        "wallet.next_due_at",
        f"{EXAMPLES}[hold: at its expiry it has lapsed]",
    ),
    mutant(
        "a client uses a new key for each attempt",
        "client.py",
        "await self._asked(request, call)",
        "await self._asked(self._request(call), call)",
        "tests/surfaces/test_client.py::test_a_lost_response_is_retried_and_charges_once",
    ),
    mutant(
        "cancelling a caller cancels the taking of its hold",
        "holding.py",
        "    try:\n        return await asyncio.shield(task)\n",
        "    try:\n        return await task\n",
        "tests/surfaces/test_holding.py::test_work_is_paid_when_its_caller_is_cancelled[embedded]",
    ),
    mutant(
        "cancelling a caller cancels the end of its hold",
        "holding.py",
        "    _keep(task)\n    return await asyncio.shield(task)\n",
        "    _keep(task)\n    return await task\n",
        "tests/surfaces/test_holding.py::test_work_is_paid_when_its_caller_is_cancelled[embedded]",
    ),
    mutant(
        "an engine as db is not used",
        "entitlement_service.py",
        "if isinstance(db, Entitlements):",
        "if self._entitlements is None and isinstance(db, Entitlements):",
        f"{OBJECTS}test_an_engine_as_db_is_used_instead_of_any_other",
    ),
    mutant(
        "a grant by a request object has no key",
        "entitlement_service.py",
        "            key=key,\n",
        "",
        f"{OBJECTS}test_a_repeat_with_the_same_key_changes_nothing_more",
    ),
    mutant(
        "a subscription that expires keeps its grants",
        "entitlement_service.py",
        "return await self.handle_subscription_cancelled(subscription_id, db=db, **context)",
        "return []",
        f"{OBJECTS}test_without_a_handler_name_what_a_subscription_gave_is_revoked_at_its_end",
    ),
    mutant(
        "a lifecycle handler takes the name of another",
        "lifecycle.py",
        "if _place(_registered.setdefault(name, handler)) != _place(handler):",
        "if not name:",
        f"{OBJECTS}test_a_name_belongs_to_one_handler",
    ),
    mutant(
        "a context that is not entered is the engine of the process",
        "configured.py",
        "if not isinstance(entitlements, Entitlements):",
        "if entitlements is None:",
        f"{OBJECTS}test_a_context_that_is_not_entered_is_no_engine",
    ),
    mutant(
        "a handler runs without its entitlement",
        "fastapi.py",
        "if not found.has_access:",
        "if not found:",
        f"{GUARDS}test_a_feature_is_required_of_the_user_or_the_org",
    ),
    mutant(
        "a missing quantity is a missing feature",
        "fastapi.py",
        "if not kind.is_consumable:",
        "if kind:",
        f"{GUARDS}test_a_missing_quantity_is_a_402_and_nothing_is_charged",
    ),
    mutant(
        "the org of an app is not asked",
        "fastapi.py",
        "app.dependency_overrides[_no_org] = org",
        "pass",
        f"{GUARDS}test_a_user_and_an_org_are_named_once_for_the_app",
    ),
    mutant(
        "a balance that reaches a threshold counts as below it",
        "core/thresholds.py",
        "left_nothing or wallet.balance < _level",
        "left_nothing or wallet.balance <= _level",
        f"{EXAMPLES}[thresholds: a balance that reaches a threshold is not below it]",
    ),
    mutant(
        "the balance after the last grant is forgotten between batches",
        WRITING,
        "    if changes.grant_totals:\n",
        "    if changes.grant_totals and not changes.wallets:\n",
        "tests/stores/test_ledger.py::"
        "test_a_wallet_keeps_the_balance_after_its_last_grant[postgres]",
    ),
    mutant(
        "a message after a failed one of its key counts as acknowledged",
        PRODUCER,
        "        is_late = message.key in failed and isinstance(result, Acked)\n",
        "        is_late = message.key in failed and isinstance(result, Undeliverable)\n",
        f"{SINK}::test_a_missing_topic_holds_back_only_its_keys_until_it_is_created",
    ),
    mutant(
        "one record that Kafka refuses fails the whole batch",
        PRODUCER,
        "    return Undeliverable(reason) if alone else BatchRejected(reason)\n",
        "    return Undeliverable(reason)\n",
        f"{SINK}::test_a_record_that_the_broker_refuses_is_isolated_and_the_producer_replaced",
    ),
    mutant(
        "a producer that gave up continues to send",
        PRODUCER,
        "        session.retire()\n        pending.resolve_rest(TIMED_OUT)\n",
        "        pending.resolve_rest(TIMED_OUT)\n",
        f"{SINK}::test_a_producer_that_gave_up_sends_nothing_more",
    ),
    mutant(
        "a webhook is sent to a name instead of its checked address",
        "adapters/http/sender.py",
        "            url.copy_with(host=address),\n",
        "            url,\n",
        f"{SENDER}::test_a_name_is_resolved_once_per_message_and_that_address_is_used",
    ),
    mutant(
        "one public address among private ones is accepted",
        "adapters/http/sender.py",
        "not all(map(is_public, found))",
        "not any(map(is_public, found))",
        f"{SENDER}::test_one_private_address_among_public_ones_is_refused",
    ),
    mutant(
        "a deliverer without its lease overwrites the result of the new one",
        "adapters/sqlite/webhooks.sql",
        " AND attempts = ?3 AND state = 'pending'\n",
        " AND ?3 = ?3\n",
        f"{WEBHOOKS}::test_a_deliverer_that_lost_its_lease_records_no_result[sqlite]",
    ),
    mutant(
        "a claimed delivery can be claimed again immediately",
        "adapters/postgres/webhooks.sql",
        "next_at = due.now + make_interval(secs => $4::int)",
        "next_at = due.now + 0 * make_interval(secs => $4::int)",
        f"{WEBHOOKS}::test_deliveries_of_a_killed_process_are_taken_over_after_its_lease[postgres]",
    ),
    mutant(
        "a replaced secret stops signing immediately",
        "app/webhooks/store.py",
        "if one.until is None or now < one.until]",
        "if one.until is None]",
        f"{WEBHOOKS}::test_both_secrets_sign_until_the_overlap_ends[sqlite]",
    ),
    mutant(
        "webhooks miss events that the relay discards",
        "adapters/sqlite/outbox.py",
        "            fill(db, passed, now)\n",
        "",
        "tests/app/webhooks/test_from_the_outbox.py::"
        "test_events_without_other_subscribers_are_delivered_too[sqlite]",
    ),
    mutant(
        "a signature never expires",
        "webhooks.py",
        "    if abs(present - int(sent_at)) > tolerance_s:\n",
        "    if int(sent_at) - present > tolerance_s:\n",
        "tests/app/webhooks/test_signature.py::test_a_message_is_valid_for_five_minutes",
    ),
    mutant(
        "a relay that lost its leases marks events that it had read",
        OUTBOX,
        "bucket = k.b AND epoch = k.epoch AND holder = $1 FOR UPDATE",
        "bucket = k.b FOR UPDATE",
        f"{OUT}::test_a_stale_relay_marks_nothing[postgres]",
    ),
    mutant(
        "a relay that lost and regained its leases marks events read before",
        OUTBOX,
        "bucket = k.b AND epoch = k.epoch AND holder = $1 FOR UPDATE",
        "bucket = k.b AND holder = $1 FOR UPDATE",
        f"{OUT}::test_a_relay_with_an_earlier_epoch_marks_nothing[postgres]",
    ),
    mutant(
        "events of the same time are sent in any order",
        OUTBOX,
        "    ORDER BY created_at, seq, n\n    LIMIT $2\n) AS e\n",
        "    ORDER BY created_at, event_id DESC\n    LIMIT $2\n) AS e\n",
        f"{OUT}::test_waiting_events_keep_the_order_of_their_wallets[postgres]",
    ),
    mutant(
        "an event that failed counts as sent",
        RELAY,
        "                    failed.setdefault(event.key, reason)\n",
        "                    failed.setdefault(event.key, reason)\n"
        "                    published.append(event)\n",
        "tests/app/outbox/test_relay.py::"
        "test_while_publishing_fails_nothing_is_written_and_later_all_is_published[sqlite]",
    ),
    mutant(
        "an event is charged on every delivery",
        REPORT,
        "    known = draft.record(command.report.key)\n",
        "    known = None\n",
        f"{INBOX}::test_an_event_is_charged_once_within_and_across_batches[sqlite]",
    ),
    mutant(
        "a job is charged again under another event",
        REPORT,
        "draft.job(command.report.job) if command.report.job is not None else None",
        "None",
        f"{INBOX}::test_a_job_is_charged_once_over_requests_and_events[postgres]",
    ),
    mutant(
        "a report under a hold is charged in addition to the hold",
        REPORT,
        "    if command.hold:\n"
        "        return _unpriceable(draft, command, command.hold) or _settled(draft, command)\n",
        "",
        f"{INBOX}::test_a_report_settles_its_hold[sqlite]",
    ),
    mutant(
        "the record of a report is not written with its charge",
        WRITING,
        "        await _copy_records(db, changes.records)\n",
        "        pass\n",
        f"{INBOX}::test_a_record_has_the_report_of_the_event_and_its_outcome[postgres]",
    ),
    mutant(
        "an outage makes events dead letters",
        "app/inbox/intake.py",
        "        except TRANSIENT as error:\n            return error\n",
        "",
        f"{EVENTS}::test_a_transient_failure_never_makes_a_dead_letter",
    ),
    mutant(
        "an offset is committed before its batch is done",
        "adapters/kafka/consumer.py",
        "            self._set_status(Status.PAUSED)\n            return False\n",
        "            self._set_status(Status.PAUSED)\n            return True\n",
        f"{CONSUMER}::test_an_unavailable_database_pauses_it_and_dead_letters_nothing",
    ),
    mutant(
        "records of a revoked partition are still processed",
        "app/inbox/batch.py",
        "(one.record.topic, one.record.partition) not in places\n",
        "places\n",
        f"{EVENTS}::test_partitions_assigned_to_another_consumer_are_dropped_from_a_batch",
    ),
    mutant(
        "an e-mail address is stored in a dead letter",
        "app/inbox/batch.py",
        "[kept(letter) for letter in letters]",
        "letters",
        f"{EVENTS}::test_the_email_address_of_a_registration_is_stored_nowhere",
    ),
    mutant(
        "what a grant without a limit pays leaves the balance",
        "core/ledger/consume.py",
        "delta=drawn.uncounted - credits,",
        "delta=-credits,",
        f"{EXAMPLES}[grant: it covers what no balance could]",
    ),
    mutant(
        "a hold that a grant without a limit backs holds credits of the balance",
        "core/ledger/backing.py",
        "held=wallet.held + credits - drawn.uncounted,",
        "held=wallet.held + credits,",
        f"{EXAMPLES}[grant: it backs a hold without holding anything of the balance]",
    ),
    mutant(
        "a grant without a limit still covers after it was revoked",
        "core/ledger/posting.py",
        "unlimited=wallet.unlimited - 1)",
        "unlimited=wallet.unlimited)",
        f"{EXAMPLES}[grant: a revoked one covers nothing]",
    ),
    mutant(
        "a scheduled grant takes no room in the largest balance",
        "core/ledger/posting.py",
        "wallet.balance + wallet.promised + credits <= AMOUNT_MAX",
        "wallet.balance + credits <= AMOUNT_MAX",
        f"{EXAMPLES}[grant: scheduled grants count towards the largest balance]",
    ),
    mutant(
        "a grant is renewed at its end",
        "core/ledger/due.py",
        "(renewal(period, start, last) or NEVER) >= ends:",
        "(renewal(period, start, last) or NEVER) > ends:",
        f"{EXAMPLES}[renewal: its last renewal is before its end]",
    ),
    mutant(
        "missed renewals give one period too many",
        "core/renewals.py",
        "(periods - 1) * quantity",
        "periods * quantity",
        f"{EXAMPLES}[renewal: missed periods accumulate each, up to the cap]",
    ),
    mutant(
        "everything rolls over",
        "core/renewals.py",
        "kept = min(min(left, cap) + (periods - 1) * quantity, cap)",
        "kept = left + (periods - 1) * quantity",
        f"{EXAMPLES}[renewal: an accumulative grant keeps what is left up to its cap]",
    ),
    mutant(
        "what a period paid that has ended comes back to the next one",
        "core/ledger/reversals.py",
        "is_over = has_ended(grant, now) or _is_past(grant, paid.at)",
        "is_over = has_ended(grant, now)",
        f"{EXAMPLES}[renewal: what was used in a period that has ended lapses when it comes back]",
    ),
    mutant(
        "a local time that daylight saving skips is an hour later",
        "core/renewals.py",
        "return _end_of_gap(wall, zone)",
        "return found",
        f"{RENEWALS}near_a_change_of_the_clock_is_the_first_instant_too",
    ),
    mutant(
        "a local time that comes twice is the second one",
        "core/renewals.py",
        "found = wall.replace(tzinfo=zone).astimezone(UTC)",
        "found = wall.replace(tzinfo=zone, fold=1).astimezone(UTC)",
        f"{RENEWALS}near_a_change_of_the_clock_is_the_first_instant_too",
    ),
    mutant(
        "a renewal of a live grant is written as a draw",
        "adapters/sqlite/writing.py",
        "is_same = grant.held == loaded.held and grant.due_at == loaded.due_at",
        "is_same = grant.held == loaded.held",
        f"{ENTITLEMENTS}::test_each_period_is_recorded_by_the_next_use[embedded]",
    ),
    mutant(
        "credits of expiries that are only summed stay in the balance",
        "core/ledger/due.py",
        "balance=wallet.balance - credits)",
        "balance=wallet.balance)",
        "tests/stores/test_reads.py::test_expiries_of_many_grants_are_read_as_a_sum[sqlite]",
    ),
    mutant(
        "a feature without a name is every feature",
        "core/access.py",
        "(self.feature, details.feature),",
        "(details.feature and self.feature, details.feature),",
        f"{ENTITLEMENTS}::test_a_feature_without_a_name_answers_only_checks_without_one[embedded]",
    ),
    mutant(
        "of several numbers among the limitations the first counts",
        "core/access.py",
        "found[name] = max(known, value)",
        "found[name] = known",
        f"{ENTITLEMENTS}::test_limitations_take_the_largest_number_the_union_of_lists"
        "_and_the_first_of_others[embedded]",
    ),
    mutant(
        "a check is answered by candidates that have a part",
        "core/access.py",
        "available[one] >= wanted.quantity]",
        "available[one]]",
        f"{ENTITLEMENTS}::test_an_org_gives_what_its_users_do_not_have[embedded]",
    ),
    mutant(
        "the change of an allowance is announced as that of a balance",
        "app/outbox/announce.py",
        "if operation.delta and not operation.wallet.is_of_allowances:",
        "if operation.delta:",
        "tests/app/outbox/test_announce.py::"
        "test_a_renewal_and_a_scheduled_grant_are_announced_with_their_type",
    ),
    mutant(
        "what allowances pay is priced too",
        "core/ledger/consume.py",
        "return Line(item, split, price(policy, metric, split.rest))",
        "return Line(item, split, price(policy, metric, item.units))",
        f"{EXAMPLES}[allowance: only the rest is priced]",
    ),
    mutant(
        "the user's allowance pays before the org's",
        "core/allowances.py",
        "for subject in subjects)",
        "for subject in reversed(subjects))",
        f"{EXAMPLES}[allowance: the user's allowance pays first if the user does]",
    ),
    mutant(
        "an allowance pays for a metric that the policy does not know",
        "core/ledger/consume.py",
        "if metric in policy.allowances and price(policy, metric, 0) is not None:",
        "if metric in policy.allowances:",
        f"{EXAMPLES}[allowance: allowances do not pay for a metric that the policy does not know]",
    ),
    mutant(
        "a check prices all units",
        "core/check.py",
        "rest = question.units[metric] - sum(parts.values())",
        "rest = question.units[metric]",
        f"{ALLOWANCES}::test_a_check_says_what_an_allowance_would_pay[embedded]",
    ),
    mutant(
        "the first allowance of a metric is not recorded",
        "core/ledger/posting.py",
        "draft.allowances.add(metric)",
        "pass",
        f"{ALLOWANCES}::test_an_allowance_pays_before_credits_and_only_the_rest_is_priced[embedded]",
    ),
    mutant(
        "a batch ignores allowances that its process does not know",
        "app/credits/batch.py",
        "return book.policy_content is not None or book.allowances is not None",
        "return book.policy_content is not None",
        f"{ALLOWANCES}::test_the_first_allowance_of_a_metric_is_used_by_other_processes_at_once",
    ),
    mutant(
        "every operation of a group is announced as usage",
        "app/outbox/announce.py",
        "if operation.is_part:",
        "if False:",
        f"{ALLOWANCES}::test_an_allowance_pays_before_credits_and_only_the_rest_is_priced[embedded]",
    ),
    mutant(
        "a settlement prices the units that its hold's allowances pay",
        "core/ledger/settlement.py",
        "line = _line(policy, first, metric, more.rest)",
        "line = _line(policy, first, metric, rest)",
        f"{EXAMPLES}[allowance: more than was held: other units pay before credits]",
    ),
    mutant(
        "a settlement leaves its hold's allowances alone",
        "core/ledger/settlement.py",
        "if part.wallet.credit_type == allowance_type(metric) and (",
        "if part.wallet.credit_type == metric and (",
        f"{EXAMPLES}[allowance: held units survive the end of the allowance]",
    ),
    mutant(
        "a reversal leaves the group alone",
        "core/ledger/reversals.py",
        "if command.amount is None and command.group:",
        "if False:",
        f"{EXAMPLES}[allowance: everything goes back]",
    ),
    mutant(
        "a split charges what the org could pay twice",
        "core/attribution.py",
        "            parts[key] = part - used\n",
        "",
        f"{EXAMPLES}[attribution: items use the org's credits in their order]",
    ),
    mutant(
        "a split pays a part although the rest is not covered",
        "core/attribution.py",
        "        if left:\n            return None\n    return split",
        "    return split",
        f"{EXAMPLES}[attribution: if they do not cover it together, none pays]",
    ),
    mutant(
        "a required feature of the org does not count",
        "app/credits/reader.py",
        """            subjects.append(Subject("org", org_id))\n""",
        """            pass\n""",
        f"{REQUIRED}::test_the_entitlement_of_the_user_or_of_the_org_suffices[embedded]",
    ),
    mutant(
        "a hold needs no entitlement",
        "core/ledger/holds.py",
        "question = replace(question, lacking=command.lacking)",
        "pass",
        f"{REQUIRED}::test_a_hold_needs_the_entitlement_and_its_settlement_does_not[embedded]",
    ),
    mutant(
        "everyone is a member of an org",
        "core/ledger/members.py",
        "if member is None or member.left_at is not None:",
        "if member is None:\n        return True, None\n    if member.left_at is not None:",
        f"{EXAMPLES}[member: for others it does not count as covering, and the user pays]",
    ),
    mutant(
        "a cap cannot be used up exactly",
        "core/attribution.py",
        "sum(required.values()) <= org_most:",
        "sum(required.values()) < org_most:",
        f"{EXAMPLES}[member: the cap can be used up exactly]",
    ),
    mutant(
        "a cap never starts again",
        "core/model.py",
        "return self.drawn if self.month == self.month_at(at) else 0",
        "return self.drawn",
        f"{EXAMPLES}[member: the cap starts again in the next calendar month]",
    ),
    mutant(
        "a clock that is set back empties a cap",
        "core/model.py",
        'return max(self.month, f"{at:%Y-%m}")',
        'return f"{at:%Y-%m}"',
        f"{EXAMPLES}[member: a clock that is set back stays in the month]",
    ),
    mutant(
        "what a hold returns stays in the cap",
        "core/ledger/backing.py",
        "    uncount(draft, key, part.user_id, part.held, part.member_month)\n",
        "",
        f"{EXAMPLES}[member: a release and a lapse give back]",
    ),
    mutant(
        "a reversal of last month goes back to this month",
        "core/ledger/members.py",
        "if member is not None and member.month == month:",
        "if member is not None:",
        f"{EXAMPLES}[member: a reversal in a later month leaves that month alone]",
    ),
    mutant(
        "units of an org's allowances count towards a cap",
        "core/ledger/members.py",
        'wallet.subject_type != "org" or wallet.is_of_allowances or not credits:',
        'wallet.subject_type != "org" or not credits:',
        f"{EXAMPLES}[member: held and spent units of the org's allowances are in no cap]",
    ),
    mutant(
        "the members of holds that lapse are not loaded",
        "adapters/postgres/loading.py",
        "if members := book.counted_members():",
        "if members := set():",
        "tests/stores/test_reads_agree.py::test_a_read_shows_what_the_next_command_finds",
    ),
    mutant(
        "a change of the plan gives again what was used",
        SUBSCRIPTIONS,
        "used=part,",
        "used=0,",
        f"{SUBSCRIBED}a change counts as used what was used of the period]",
    ),
    mutant(
        "a change of the plan gives again what is held",
        SUBSCRIPTIONS,
        " + one.held",
        "",
        f"{SUBSCRIBED}what is held counts as used]",
    ),
    mutant(
        "a change of the plan counts what was used of earlier periods",
        SUBSCRIPTIONS,
        "max(0, one.spent - one.used_before)",
        "one.spent",
        f"{SUBSCRIBED}only what was used of the current period counts]",
    ),
    mutant(
        "each new grant in a wallet counts all that was used",
        SUBSCRIPTIONS,
        "            used[wallet] -= parts[number]\n",
        "",
        f"{SUBSCRIBED}several new grants share what was used]",
    ),
    mutant(
        "a new plan's grants have periods from the change on",
        SUBSCRIPTIONS,
        "granted_at=starts_at or _period_start(each, before.get(wallet)),",
        "granted_at=starts_at,",
        f"{SUBSCRIBED}the new grant has the period of the one that it replaces]",
    ),
    mutant(
        "grants stay after the end of a canceled period",
        SUBSCRIPTIONS,
        "    _set_expiry(draft, kept, at)\n",
        "",
        f"{SUBSCRIBED}at the end of the period the grants expire and the subscription ends]",
    ),
    mutant(
        "a subscription stays open after its own grant",
        "core/ledger/due.py",
        "    if kind is OperationKind.EXPIRY:\n",
        "    if kind is OperationKind.RENEWAL:\n",
        f"{SUBSCRIBED}at the end of the period the grants expire and the subscription ends]",
    ),
    mutant(
        "a prediction takes summed expiries from the balance at each of its steps",
        "core/ledger/due.py",
        "            if key not in draft.wallets:\n                _leave_expired(draft, key)\n",
        "            _leave_expired(draft, key)\n",
        "tests/stores/test_reads.py"
        "::test_an_opened_book_has_expiries_as_a_sum_and_the_grants_behind_them",
    ),
    mutant(
        "grants that have expired take the places of those that give access",
        "adapters/sqlite/reads.sql",
        "  AND (expires_at IS NULL OR expires_at > ?)\n",
        "  AND ? IS NOT NULL\n",
        "tests/stores/test_reads.py"
        "::test_current_grants_are_read_by_type_and_without_those_that_have_expired",
    ),
    mutant(
        "a withdrawn cancellation ends the grants all the same",
        SUBSCRIPTIONS,
        "    _set_expiry(draft, found, None)\n",
        "",
        f"{SUBSCRIBED}the next period withdraws a cancellation]",
    ),
    mutant(
        "a withdrawn cancellation leaves what it had scheduled",
        SUBSCRIPTIONS,
        "revoked = _revoke_all(draft, command, found, found.follow_up)",
        "revoked: tuple[str, ...] = ()",
        f"{SUBSCRIBED}a cancellation now replaces one at the end of the period]",
    ),
    mutant(
        "a repeated cancellation at the end of the period is another one",
        SUBSCRIPTIONS,
        "(is_later and is_known)",
        "False",
        f"{SUBSCRIBED}at the end of the period the grants expire and the subscription ends]",
    ),
    mutant(
        "a new subscription keeps what an old one has left",
        SUBSCRIPTIONS,
        "one.follow_up and not one.is_open",
        "one.follow_up and one.is_open",
        f"{SUBSCRIBED}a new subscription ends what an old one has left]",
    ),
    mutant(
        "a subject takes another's subscription",
        SUBSCRIPTIONS,
        "if found is not None and found.subject != command.wallet.subject:",
        "if False:",
        f"{SUBSCRIBED}another subject's subscription is refused]",
    ),
    mutant(
        "a migration withdraws cancellations",
        SUBSCRIPTIONS,
        "found.is_open and found.cancels_at is None and",
        "found.is_open and",
        f"{SUBSCRIBED}a migration leaves a subscription that is canceling]",
    ),
    mutant(
        "a new end of a grant is not written on PostgreSQL",
        LEDGER,
        ", expires_at = n.expires_at\n",
        "\n",
        f"{SUBSCRIBING}::test_a_cancellation_at_the_end_of_the_period_is_exact"
        "[embedded_on_postgres]",
    ),
    mutant(
        "a subscription is not loaded with its own grant",
        "adapters/sqlite/loading.py",
        "for grant_id in book.own_grants():",
        "for grant_id in ():",
        "tests/app/verify/test_verify.py::test_a_real_history_balances[sqlite]",
    ),
    mutant(
        "a cancellation is announced before it takes effect",
        "app/outbox/announce.py",
        "case SubscriptionChange.CANCELLED | SubscriptionChange.EXPIRED:",
        "case SubscriptionChange.CANCELLED | SubscriptionChange.CANCELING:",
        "tests/app/verify/test_verify.py::test_a_real_history_balances[sqlite]",
    ),
    mutant(
        "the free plan is an active subscription",
        "app/operations/access.py",
        "found.plan_id != free_plan",
        "found.plan_id",
        f"{SUBSCRIBING}::test_the_free_plan_is_no_active_subscription[embedded]",
    ),
    mutant(
        "a plan without a free plan leaves it",
        "app/policy/document.py",
        "is LifecycleRule.FREEMIUM and free_plan is None",
        "is LifecycleRule.FREEMIUM and free_plan is not None",
        "tests/app/policy/test_document.py::test_refused[a freemium plan without a free plan]",
    ),
    mutant(
        "an import can be repeated after a while",
        "app/operations/naming.py",
        "REFERENCE_S: Final = 100 * 365 * 86_400",
        "REFERENCE_S: Final = 30 * 86_400",
        f"{IMPORTS}::test_a_reference_is_kept_for_good[sqlite]",
    ),
    mutant(
        "an import replays a reference with other content",
        IMPORTING,
        "reference_origin(request, row.reference, *astuple(row))",
        "reference_origin(request, row.reference)",
        f"{IMPORTS}::test_a_known_reference_with_other_content_is_refused[sqlite]",
    ),
    mutant(
        "an import writes the good rows of a wrong file",
        IMPORTING,
        "    faults.refuse()\n",
        "",
        f"{IMPORTS}::test_a_wrong_row_is_named_and_nothing_is_written[sqlite]",
    ),
    mutant(
        "an import takes a reference twice",
        IMPORTING,
        "(first := places.setdefault(digest, place)) != place",
        "(first := places.setdefault(digest, place)) == ''",
        f"{IMPORTS}::test_a_wrong_row_is_named_and_nothing_is_written[sqlite]",
    ),
    mutant(
        "an import grants a part of a page",
        IMPORTING,
        "Granted, atomic=True)",
        "Granted, atomic=False)",
        f"{IMPORTS}::test_a_refusal_of_the_ledger_names_its_row[sqlite]",
    ),
    mutant(
        "an import reads a database of the service itself",
        "app/operations/origin.py",
        "if all([await",
        "if not all([await",
        f"{ORIGIN}::test_a_database_of_this_service_is_refused[sqlite]",
    ),
    mutant(
        "an import writes before the older service's operations were validated",
        "app/operations/origin.py",
        "    faults.refuse()\n",
        "",
        f"{ORIGIN}::test_wrong_rows_are_named_and_nothing_is_written[sqlite]",
    ),
    mutant(
        "an export for an import counts what has not started",
        "app/operations/exporting.py",
        "status is GrantStatus.ACTIVE and ",
        "",
        f"{EXPORTS}::test_balances_have_a_row_for_each_expiry[sqlite]",
    ),
    mutant(
        "an export for an import leaves out the grants after the first ones",
        "app/operations/exporting.py",
        "counts[one.grant.wallet.subject] < GRANTS_AT_ONCE",
        "True",
        f"{EXPORTS}::test_a_subject_with_many_grants_is_exported_whole[sqlite]",
    ),
    mutant(
        "an import reads the guard of an exported formula as text",
        "transports/cli/csv_files.py",
        "return cell[1:] if _GUARDED.match(cell) else cell",
        "return cell",
        f"{EXPORTS}::test_exported_balances_can_be_imported_into_another_database[sqlite]",
    ),
    mutant(
        "use beyond a smaller plan is forgotten by a larger one",
        SUBSCRIPTIONS,
        "        parts[number] += used[wallet]\n",
        "        pass\n",
        f"{SUBSCRIBED}going down and up gives nothing twice]",
    ),
    mutant(
        "use is forgotten by a plan without such grants",
        SUBSCRIPTIONS,
        "(*kept.given, *kept.replaced)",
        "kept.given",
        f"{SUBSCRIBED}a plan without such credits does not forget their use]",
    ),
    mutant(
        "use of a period that is over counts after a plan without such grants",
        SUBSCRIPTIONS,
        "grant.renews_at is None or grant.renews_at > now",
        "True",
        f"{SUBSCRIBED}after its period use is forgotten]",
    ),
)
