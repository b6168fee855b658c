"""Kinds of values: each field's type says how text and times of a decoded body are normalised."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from operator import is_not
from types import NoneType, UnionType
from typing import Annotated, Any, Final, TypeVar, Union, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from entitlements.contracts import names
from entitlements.contracts.names import InvalidName, is_ordinary

B = TypeVar("B", bound=Struct)
G = TypeVar("G")
K = TypeVar("K")
Refuse = Callable[[str, str], Exception]
"""Returns the error of a field, from its path and the reason."""
Step = Callable[[Any, str, Refuse], Any]
"""Normalises the value of a field at a path."""


@dataclass(frozen=True, slots=True)
class Kind:
    """The rule of a value, for the annotation of its type. Blank text in an optional field is None.

    With ``is_filter`` blank text is refused, as it would match nothing.
    """

    rule: Callable[[Any], Any]
    is_filter: bool = False

    def step(self, *, is_optional: bool) -> Step:
        rule = names.or_none(self.rule) if is_optional and not self.is_filter else self.rule
        return lambda given, path, refuse: kept(path, rule, given, refuse)


def utc(at: datetime) -> datetime:
    """Return the instant in UTC. Raise InvalidName if the calendar has no such time."""
    try:
        return at.astimezone(UTC)
    except OverflowError:
        raise InvalidName("is out of range") from None


def json_object(given: dict[str, Any]) -> dict[str, Any]:
    """Return the object. Raise InvalidName if it is too large or too deep for a row."""
    if _depth(given) > JSON_DEPTH_MAX:
        raise InvalidName(f"must not be nested more than {JSON_DEPTH_MAX} deep")
    text = msgspec.json.encode(given)
    if len(text) > JSON_BYTES_MAX:
        raise InvalidName(f"must have at most {JSON_BYTES_MAX} bytes")
    if b"\\u0000" in text:
        raise InvalidName("must not contain the character U+0000")
    return given


def _depth(value: Any) -> int:
    if not isinstance(value, dict | list):
        return 0
    inner = value.values() if isinstance(value, dict) else value
    return 1 + max(map(_depth, inner), default=0)


JSON_BYTES_MAX: Final = 16_384
JSON_DEPTH_MAX: Final = 8
SUBJECT_ID: Final = Kind(names.subject_id)
STORED_ID: Final = Kind(names.stored_id)
METRIC: Final = Kind(names.metric)
CREDIT_TYPE: Final = Kind(names.credit_type)
NAME: Final = Kind(names.name)
TEXT: Final = Kind(names.text)
REASON: Final = Kind(names.reason)
TIME: Final = Kind(utc)
JSON: Final = Kind(json_object)
ID_FILTER: Final = Kind(names.stored_id, is_filter=True)
TEXT_FILTER: Final = Kind(names.text, is_filter=True)

_SUBJECTS: Final = frozenset(("user_id", "subject_id"))


def normalised(body: B, refuse: Refuse, where: str = "") -> B:
    """Return the body normalised by the kinds of its fields, or raise an error.

    ``refuse`` makes the error; ``where`` prefixes its field. The correlation id is checked first,
    then the other fields in their declared order.
    """
    changes: dict[str, Any] = {}
    for attribute, name, step in _plan(type(body)):
        given = getattr(body, attribute)
        if given is None or (given.__class__ is str and is_ordinary(given)):
            continue
        value = step(given, f"{where}{name}", refuse)
        if value is not given:
            changes[attribute] = value
    return replace(body, **changes) if changes else body


def parameters(named: Mapping[str, str], refuse: Refuse) -> Mapping[str, str]:
    """Return the parameters of a path, normalised."""
    return {
        name: value
        if is_ordinary(value)
        else kept(name, names.stored_id if name in _SUBJECTS else names.text, value, refuse)
        for name, value in named.items()
    }


def kept(field: str, rule: Callable[[G], K], given: G, refuse: Refuse) -> K:
    """Return the value by a rule of `names`, or raise the error that ``refuse`` returns."""
    try:
        return rule(given)
    except InvalidName as error:
        raise refuse(field, str(error)) from None


@cache
def _plan(contract: type[Struct]) -> tuple[tuple[str, str, Step], ...]:
    """Return attribute, name on the wire and step of each field whose type has a kind."""
    types = get_type_hints(contract, include_extras=True)
    fields = zip(contract.__struct_fields__, contract.__struct_encode_fields__, strict=True)
    steps = [(attribute, name, _step(types[attribute])) for attribute, name in fields]
    found = [(attribute, name, step) for attribute, name, step in steps if step is not None]
    return tuple(sorted(found, key=lambda field: field[0] != "correlation_id"))


def _step(hint: Any, *, is_optional: bool = False) -> Step | None:
    """Return the step of a type; None if nothing in it has a kind."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Annotated:
        kind = next((one for one in hint.__metadata__ if isinstance(one, Kind)), None)
        if kind is not None:
            return kind.step(is_optional=is_optional)
        return _step(parts[0], is_optional=is_optional)
    if origin in {Union, UnionType}:
        steps = (_step(part, is_optional=NoneType in parts) for part in parts)
        return next((step for step in steps if step is not None), None)
    if origin in {dict, list}:
        step = _step(parts[0])
        return step and (_each_key(step) if origin is dict else _each)
    has_plan = isinstance(hint, type) and issubclass(hint, Struct) and _plan(hint)
    return _nested if has_plan else None


def _each_key(step: Step) -> Step:
    def keys(given: dict[str, Any], path: str, refuse: Refuse) -> dict[str, Any]:
        for key in given:
            if not is_ordinary(key):
                step(key, f"{path}.{key!a}", refuse)  # no kind of a key changes it
        return given

    return keys


def _each(given: Sequence[Struct], path: str, refuse: Refuse) -> Sequence[Struct]:
    items = [normalised(one, refuse, f"{path}[{number}].") for number, one in enumerate(given)]
    return items if any(map(is_not, items, given)) else given


def _nested(given: Struct, path: str, refuse: Refuse) -> Struct:
    return normalised(given, refuse, f"{path}.")
