"""Maps structs to rows and back by the names of columns, for both engines.

The functions are generated, as those of dataclasses are: they cost as much as handwritten ones.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from types import NoneType
from typing import (
    Any,
    ClassVar,
    Final,
    Literal,
    NamedTuple,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

import msgspec

from entitlements.adapters.decoding import UNDECODABLE, unreadable
from entitlements.app.inbox.store import DeadLetter
from entitlements.app.outbox.store import ParkedEvent
from entitlements.app.ports import ImportedOperation
from entitlements.app.webhooks.store import Delivery
from entitlements.core.model import (
    ConsumptionRecord,
    Grant,
    GrantDetails,
    JobKey,
    Operation,
    Subject,
    UsageReport,
    WalletKey,
)

T = TypeVar("T")
Row = Sequence[Any]
"""A row of either engine."""

EMBEDDED: Final = (JobKey, UsageReport, Subject, WalletKey, Grant, GrantDetails)
"""Values of several columns."""
RENAMED: Final[Mapping[type, Mapping[str, str]]] = {
    DeadLetter: {"offset": "position"},
    Delivery: {"delivered_at": "ended_at"},
    ImportedOperation: {"status": "operation_status"},
    Operation: {"status": "operation_status"},
    ParkedEvent: {"reason": "park_reason"},
    UsageReport: {"metric": "resource_type"},
    Subject: {"type": "subject_type", "id": "subject_id"},
    ConsumptionRecord: {"result": "outcome"},
}
"""Columns whose names differ from the attribute's."""
PLAIN: Final = (str, int, bool, bytes, datetime)

_encode: Final = msgspec.json.Encoder().encode


def json_text(value: object) -> str:
    return _encode(value).decode()


class Stored(NamedTuple):
    """The conversions of a value that is stored in another form."""

    decode: Callable[[Any], Any]
    encode: Callable[[Any], Any] | None = None


class Attribute(NamedTuple):
    """An attribute of a struct; its type without None."""

    name: str
    column: str
    type: Any
    is_optional: bool


def placed(names: Sequence[str], first: int = 0) -> dict[str, int]:
    """Return the positions of columns in a row."""
    return {name: number for number, name in enumerate(names, first)}


class Mapper:
    """The mapping of one engine: the types that it stores in another form. Enums are stored as
    their values, and other types as JSON. ``texts`` are columns that it returns as another type.
    """

    def __init__(self, stored: Mapping[Any, Stored], texts: Collection[str] = ()) -> None:
        self._stored = stored
        self._texts = texts

    def decoder(
        self, struct: type[T], columns: Mapping[str, int], *, of_wallet: bool = False
    ) -> Callable[[Row], T]:
        """Return a function from a row to the struct; attributes without a column keep their
        defaults. With ``of_wallet``, the function raises Unreadable for unknown values.
        """
        known: dict[str, Any] = {"UNDECODABLE": UNDECODABLE, "unreadable": unreadable}
        lines = [f"return {self._decoded(struct, columns, known)}"]
        if of_wallet:
            key = self._decoded(WalletKey, columns, known)
            lines = ["try:", f"    {lines[0]}", "except UNDECODABLE as error:"]
            lines += [f"    raise unreadable({key}) from error"]
        return _function("row", lines, known)

    def encoder(self, struct: type[T], columns: Sequence[str]) -> Callable[[T], tuple[Any, ...]]:
        """Return a function from the struct to the values of these columns."""
        known: dict[str, Any] = {}
        expressions = dict(self._encoded(struct, "value", known))
        values = ", ".join(expressions[column] for column in columns)
        return _function("value", [f"return ({values},)"], known)

    def _decoded(self, struct: type, columns: Mapping[str, int], known: dict[str, Any]) -> str:
        """Return the expression that makes the struct from a row."""
        known[struct.__name__] = struct
        arguments = []
        for name, column, kind, is_optional in _attributes(struct):
            if kind in EMBEDDED:
                value = self._decoded(kind, columns, known)
                first = f"row[{columns[next(_attributes(kind)).column]}]"
            elif column in columns:
                value = first = f"row[{columns[column]}]"
                if stored := self._stored_as(column, kind):
                    known[f"decode_{column}"] = stored.decode
                    value = f"decode_{column}({first})"
            else:
                continue
            if is_optional and value != first:
                value = f"None if {first} is None else {value}"
            arguments.append(value if issubclass(struct, tuple) else f"{name}={value}")
        return f"{struct.__name__}({', '.join(arguments)})"

    def _encoded(
        self, struct: type, value: str, known: dict[str, Any]
    ) -> Iterator[tuple[str, str]]:
        """Yield the columns of the struct, each with the expression of its value."""
        for name, column, kind, is_optional in _attributes(struct):
            stored = None if kind in EMBEDDED else self._stored_as(column, kind)
            found = {column: f"{value}.{name}"}
            if kind in EMBEDDED:
                found = dict(self._encoded(kind, f"{value}.{name}", known))
            elif stored is not None and stored.encode is not None:
                known[f"encode_{column}"] = stored.encode
                found = {column: f"encode_{column}({value}.{name})"}
            none = f"None if {value}.{name} is None else " if is_optional else ""
            for part, expression in found.items():
                yield part, expression if expression == f"{value}.{name}" else none + expression

    def _stored_as(self, column: str, kind: Any) -> Stored | None:
        if kind in self._stored:
            return self._stored[kind]
        if column in self._texts:
            return Stored(str)
        if kind in PLAIN or get_origin(kind) is Literal:
            return None
        if isinstance(kind, type) and issubclass(kind, StrEnum):
            return Stored({member.value: member for member in kind}.__getitem__)
        return Stored(msgspec.json.Decoder(kind).decode, json_text)


def _attributes(struct: type) -> Iterator[Attribute]:
    renamed = RENAMED.get(struct, {})
    for name, hint in get_type_hints(struct).items():
        if get_origin(hint) is ClassVar:
            continue
        others = tuple(one for one in get_args(hint) if one is not NoneType)
        is_optional = NoneType in get_args(hint)
        kind = Union[others] if is_optional else hint  # noqa: UP007
        yield Attribute(name, renamed.get(name, name), kind, is_optional)


def _function(argument: str, lines: Sequence[str], known: dict[str, Any]) -> Callable[[Any], Any]:
    body = "\n".join(f"    {line}" for line in lines)
    exec(f"def made({argument}):\n{body}", known)  # noqa: S102 - the text has names of attributes
    function: Callable[[Any], Any] = known["made"]
    return function
