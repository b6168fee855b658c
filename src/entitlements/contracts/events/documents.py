"""JSON Schema and AsyncAPI documents, generated from the event types and the table of topics."""

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec

from entitlements.contracts.events.envelope import Envelope, Incoming
from entitlements.contracts.events.topics import DLQ, PREFIX, TOPICS, Direction, Topic

Json = dict[str, Any]

GROUP: Final = "entitlements-resource-consumer"
_REF: Final = "#/definitions/{name}"
_EMAIL: Final = {"type": "string", "description": "Ignored: neither stored nor logged."}
_SOMEBODY: Final = {"properties": {"user_id": {"type": ["string", "integer"]}}}
_HEADERS: Final[Mapping[str, str]] = {
    "event_id": "As in the envelope.",
    "event_type": "As in the envelope.",
    "content_type": "application/json",
    "schema_version": "As in the envelope, as text.",
    "source_service": "As in the envelope.",
    "occurred_at": "The envelope's event_timestamp.",
    "trace_id": "The envelope's correlation_id.",
    "traceparent": "W3C trace context of the request that caused it, if known.",
}


def schema(topic: Topic) -> Json:
    """Return the JSON Schema (draft 07) of the record value, as written or as accepted."""
    is_read = topic.direction is Direction.IN
    envelope: Any = (Incoming if is_read else Envelope)[topic.data]
    (root,), definitions = msgspec.json.schema_components([envelope], ref_template=_REF)
    whole = definitions.pop(root["$ref"].removeprefix("#/definitions/"))
    if is_read:
        _as_accepted(topic, whole, definitions)
    else:
        whole["required"] = list(whole["properties"])
    if not is_read:  # inbound events are identified by their topic
        whole["properties"]["event_type"] |= {"pattern": f"^.+\\.{re.escape(topic.name)}$"}
    head = {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "$id": f"urn:entitlements:event:{topic.name}",
        "title": topic.data.__name__,
    }
    text = _plain(definitions[topic.data.__name__].get("description", ""))
    described = head | ({"description": text} if text else {})
    rest = {key: whole[key] for key in whole if key not in ("title", "description")}
    return described | rest | {"definitions": {n: _tidy(definitions[n]) for n in definitions}}


def asyncapi(examples: Mapping[str, Iterable[Json]]) -> Json:
    """Return the AsyncAPI document with the default prefix; ``examples`` are events by topic."""
    ours = [topic for topic in TOPICS if topic.direction is not Direction.PLATFORM]
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Entitlements",
            "version": "1.0.0",
            "description": (
                "Events that the service reads and publishes. Topics are shown with the default "
                f"prefix, {PREFIX}. Delivery is at least once and in order per key; the same event "
                "always has the same event_id. Events that cannot be processed go to the topic "
                f"with {DLQ} appended. Channels without an operation are for other services of the "
                "platform."
            ),
        },
        "defaultContentType": "application/json",
        "servers": {"kafka": {"host": "127.0.0.1:9092", "protocol": "kafka"}},
        "channels": {topic.name: _channel(topic) for topic in TOPICS},
        "operations": {topic.name: _operation(topic) for topic in ours},
        "components": {
            "schemas": {"Headers": _headers()},
            "messages": {
                topic.name: _message(topic, examples.get(topic.name, ())) for topic in TOPICS
            },
        },
    }


def _as_accepted(topic: Topic, whole: Json, definitions: Json) -> None:
    """Add the rules that the types do not express: the e-mail address, and where user_id is."""
    data = definitions[topic.data.__name__]
    if "registered_at" in data["properties"]:
        data["properties"]["email"] = _EMAIL
    if "user_id" in data["properties"]:
        named = _SOMEBODY | {"required": ["user_id"]}
        whole["anyOf"] = [{"properties": {where: named}, "required": [where]} for where in _WHERE]


_WHERE: Final = ("data", "metadata")


def _channel(topic: Topic) -> Json:
    return {
        "address": topic.under(PREFIX),
        "description": _text_of(topic),
        "messages": {topic.data.__name__: {"$ref": f"#/components/messages/{topic.name}"}},
    }


def _operation(topic: Topic) -> Json:
    is_read = topic.direction is Direction.IN
    operation: Json = {
        "action": "receive" if is_read else "send",
        "channel": {"$ref": f"#/channels/{topic.name}"},
        "summary": _text_of(topic),
    }
    if is_read:
        operation["bindings"] = {"kafka": {"groupId": {"type": "string", "enum": [GROUP]}}}
    return operation


def _message(topic: Topic, examples: Iterable[Json]) -> Json:
    message: Json = {
        "name": topic.data.__name__,
        "contentType": "application/json",
        "headers": {"$ref": "#/components/schemas/Headers"},
        "payload": {"$ref": f"./schemas/{topic.name}.json"},
        "bindings": {"kafka": {"key": {"type": "string", "description": topic.key}}},
    }
    given = [{"name": example["name"], "payload": example["event"]} for example in examples]
    return message | ({"examples": given} if given else {})


def _headers() -> Json:
    return {
        "type": "object",
        "properties": {
            name: {"type": "string", "description": text} for name, text in _HEADERS.items()
        },
    }


def _text_of(topic: Topic) -> str:
    return _plain(topic.data.__doc__ or topic.data.__name__)


def _tidy(definition: Json) -> Json:
    if "description" not in definition:
        return definition
    return definition | {"description": _plain(definition["description"])}


def _plain(text: str) -> str:
    """Return a docstring as one line, without markup."""
    return " ".join(text.split()).replace("``", "")
