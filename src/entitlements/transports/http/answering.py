"""The routes of the verbs: each runs the verb's use case and returns its response."""

from collections.abc import Callable, Mapping
from time import perf_counter
from typing import Any, Final

from entitlements.app.operations.table import USE_CASES
from entitlements.contracts.verbs import Verb
from entitlements.transports.http.request import HttpRequest, Reply, replay_headers
from entitlements.transports.http.routes import BODY_MAX, Content, Handler, Route, Rule

Note = Callable[[HttpRequest, Any, Any, float], None]
"""Counts an answered request in the metrics: its body, its response and the seconds it took."""
BULK_MAX: Final = 4 * BODY_MAX
OK, CREATED = 200, 201


def route(
    verb: Verb[Any],
    *,
    rule: Rule,
    tag: str,
    summary: str,
    answer: Mapping[str, Any],
    example: Mapping[str, Any] | None = None,
    problems: tuple[int, ...] = (),
    note: Note | None = None,
    created: tuple[str, Mapping[str, Any]] | None = None,
    status: int = OK,
    body_max: int = BODY_MAX,
) -> Route:
    """Return the route of a verb.

    ``answer`` and the body's ``example`` are for the API document. Responses have ``status``. With
    ``created``, the field of the response that it names decides between 201 and 200, and its second
    part is the example of a response with 201.
    """
    request = query = None
    if verb.has_body:
        assert verb.asks is not None, verb
        assert example is not None, verb
        request = Content(verb.asks, example)
    else:
        query = verb.asks
    field, new = created or (None, None)
    responses = {status: Content(verb.answer, answer)}
    if new is not None:
        responses[CREATED] = Content(verb.answer, new)
    return Route(
        method=verb.method,
        path=verb.path,
        handler=_handler(verb, note, field, status),
        rule=rule,
        tag=tag,
        summary=summary,
        request=request,
        query=query,
        responses=responses,
        problems=problems,
        body_max=body_max,
    )


def each(note: Note) -> Note:
    """Return the note of a bulk request: one of each item and its result."""

    def note_all(request: HttpRequest, body: Any, answer: Any, seconds: float) -> None:
        for item, result in zip(body.items, answer.results, strict=True):
            note(request, item, result, seconds)

    return note_all


def _handler(verb: Verb[Any], note: Note | None, created: str | None, status: int) -> Handler:
    use_case = USE_CASES[verb]
    query = verb.asks if not verb.has_body else None

    async def handle(request: HttpRequest, body: Any) -> Reply:
        started = perf_counter()
        if query is not None:
            body = request.query(query)
        answer = await use_case(request, body)
        if note is not None:
            note(request, body, answer, perf_counter() - started)
        is_new = created is not None and getattr(answer, created)
        return Reply(answer, CREATED if is_new else status, replay_headers(answer))

    handle.__name__ = verb.name
    return handle
