"""Stored answers: a repeat of a key or of a job gets the first answer."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from msgspec.structs import replace

from entitlements.core.commands import AnyCommand, Consume
from entitlements.core.ledger import unpriced
from entitlements.core.ledger.book import Draft
from entitlements.core.model import Receipt, StoredJob
from entitlements.core.outcomes import Consumed, Refusal, StoredOutcome
from entitlements.core.reasons import RefusalCode

KEY_REUSED: Final = Refusal(
    code=RefusalCode.KEY_REUSED, detail="this idempotency key was used for another request"
)


def stored_answer(draft: Draft, command: AnyCommand) -> StoredOutcome | Refusal | None:
    """Return the stored answer of the command's key, else of its job.

    For work that was recorded without a price, return the current state of that work.
    """
    return _answer_of_key(draft, command) or _answer_of_job(draft, command)


def store_answer(draft: Draft, command: AnyCommand, outcome: StoredOutcome) -> None:
    """Store the answer for repeats of the command's key and job."""
    origin = command.origin
    draft.receipts[origin.client, origin.key] = Receipt(
        client=origin.client,
        key=origin.key,
        fingerprint=origin.fingerprint,
        outcome=outcome,
        created_at=draft.now,
        expires_at=draft.now + timedelta(seconds=origin.lifetime_s),
    )
    if isinstance(command, Consume) and command.job is not None:
        assert isinstance(outcome, Consumed), outcome
        draft.jobs[command.job] = StoredJob(key=command.job, units=command.units, outcome=outcome)


def _answer_of_key(draft: Draft, command: AnyCommand) -> StoredOutcome | Refusal | None:
    origin = command.origin
    receipt = draft.receipt((origin.client, origin.key))
    if receipt is not None and receipt.expires_at > draft.now:
        if receipt.fingerprint != origin.fingerprint:
            return KEY_REUSED
        return _replayed(draft, receipt.outcome, command)
    return None


def _answer_of_job(draft: Draft, command: AnyCommand) -> StoredOutcome | Refusal | None:
    if not isinstance(command, Consume) or command.job is None:
        return None
    job = draft.job(command.job)
    if job is None:
        return None
    if job.units == command.units:
        return _replayed(draft, job.outcome, command)
    return Refusal(
        code=RefusalCode.JOB_CONFLICT,
        detail=f"this job was reported before with {job.units} units",
        data={"units": job.units, "operation_id": job.outcome.operation_id},
    )


def _replayed(draft: Draft, outcome: StoredOutcome, command: AnyCommand) -> StoredOutcome:
    """Return the stored answer as a replay.

    An answer with the command's own id is not a replay: it is the first answer, of an attempt
    whose commit was not acknowledged.
    """
    if outcome.operation_id == command.id:
        return outcome
    if isinstance(outcome, Consumed) and outcome.is_unpriced:
        outcome = unpriced.repeated(draft, command, outcome)
    return replace(outcome, replayed=True)
