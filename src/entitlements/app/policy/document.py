"""Parse a policy document in YAML: return the policy, or all problems of the document.

The parser reads YAML's node graph, not constructed values: nodes keep line numbers, duplicate keys
and the difference between ``5`` and ``"5"``, and no document can create objects.
"""

import re
from collections.abc import Callable, Collection
from difflib import get_close_matches
from enum import StrEnum
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from typing import Final, NamedTuple, TypeVar

import msgspec
import yaml
from msgspec.structs import replace
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from entitlements.app.policy.terms import PERIOD, terms_of
from entitlements.contracts.errors import InvalidRequest, invalid
from entitlements.contracts.fields import not_valid
from entitlements.contracts.http import GrantTerms
from entitlements.contracts.kinds import normalised
from entitlements.core.model import UNITS
from entitlements.core.plans import Lifecycle, LifecycleRule, Plan, Terms
from entitlements.core.policy import (
    AMOUNT_MAX,
    DEFAULT_CREDIT_TYPE,
    Attribution,
    BurnOrder,
    Cost,
    Limit,
    LimiterDown,
    Memberships,
    Policy,
    Requirement,
    ReverseExpired,
    ShortfallRule,
    Threshold,
)
from entitlements.core.reasons import EntitlementType
from entitlements.core.renewals import Interval
from entitlements.lifecycle import unknown_handler

TEXT_MAX: Final = 1_000_000
DEPTH_MAX: Final = 8
NAME_MAX: Final = 255
IDEMPOTENCY_MAX_S: Final = 30 * 86_400
THRESHOLDS_MAX: Final = 32
PLAN_GRANTS_MAX: Final = 100
PERCENT_MAX: Final = 100
TOKENS_PER: Final = 1_000_000
"""The default number of tokens that a model's price is for."""

_TAG: Final = "tag:yaml.org,2002:"
_WHOLE: Final = re.compile(r"0|[1-9][0-9]*")
_LIMIT: Final = re.compile(r"(0|[1-9][0-9]*)/([a-z]+)")
_PERCENT: Final = re.compile(r"([1-9][0-9]{0,2})%")
_DURATION: Final = re.compile(r"([1-9][0-9]{0,9})([smhd])")
_DURATION_S: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_PERIOD_S: Final = {
    "second": 1,
    "minute": 60,
    "hour": 3_600,
    "day": 86_400,
    "week": 604_800,
    "month": 2_592_000,
}

_Word = TypeVar("_Word", bound=StrEnum)
_Value = TypeVar("_Value")
_Default = TypeVar("_Default")


class DocumentProblem(NamedTuple):
    """A problem of a document; ``path`` is empty if it concerns the whole document."""

    line: int
    path: str
    reason: str


class PolicyError(ValueError):
    """The document cannot be used; ``problems`` lists every reason, ordered by line."""

    def __init__(self, source: str, problems: list[DocumentProblem]) -> None:
        self.problems = sorted(problems)
        super().__init__("\n".join(_message(source, problem) for problem in self.problems))


class _UnknownMetrics(StrEnum):
    DENIED = "denied"
    FREE = "free"


class _PlanPeriod(StrEnum):
    MONTH = Interval.MONTH
    YEAR = Interval.YEAR


class _Whose(StrEnum):
    USER = "user"
    ORG = "org"


def default_policy_text() -> str:
    """Return the document shipped with the product."""
    return files("entitlements").joinpath("default_policy.yaml").read_text("utf-8")


def text_of(file: Path) -> str:
    """Return the file as UTF-8 text with unchanged line ends: the version is the file's SHA-256.

    Raises OSError, PolicyError.
    """
    try:
        return file.read_bytes().decode()
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise PolicyError(str(file), [DocumentProblem(line, "", "is not UTF-8")]) from None


def version_of(text: str) -> str:
    """Return the version of a document: its hash."""
    return sha256(text.encode()).hexdigest()


def parse(text: str, *, source: str, handlers: Collection[str] | None = None) -> Policy:
    """Return the policy of a document; errors call the document ``source``.

    With ``handlers``, lifecycles can name only these; without, also those of other processes.
    Raises ``PolicyError`` with all problems at once, or with the first error in the YAML syntax.
    """
    try:
        root = _compose(text)
    except _Refused as refused:
        raise PolicyError(source, [refused.problem]) from None

    document = _Document(handlers)
    policy = document.policy(root, version_of(text))
    if document.problems:
        raise PolicyError(source, document.problems)
    return policy


def _message(source: str, problem: DocumentProblem) -> str:
    where = f"{source}:{problem.line}"
    return ": ".join(part for part in (where, problem.path, problem.reason) if part)


# --- text → nodes


class _Refused(Exception):
    def __init__(self, line: int, reason: str) -> None:
        self.problem = DocumentProblem(line, "", reason)


class _Loader(yaml.SafeLoader):
    """Composes trees without aliases, which multiply nodes, and of bounded depth for the stack."""

    depth = 0

    def compose_node(self, parent: Node | None, index: int) -> Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        line = event.start_mark.line + 1
        if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
            raise _Refused(line, "anchors and aliases are not accepted")
        if self.depth == DEPTH_MAX:
            raise _Refused(line, f"nested deeper than {DEPTH_MAX} levels")

        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


def _compose(text: str) -> Node:
    if len(text) > TEXT_MAX:
        raise _Refused(1, f"longer than {TEXT_MAX} characters")
    try:
        root = _Loader(text).get_single_node()
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise _Refused(line, "contains a character that YAML does not allow") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        raise _Refused(line, error.problem or error.context or "is not YAML") from None
    except (ValueError, OverflowError):  # from chr() of an escape such as "\UFFFFFFFF"
        raise _Refused(1, "contains an invalid character escape") from None
    if root is None:
        raise _Refused(1, "the document is empty")
    return root


# --- nodes → values


class _Document:
    """Reads nodes and collects problems; an invalid node is replaced by a harmless value."""

    def __init__(self, handlers: Collection[str] | None) -> None:
        self.handlers = handlers
        self.problems: list[DocumentProblem] = []

    def policy(self, root: Node, version: str) -> Policy:
        top = self.section(root, "", allowed=TOP_KEYS, required=("costs",))

        def read(
            key: str, reader: Callable[[Node, str], _Value], default: _Default
        ) -> _Value | _Default:
            return reader(top[key], key) if key in top else default

        for note in _NOTES:
            read(note, self.note, None)
        costs = read("costs", self.costs, {})
        prices = read("price_book", self.price_book(costs), {})
        limits = read("rate_limits", self.limits, {})
        known = {*costs, *prices, *limits}
        unknown = read("unknown_metrics", self.word(_UnknownMetrics), _UnknownMetrics.DENIED)
        lifecycle = read("lifecycle", self.lifecycle, Lifecycle())
        free_plan = read("free_plan", self.name, None)
        plans = read("plans", self.plans(lifecycle, free_plan), {})
        if free_plan is not None and free_plan not in plans:
            self.refuse(top["free_plan"], "free_plan", "must be one of the plans")
        return Policy(
            version=version,
            costs=costs | prices,
            limits=limits,
            signup_bonuses=read("signup_bonuses", self.bonuses, {"user": 0, "org": 0}),
            attribution=read("attribution", self.word(Attribution), Attribution.ORG_FIRST),
            memberships=read("memberships", self.word(Memberships), Memberships.OFF),
            shortfall=read("shortfall", self.word(ShortfallRule), ShortfallRule.RECORD),
            overdraft_limit=read("overdraft_limit", self.whole, 0),
            settle_debts=read("settle_debts", self.flag, default=False),
            debt_gate=read("debt_gate", self.whole, None),
            unknown_metrics_free=unknown is _UnknownMetrics.FREE,
            requires=read("requires", self.requires(known), {}),
            burn_order=read("burn_order", self.word(BurnOrder), BurnOrder.EXPIRY),
            reverse_expired=read("reverse_expired", self.word(ReverseExpired), _LAPSE),
            limiter_down=read("limiter_down", self.word(LimiterDown), LimiterDown.LOCAL),
            thresholds=read("thresholds", self.thresholds, ()),
            plans=plans,
            free_plan=free_plan,
            implicit_idempotency_s=read("implicit_idempotency", self.duration, 86_400),
            cache_ttl_s=read("cache_ttl", self.whole, 300),
        )

    def costs(self, node: Node, path: str) -> dict[str, Cost]:
        metrics = self.mapping(node, path)
        return {name: self.cost(value, f"{path}.{name}") for name, value in metrics.items()}

    def cost(self, node: Node, path: str) -> Cost:
        if not isinstance(node, MappingNode):
            return Cost(credits=self.whole(node, path))

        allowed = ("cost", "credit_type", "per")
        fields = self.section(node, path, allowed=allowed, required=("cost",))
        credit_type, per = self.block(fields, path, per=1)
        return Cost(
            credits=self.whole(fields["cost"], f"{path}.cost") if "cost" in fields else 0,
            credit_type=credit_type,
            per=per,
        )

    def block(self, fields: dict[str, Node], path: str, *, per: int) -> tuple[str, int]:
        """Return the credit type and the units of a price; ``per`` is the default of the units."""
        given_type, given_per = fields.get("credit_type"), fields.get("per")
        return (
            self.credit_type(given_type, f"{path}.credit_type")
            if given_type
            else DEFAULT_CREDIT_TYPE,
            self.whole(given_per, f"{path}.per", at_least=1) if given_per else per,
        )

    def price_book(self, costs: dict[str, Cost]) -> Callable[[Node, str], dict[str, Cost]]:
        """Return a reader of model prices as costs of metrics, which must not be in ``costs``."""

        def read(node: Node, path: str) -> dict[str, Cost]:
            prices: dict[str, Cost] = {}
            for model, entry in self.mapping(node, path).items():
                prices |= self.model(entry, f"{path}.{model}", f"llm.{model}", costs)
            return prices

        return read

    def model(self, node: Node, path: str, prefix: str, costs: dict[str, Cost]) -> dict[str, Cost]:
        allowed = (*_TOKENS, "per", "credit_type")
        fields = self.section(node, path, allowed=allowed, required=("input", "output"))
        credit_type, per = self.block(fields, path, per=TOKENS_PER)
        prices: dict[str, Cost] = {}
        for kind in (kind for kind in _TOKENS if kind in fields):
            metric = f"{prefix}.{kind}"
            if metric in costs:
                self.refuse(fields[kind], f"{path}.{kind}", f"{metric} is also in costs")
            if len(metric) > NAME_MAX:
                reason = f"{metric} is longer than {NAME_MAX} characters"
                self.refuse(fields[kind], f"{path}.{kind}", reason)
            credits = self.whole(fields[kind], f"{path}.{kind}")
            prices[metric] = Cost(credits=credits, credit_type=credit_type, per=per)
        return prices

    def limits(self, node: Node, path: str) -> dict[str, tuple[Limit, ...]]:
        metrics = self.mapping(node, path)
        return {name: self.windows(value, f"{path}.{name}") for name, value in metrics.items()}

    def windows(self, node: Node, path: str) -> tuple[Limit, ...]:
        if not isinstance(node, SequenceNode) or not _is(node, "seq"):
            return (self.limit(node, path),)
        if not node.value:
            self.refuse(node, path, "must name at least one limit")
        return tuple(self.limit(item, f"{path}[{n}]") for n, item in enumerate(node.value))

    def limit(self, node: Node, path: str) -> Limit:
        if not isinstance(node, MappingNode):
            return self.window(node, path, _Whose.USER)

        known = len(self.problems)
        fields = self.section(node, path, allowed=("limit", "per", "warn"), required=("limit",))
        per, warn = fields.get("per"), fields.get("warn")
        subject = self.word(_Whose)(per, f"{path}.per") if per else _Whose.USER
        if "limit" not in fields:
            return _UNLIMITED
        limit = self.window(fields["limit"], f"{path}.limit", subject)
        if warn is None:
            return limit
        percent = self.share(warn, f"{path}.warn")
        if not limit.count and len(self.problems) == known:
            self.refuse(warn, f"{path}.warn", "needs a limit of at least 1")
        return replace(limit, warn=percent)

    def window(self, node: Node, path: str, per: _Whose) -> Limit:
        if _text(node) == "unlimited":
            return Limit(count=None, window_s=0, per=per.value)

        match = _LIMIT.fullmatch(_text(node))
        if match is None or match[2] not in _PERIOD_S:
            periods = ", ".join(_PERIOD_S)
            self.refuse(node, path, f"must be unlimited or N/period, period one of {periods}")
            return _UNLIMITED
        return Limit(
            count=self.bounded(node, path, match[1]),
            window_s=_PERIOD_S[match[2]],
            per=per.value,
        )

    def requires(self, known: set[str]) -> Callable[[Node, str], dict[str, Requirement]]:
        """Return a reader of the entitlements that metrics require, of those that are known."""

        def read(node: Node, path: str) -> dict[str, Requirement]:
            return {
                metric: self.requirement(value, f"{path}.{metric}", is_known=metric in known)
                for metric, value in self.mapping(node, path).items()
            }

        return read

    def requirement(self, node: Node, path: str, *, is_known: bool) -> Requirement:
        if not is_known:
            self.refuse(node, path, "is in none of costs, price_book and rate_limits")
        problems = len(self.problems)
        fields = self.section(node, path, allowed=("feature", "tier"))
        if len(fields) != 1 and len(self.problems) == problems:
            self.refuse(node, path, "must have either feature or tier")
        return Requirement(
            **{name: self.name(value, f"{path}.{name}") for name, value in fields.items()}
        )

    def thresholds(self, node: Node, path: str) -> tuple[Threshold, ...]:
        if not isinstance(node, SequenceNode) or not _is(node, "seq"):
            self.refuse(node, path, "must be a list")
            return ()
        if len(node.value) > THRESHOLDS_MAX:
            self.refuse(node, path, f"must be at most {THRESHOLDS_MAX}")
            return ()
        found: list[Threshold] = []
        for n, item in enumerate(node.value):
            known = len(self.problems)
            threshold = self.threshold(item, f"{path}[{n}]")
            if len(self.problems) > known:
                continue
            if threshold in found:
                self.refuse(item, f"{path}[{n}]", "is a duplicate")
            found.append(threshold)
        return tuple(found)

    def threshold(self, node: Node, path: str) -> Threshold:
        known = len(self.problems)
        fields = self.section(
            node, path, allowed=("below", "percent", "credit_type", "subject_type")
        )
        below, percent = fields.get("below"), fields.get("percent")
        if (below is None) == (percent is None) and len(self.problems) == known:
            self.refuse(node, path, "must have either below or percent")
        kind, whose = fields.get("credit_type"), fields.get("subject_type")
        subject = self.word(_Whose)(whose, f"{path}.subject_type") if whose else None
        return Threshold(
            below=self.whole(below, f"{path}.below") if below else 0,
            percent=self.percentage(percent, f"{path}.percent") if percent else None,
            credit_type=self.credit_type(kind, f"{path}.credit_type")
            if kind
            else DEFAULT_CREDIT_TYPE,
            subject_type=subject.value if subject else None,
        )

    def plans(
        self, lifecycle: Lifecycle, free_plan: str | None
    ) -> Callable[[Node, str], dict[str, Plan]]:
        """Return a reader of plans; ``lifecycle`` is the default of those that have none."""

        def read(node: Node, path: str) -> dict[str, Plan]:
            plans: dict[str, Plan] = {}
            for name, one in self.mapping(node, path).items():
                plans[name] = plan = self.plan(one, f"{path}.{name}", lifecycle)
                if plan.lifecycle.rule is LifecycleRule.FREEMIUM and free_plan is None:
                    reason = "the lifecycle freemium needs a free_plan"
                    self.refuse(one, f"{path}.{name}", reason)
            return plans

        return read

    def plan(self, node: Node, path: str, lifecycle: Lifecycle) -> Plan:
        allowed = ("grants", "period", "lifecycle")
        fields = self.section(node, path, allowed=allowed, required=("grants",))
        grants, period, own = (fields.get(name) for name in allowed)
        length = self.word(_PlanPeriod)(period, f"{path}.period") if period else _PlanPeriod.MONTH
        return Plan(
            grants=self.plan_grants(grants, f"{path}.grants") if grants else (),
            period=Interval(length),
            lifecycle=self.lifecycle(own, f"{path}.lifecycle") if own else lifecycle,
        )

    def plan_grants(self, node: Node, path: str) -> tuple[Terms, ...]:
        if not isinstance(node, SequenceNode) or not _is(node, "seq"):
            self.refuse(node, path, "must be a list")
            return ()
        if len(node.value) > PLAN_GRANTS_MAX:
            self.refuse(node, path, f"must be at most {PLAN_GRANTS_MAX}")
            return ()
        found = (self.terms(item, f"{path}[{n}]") for n, item in enumerate(node.value))
        return tuple(terms for terms in found if terms is not None)

    def terms(self, node: Node, path: str) -> Terms | None:
        """Read a grant of a plan by the rules of a grant request; None if there are problems."""
        known = len(self.problems)
        fields = self.section(node, path, allowed=_TERMS, required=("entitlement_type",))
        given = {name: self.value(value, f"{path}.{name}") for name, value in fields.items()}
        if "quantity" in given and "quantity_granted" in given:
            reason = "is another name of quantity; give one of them"
            self.refuse(fields["quantity_granted"], f"{path}.quantity_granted", reason)
        if given.get("entitlement_type") == EntitlementType.SUBSCRIPTION:
            reason = "is given by every subscription itself"
            self.refuse(fields["entitlement_type"], f"{path}.entitlement_type", reason)
        if len(self.problems) > known:
            return None
        try:
            return terms_of(normalised(msgspec.convert(_asked(given), GrantTerms), invalid))
        except msgspec.ValidationError as error:
            problem = not_valid(error)
        except InvalidRequest as error:
            problem = error
        for field, message in ((one.field, one.message) for one in problem.errors):
            name = _given_name(field, fields)
            where = fields.get(name.partition(".")[0], node)
            self.refuse(where, f"{path}.{name}", message)
        return None

    def value(self, node: Node, path: str) -> object:
        """Read text, a whole number, true, false, null, a list or a mapping."""
        if isinstance(node, SequenceNode):
            return [self.value(item, f"{path}[{n}]") for n, item in enumerate(node.value)]
        if isinstance(node, MappingNode):
            fields = self.mapping(node, path)
            return {name: self.value(value, f"{path}.{name}") for name, value in fields.items()}
        if _is(node, "str"):
            return _text(node)
        if _is(node, "null"):
            return None
        if _is(node, "bool"):
            return self.flag(node, path)
        return self.whole(node, path)

    def lifecycle(self, node: Node, path: str) -> Lifecycle:
        try:
            found = Lifecycle.parse(_text(node))
        except ValueError as error:
            self.refuse(node, path, str(error))
            return Lifecycle()
        if found.handler and self.handlers is not None and found.handler not in self.handlers:
            self.refuse(node, path, unknown_handler(found.handler))
        return found

    def percentage(self, node: Node, path: str) -> int:
        known = len(self.problems)
        percent = self.whole(node, path, at_least=1)
        if percent > PERCENT_MAX and len(self.problems) == known:
            self.refuse(node, path, f"must be at most {PERCENT_MAX}")
        return percent

    def share(self, node: Node, path: str) -> int:
        """Read a percentage with its sign, such as 80%."""
        match = _PERCENT.fullmatch(_text(node))
        percent = int(match[1]) if match else 0
        if not 0 < percent <= PERCENT_MAX:
            self.refuse(node, path, f"must be a percentage such as 80%, from 1% to {PERCENT_MAX}%")
            return 1
        return percent

    def bonuses(self, node: Node, path: str) -> dict[str, int]:
        fields = self.section(node, path, allowed=("user", "org"))
        given = {key: self.whole(value, f"{path}.{key}") for key, value in fields.items()}
        return {"user": 0, "org": 0} | given

    def whole(self, node: Node, path: str, *, at_least: int = 0) -> int:
        """Read decimal digits only: YAML would also read 010 as 8, 1:30 as 90 and yes as true."""
        expected = f"must be a whole number, {at_least} or more"
        is_digits = isinstance(node, ScalarNode) and _WHOLE.fullmatch(node.value) is not None
        if is_digits and not _is(node, "int"):
            self.refuse(node, path, f"{expected}, without quotes or tags")
            return at_least
        if not is_digits or (node.value == "0" and at_least > 0):
            self.refuse(node, path, expected)
            return at_least
        return self.bounded(node, path, node.value)

    def bounded(self, node: Node, path: str, digits: str) -> int:
        # The length comes first: Python refuses to convert thousands of digits.
        if len(digits) > len(str(AMOUNT_MAX)) or int(digits) > AMOUNT_MAX:
            self.refuse(node, path, f"must be at most {AMOUNT_MAX}")
            return 1
        return int(digits)

    def flag(self, node: Node, path: str) -> bool:
        if not _is(node, "bool") or node.value not in ("true", "false"):
            self.refuse(node, path, "must be true or false")
        return bool(node.value == "true")

    def word(self, words: type[_Word]) -> Callable[[Node, str], _Word]:
        """Return a reader of one of ``words``; its error lists them."""

        def read(node: Node, path: str) -> _Word:
            if _text(node) in list(words):
                return words(_text(node))
            self.refuse(node, path, f"must be one of {', '.join(words)}")
            return next(iter(words))

        return read

    def duration(self, node: Node, path: str) -> int | None:
        if node.value == "off":  # with any tag: YAML resolves a plain off to a boolean
            return None

        match = _DURATION.fullmatch(_text(node))
        seconds = int(match[1]) * _DURATION_S[match[2]] if match else 0
        if not 0 < seconds <= IDEMPOTENCY_MAX_S:
            self.refuse(node, path, "must be off or a time such as 90s, 15m, 24h or 7d, up to 30d")
        return seconds

    def note(self, node: Node, path: str) -> None:
        if not isinstance(node, ScalarNode):
            self.refuse(node, path, "must be text, a number or a date")

    def name(self, node: Node, path: str) -> str:
        if not _is_name(_text(node)):
            self.refuse(node, path, f"must be text of 1 to {NAME_MAX} printable characters")
        return _text(node)

    def credit_type(self, node: Node, path: str) -> str:
        name = self.name(node, path)
        if name.startswith(UNITS):
            self.refuse(
                node, path, f"must not begin with {UNITS}, which is reserved for allowances"
            )
        return name

    def section(
        self, node: Node, path: str, *, allowed: tuple[str, ...], required: tuple[str, ...] = ()
    ) -> dict[str, Node]:
        """Read a mapping that may have only the ``allowed`` keys."""
        known = len(self.problems)
        fields = self.mapping(node, path, allowed=allowed)
        if len(self.problems) == known:
            for key in (key for key in required if key not in fields):
                self.refuse(node, path, f"{key} is missing")
        return fields

    def mapping(
        self, node: Node, path: str, *, allowed: tuple[str, ...] | None = None
    ) -> dict[str, Node]:
        """Return the values by key; report keys that are invalid, not allowed or repeated."""
        if not isinstance(node, MappingNode) or not _is(node, "map"):
            self.refuse(node, path, "must be a mapping of keys to values")
            return {}

        first_lines: dict[str, int] = {}
        values: dict[str, Node] = {}
        for key, value in node.value:
            name = _text(key)
            if not _is_name(name):
                reason = f"a key must be text of 1 to {NAME_MAX} printable characters"
                self.refuse(key, path, f"{reason}; quote words such as yes, off and 12")
                continue
            key_path = f"{path}.{name}" if path else name
            if allowed is not None and name not in allowed:
                self.refuse(key, key_path, _unknown_key(name, allowed))
            elif name in values:
                self.refuse(key, key_path, f"was already given on line {first_lines[name]}")
            else:
                values[name] = value
                first_lines[name] = key.start_mark.line + 1
        return values

    def refuse(self, node: Node, path: str, reason: str) -> None:
        self.problems.append(DocumentProblem(node.start_mark.line + 1, path, reason))


_TERMS: Final = (
    *(name for name in GrantTerms.__struct_fields__ if name != "subscription_id"),
    "quantity",
    *PERIOD,
)
"""The keys of a plan's grant; those of its period can also be in its metadata, as in a request."""
_LAPSE: Final = ReverseExpired.LAPSE
_UNLIMITED: Final = Limit(count=None, window_s=0)
_TOKENS: Final = ("input", "output", "cached", "reasoning")
_NOTES: Final = ("version", "last_updated")
"""Keys for people, which are ignored: a policy's version is the hash of its text."""
TOP_KEYS: Final = (
    *_NOTES,
    "costs",
    "price_book",
    "rate_limits",
    "signup_bonuses",
    "attribution",
    "memberships",
    "shortfall",
    "overdraft_limit",
    "settle_debts",
    "debt_gate",
    "unknown_metrics",
    "requires",
    "burn_order",
    "reverse_expired",
    "limiter_down",
    "thresholds",
    "plans",
    "free_plan",
    "lifecycle",
    "implicit_idempotency",
    "cache_ttl",
)


def _is(node: Node, kind: str) -> bool:
    return str(node.tag) == _TAG + kind


def _text(node: Node) -> str:
    """Return a scalar's text; empty if it is not a string."""
    return str(node.value) if isinstance(node, ScalarNode) and _is(node, "str") else ""


def _is_name(text: str) -> bool:
    return 0 < len(text) <= NAME_MAX and text.isprintable() and text == text.strip()


def _unknown_key(name: str, allowed: tuple[str, ...]) -> str:
    near = get_close_matches(name, allowed, n=1)
    hint = f"did you mean {near[0]}?" if near else f"known keys: {', '.join(allowed)}"
    return f"unknown key; {hint}"


def _asked(given: dict[str, object]) -> dict[str, object]:
    """Return the grant of a plan with the fields of a grant request."""
    asked = {name: value for name, value in given.items() if name not in PERIOD}
    if "quantity" in asked:
        asked["quantity_granted"] = asked.pop("quantity")
    if asked["entitlement_type"] == EntitlementType.CREDIT_GRANT:
        asked.setdefault("credit_type", DEFAULT_CREDIT_TYPE)
    if period := {name: given[name] for name in PERIOD if name in given}:
        metadata = asked.get("metadata") or {}
        asked["metadata"] = metadata | period if isinstance(metadata, dict) else metadata
    return asked


def _given_name(field: str, fields: dict[str, Node]) -> str:
    """Return the field of a grant request by its name in the plan."""
    inner = field.removeprefix("metadata.")
    if inner in fields:
        return inner
    return "quantity" if field == "quantity_granted" and "quantity" in fields else field
