"""Events that came in: what was made of them, and what nothing could be made of."""

from typing import Final

from entitlements.app.access import Role
from entitlements.app.ingest import letters
from entitlements.app.ingest.letters import LetterClosed
from entitlements.app.requests import events
from entitlements.contracts.http import (
    ConsumerResponse,
    ConsumptionRecordsFilter,
    ConsumptionRecordsResponse,
    DeadLetterResponse,
    DeadLettersFilter,
    DeadLettersResponse,
    DropRequest,
    DropResponse,
    ReplayRequest,
    ReplayResponse,
)
from entitlements.transports.http.problems import Rejected
from entitlements.transports.http.request import Reply, Request
from entitlements.transports.http.routes import Route, roles


async def consumption_records(request: Request, _: None) -> Reply:
    wanted = request.query(ConsumptionRecordsFilter)
    return Reply(await events.consumption_records(request, request.service.inbox, wanted))


async def dead_letters(request: Request, _: None) -> Reply:
    wanted = request.query(DeadLettersFilter)
    return Reply(await events.dead_letters(request, request.service.inbox, wanted))


async def dead_letter(request: Request, _: None) -> Reply:
    name = request.params["dead_letter_id"]
    letter = await events.dead_letter(request, request.service.inbox, name)
    return Reply(events.letter_shown(letter, request.correlation_id))


async def replay(request: Request, body: ReplayRequest) -> Reply:
    service = request.service
    name = request.params["dead_letter_id"]
    letter = await events.dead_letter(request, service.inbox, name)
    act = request.act(body.reason)
    try:
        fate = await letters.replay(service.intake, service.inbox, letter, act)
    except LetterClosed:
        raise _closed() from None
    return Reply(events.replayed(letter, fate, request.correlation_id))


async def drop(request: Request, body: DropRequest) -> Reply:
    name = request.params["dead_letter_id"]
    letter = await events.dead_letter(request, request.service.inbox, name)
    try:
        await letters.drop(request.service.inbox, letter, request.act(request.reason(body.reason)))
    except LetterClosed:
        raise _closed() from None
    return Reply(
        DropResponse(
            success=True,
            dead_letter_id=letter.id,
            state="dropped",
            correlation_id=request.correlation_id,
        )
    )


async def consumer(request: Request, _: None) -> Reply:
    reading = request.service.watch.consumer
    state = reading.state if reading is not None else None
    return Reply(events.consumer(state, request.correlation_id))


def _closed() -> Rejected:
    return Rejected("dead_letter_closed", "the dead letter was replayed or dropped before")


_READERS: Final = roles(Role.READER, Role.OPERATOR)
_LETTER: Final = "/v1/admin/dead-letters/{dead_letter_id}"
ROUTES: Final = (
    Route(
        method="GET",
        path="/v1/admin/consumption-records",
        handler=consumption_records,
        rule=_READERS,
        tag="administration",
        summary="What was made of every reported use, newest first; conflicts are an outcome.",
        query=ConsumptionRecordsFilter,
        responses={200: ConsumptionRecordsResponse},
    ),
    Route(
        method="GET",
        path="/v1/admin/dead-letters",
        handler=dead_letters,
        rule=_READERS,
        tag="administration",
        summary="Events that nothing could be made of, newest first; the open ones unless told.",
        query=DeadLettersFilter,
        responses={200: DeadLettersResponse},
    ),
    Route(
        method="GET",
        path=_LETTER,
        handler=dead_letter,
        rule=roles(Role.OPERATOR),
        tag="administration",
        summary="A dead letter, byte by byte.",
        responses={200: DeadLetterResponse},
        problems=(404,),
    ),
    Route(
        method="POST",
        path=f"{_LETTER}/replay",
        handler=replay,
        rule=roles(Role.OPERATOR),
        tag="administration",
        summary="Work on a dead letter again, as if it had just come.",
        request=ReplayRequest,
        responses={200: ReplayResponse},
        problems=(404, 409),
        example={"reason": "the policy knows the metric now"},
    ),
    Route(
        method="POST",
        path=f"{_LETTER}/drop",
        handler=drop,
        rule=roles(Role.OPERATOR),
        tag="administration",
        summary="Give a dead letter up.",
        request=DropRequest,
        responses={200: DropResponse},
        problems=(404, 409),
        example={"reason": "a test that went astray"},
    ),
    Route(
        method="GET",
        path="/v1/admin/consumer",
        handler=consumer,
        rule=_READERS,
        tag="administration",
        summary="What the consumer of this process does, and how far behind it is.",
        responses={200: ConsumerResponse},
    ),
)
