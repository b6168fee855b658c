"""Ingest results, dead letters and consumer state, as operators see them."""

from entitlements.app.inbox.dead_letters import result_of
from entitlements.app.inbox.records import DeadLettered, IngestResult
from entitlements.app.inbox.status import State
from entitlements.app.inbox.store import (
    DeadLetter,
    Inbox,
    LettersQuery,
    LetterState,
    Reason,
    RecordsQuery,
)
from entitlements.app.operations.cursors import read_id
from entitlements.app.operations.request import Request
from entitlements.contracts import http
from entitlements.contracts.errors import NotFound
from entitlements.core.model import ConsumptionRecord
from entitlements.core.reasons import ConsumptionOutcome


async def consumption_records(
    request: Request, inbox: Inbox, wanted: http.ConsumptionRecordsFilter
) -> http.ConsumptionRecordsResponse:
    found = await inbox.use_records(
        RecordsQuery(
            user_id=wanted.user_id,
            org_id=wanted.org_id,
            metric=wanted.resource_type,
            result=ConsumptionOutcome(wanted.outcome) if wanted.outcome is not None else None,
            since=wanted.since,
            until=wanted.until,
            limit=wanted.limit,
            after=read_id(wanted.cursor),
        )
    )
    return http.ConsumptionRecordsResponse(
        records=[record_item(record) for record in found.rows],
        count=len(found.rows),
        next_cursor=found.next,
        correlation_id=request.correlation_id,
    )


async def dead_letters(
    request: Request, inbox: Inbox, wanted: http.DeadLettersFilter
) -> http.DeadLettersResponse:
    found = await inbox.dead_letters(
        LettersQuery(
            state=None if wanted.state == "all" else LetterState(wanted.state),
            topic=wanted.topic,
            reason=Reason(wanted.reason) if wanted.reason is not None else None,
            limit=wanted.limit,
            after=read_id(wanted.cursor),
        )
    )
    return http.DeadLettersResponse(
        dead_letters=[letter_item(letter) for letter in found.rows],
        count=len(found.rows),
        next_cursor=found.next,
        correlation_id=request.correlation_id,
    )


async def dead_letter(inbox: Inbox, name: str) -> DeadLetter:
    """Return the dead letter. Raises NotFound."""
    letter = await inbox.dead_letter(name)
    if letter is None:
        raise NotFound("not_found", "no such dead letter")
    return letter


def record_item(record: ConsumptionRecord) -> http.ConsumptionRecordItem:
    told = record.report
    return http.ConsumptionRecordItem(
        id=record.id,
        event_id=told.event_id,
        event_type=told.event_type,
        source_service=told.source_service,
        user_id=told.user_id or None,
        org_id=told.org_id,
        resource_type=told.metric,
        units=told.units,
        service_name=told.service_name,
        processing_id=told.processing_id,
        batch_id=told.batch_id,
        hold_id=told.hold_id,
        outcome=record.result.value,
        operation_id=record.operation_id,
        credits=record.credits,
        owed=record.owed,
        reason=record.reason,
        correlation_id=record.correlation_id,
        trace_id=told.trace_id,
        reported_at=told.reported_at,
        consumed_at=told.consumed_at,
        recorded_at=record.recorded_at,
    )


def letter_item(letter: DeadLetter) -> http.DeadLetterItem:
    return http.DeadLetterItem(
        id=letter.id,
        topic=letter.topic,
        partition=letter.partition,
        offset=letter.offset,
        reason=letter.reason.value,
        detail=letter.detail,
        died_at=letter.died_at,
        state=letter.state.value,
        closed_at=letter.closed_at,
    )


def letter_shown(letter: DeadLetter, correlation_id: str) -> http.DeadLetterResponse:
    return http.DeadLetterResponse(
        dead_letter=letter_item(letter),
        key=letter.key,
        value=letter.value,
        text=_text(letter.value),
        headers=[http.HeaderItem(name=name, value=value) for name, value in letter.headers],
        correlation_id=correlation_id,
    )


def _text(value: bytes | None) -> str | None:
    try:
        return value.decode() if value is not None else None
    except UnicodeDecodeError:
        return None


def replayed(letter: DeadLetter, result: IngestResult, correlation_id: str) -> http.ReplayResponse:
    is_rejected = isinstance(result, DeadLettered)
    return http.ReplayResponse(
        success=not is_rejected,
        dead_letter_id=letter.id,
        state="open" if is_rejected else "replayed",
        result=result_of(result),
        detail=result.detail if isinstance(result, DeadLettered) else None,
        operation_id=None if isinstance(result, DeadLettered) else result.operation_id,
        correlation_id=correlation_id,
    )


def consumer(state: State | None, correlation_id: str) -> http.ConsumerResponse:
    if state is None:
        return http.ConsumerResponse(
            status="none",
            group=None,
            problem=None,
            restarts=0,
            partitions=[],
            correlation_id=correlation_id,
        )
    return http.ConsumerResponse(
        status=state.status.value,
        group=state.group,
        problem=state.problem,
        restarts=state.restarts,
        partitions=[
            http.ConsumedPartition(
                topic=one.topic, partition=one.partition, position=one.position, lag=one.lag
            )
            for one in state.partitions
        ],
        correlation_id=correlation_id,
    )
