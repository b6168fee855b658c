"""Routes for consumption records, dead letters and the event consumer."""

from typing import Final

from entitlements.app.access.keys import Role
from entitlements.app.inbox import dead_letters as letters
from entitlements.app.inbox.dead_letters import LetterClosed
from entitlements.app.inbox.records import IngestResult
from entitlements.app.operations import acts, events
from entitlements.contracts import http
from entitlements.transports.http.problems import ProblemResponse
from entitlements.transports.http.request import HttpRequest, Reply, replay_headers
from entitlements.transports.http.routes import Content, Route, roles


async def consumption_records(request: HttpRequest, _: None) -> Reply:
    wanted = request.query(http.ConsumptionRecordsFilter)
    return Reply(await events.consumption_records(request, request.engine.store.inbox, wanted))


async def dead_letters(request: HttpRequest, _: None) -> Reply:
    wanted = request.query(http.DeadLettersFilter)
    return Reply(await events.dead_letters(request, request.engine.store.inbox, wanted))


async def dead_letter(request: HttpRequest, _: None) -> Reply:
    name = request.params["dead_letter_id"]
    letter = await events.dead_letter(request.engine.store.inbox, name)
    return Reply(events.letter_shown(letter, request.correlation_id))


async def replay_dead_letter(request: HttpRequest, body: http.ReplayRequest) -> Reply:
    engine = request.engine
    name = request.params["dead_letter_id"]
    letter = await events.dead_letter(engine.store.inbox, name)
    act = request.act(body.reason)

    def response(fate: IngestResult) -> http.ReplayResponse:
        return events.replayed(letter, fate, request.correlation_id)

    async def replay(receipt: acts.ReceiptOf[http.ReplayResponse]) -> http.ReplayResponse:
        try:
            fate = await letters.replay(
                engine.intake, engine.store, letter, act, lambda fate: receipt(response(fate))
            )
        except LetterClosed:
            raise _closed() from None
        return response(fate)

    replayed = await acts.once(request, http.ReplayResponse, replay)
    return Reply(replayed, headers=replay_headers(replayed))


async def drop_dead_letter(request: HttpRequest, body: http.DropRequest) -> Reply:
    name = request.params["dead_letter_id"]
    letter = await events.dead_letter(request.engine.store.inbox, name)
    act = request.act(body.reason)
    response = http.DropResponse(
        success=True,
        dead_letter_id=letter.id,
        state="dropped",
        correlation_id=request.correlation_id,
    )

    async def drop(receipt: acts.ReceiptOf[http.DropResponse]) -> http.DropResponse:
        try:
            await letters.drop(request.engine.store, letter, act, receipt(response))
        except LetterClosed:
            raise _closed() from None
        return response

    dropped = await acts.once(request, http.DropResponse, drop)
    return Reply(dropped, headers=replay_headers(dropped))


async def consumer(request: HttpRequest, _: None) -> Reply:
    reading = request.engine.watch.consumer
    state = reading.state if reading is not None else None
    return Reply(events.consumer(state, request.correlation_id))


def _closed() -> ProblemResponse:
    return ProblemResponse("dead_letter_closed", "the dead letter is already replayed or dropped")


_READERS: Final = roles(Role.READER, Role.OPERATOR)
_LETTER: Final = "/v1/admin/dead-letters/{dead_letter_id}"
_DEAD_LETTER: Final = {
    "id": "0198c1f2-8a52-7c1e-9d5e-2f6a4c1b7e90",
    "topic": "huleedu.resource.consumption.v1",
    "partition": 0,
    "offset": 4_711,
    "reason": "malformed",
    "detail": "the value is not JSON",
    "died_at": "2026-09-01T08:00:00Z",
    "state": "open",
    "closed_at": None,
}
ROUTES: Final = (
    Route(
        method="GET",
        path="/v1/admin/consumption-records",
        handler=consumption_records,
        rule=_READERS,
        tag="administration",
        summary="List usage reports with their outcomes, conflicts included, newest first.",
        query=http.ConsumptionRecordsFilter,
        responses={
            200: Content(
                http.ConsumptionRecordsResponse,
                {
                    "records": [
                        {
                            "id": "0198c1f2-8a52-7c1e-9d5e-2f6a4c1b7e90",
                            "event_id": "f3b1a0de-6f0c-4a57-9a2c-0c1f5b7d9e21",
                            "event_type": "huleedu.resource.consumption.v1",
                            "source_service": "cj_assessment_service",
                            "user_id": "teacher-7",
                            "org_id": "school-1",
                            "resource_type": "cj_comparison",
                            "units": 45,
                            "service_name": "cj_assessment_service",
                            "processing_id": "job-1",
                            "batch_id": "batch-4711",
                            "hold_id": None,
                            "outcome": "charged",
                            "operation_id": "0198c1f2-9b07-7d3a-8c55-0d0f6f0b1c2d",
                            "credits": 45,
                            "owed": 0,
                            "reason": None,
                            "correlation_id": "batch-4711",
                            "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
                            "reported_at": "2026-09-01T08:00:00Z",
                            "consumed_at": "2026-09-01T07:59:58Z",
                            "recorded_at": "2026-09-01T08:00:01Z",
                        }
                    ],
                    "count": 1,
                    "next_cursor": None,
                    "correlation_id": "support-12",
                },
            )
        },
    ),
    Route(
        method="GET",
        path="/v1/admin/dead-letters",
        handler=dead_letters,
        rule=_READERS,
        tag="administration",
        summary="List dead-lettered events, newest first; by default the open ones.",
        query=http.DeadLettersFilter,
        responses={
            200: Content(
                http.DeadLettersResponse,
                {
                    "dead_letters": [_DEAD_LETTER],
                    "count": 1,
                    "next_cursor": None,
                    "correlation_id": "support-12",
                },
            )
        },
    ),
    Route(
        method="GET",
        path=_LETTER,
        handler=dead_letter,
        rule=roles(Role.OPERATOR),
        tag="administration",
        summary="Get a dead letter with the original event.",
        responses={
            200: Content(
                http.DeadLetterResponse,
                {
                    "dead_letter": _DEAD_LETTER,
                    "key": "dGVhY2hlci03",
                    "value": "eyJ1c2VyX2lkIjo=",
                    "text": '{"user_id":',
                    "headers": [{"name": "content_type", "value": "YXBwbGljYXRpb24vanNvbg=="}],
                    "correlation_id": "support-12",
                },
            )
        },
        problems=(404,),
    ),
    Route(
        method="POST",
        path=f"{_LETTER}/replay",
        handler=replay_dead_letter,
        rule=roles(Role.OPERATOR),
        tag="administration",
        summary="Replay a dead letter: process it as if the event had just arrived.",
        request=Content(http.ReplayRequest, {"reason": "the policy knows the metric now"}),
        responses={
            200: Content(
                http.ReplayResponse,
                {
                    "success": True,
                    "dead_letter_id": _DEAD_LETTER["id"],
                    "state": "replayed",
                    "result": "charged",
                    "detail": None,
                    "operation_id": "0198c1f2-9b07-7d3a-8c55-0d0f6f0b1c2d",
                    "correlation_id": "support-12",
                },
            )
        },
        problems=(404, 409),
    ),
    Route(
        method="POST",
        path=f"{_LETTER}/drop",
        handler=drop_dead_letter,
        rule=roles(Role.OPERATOR),
        tag="administration",
        summary="Drop a dead letter without processing it.",
        request=Content(http.DropRequest, {"reason": "a test that went astray"}),
        responses={
            200: Content(
                http.DropResponse,
                {
                    "success": True,
                    "dead_letter_id": _DEAD_LETTER["id"],
                    "state": "dropped",
                    "correlation_id": "support-12",
                },
            )
        },
        problems=(404, 409),
    ),
    Route(
        method="GET",
        path="/v1/admin/consumer",
        handler=consumer,
        rule=_READERS,
        tag="administration",
        summary="Get the state and the lag of this process's consumer.",
        responses={
            200: Content(
                http.ConsumerResponse,
                {
                    "status": "running",
                    "group": "entitlements-resource-consumer",
                    "problem": None,
                    "restarts": 0,
                    "partitions": [
                        {
                            "topic": "huleedu.resource.consumption.v1",
                            "partition": 0,
                            "position": 4711,
                            "lag": 0,
                        }
                    ],
                    "correlation_id": "support-12",
                },
            )
        },
    ),
)
