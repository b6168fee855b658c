"""The report: payments, denials, rates, balances and the result of verify."""

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from msgspec import Struct
from rich.console import Console
from rich.table import Table

from entitlements.contracts.http import SubjectType
from grading.demo.grading import COMPARISON, FEEDBACK
from grading.demo.timings import Timings


class Subject(NamedTuple):
    type: SubjectType
    id: str

    def __str__(self) -> str:
        return f"{self.type}:{self.id}"


class PaymentLine(Struct, frozen=True, kw_only=True):
    payer: str
    comparisons: int
    feedbacks: int
    credits: int


class Denial(Struct, frozen=True, kw_only=True):
    """A batch that may not start or continue; ``missing`` credits of the closest payer."""

    batch: str
    user: str
    org: str
    reason: str
    required: int
    org_available: int
    user_available: int
    missing: int


class Unpaid(Struct, frozen=True, kw_only=True):
    """Finished work that nobody could pay; it stopped its batch."""

    batch: str
    user: str
    org: str
    reason: str
    operations: int
    owed: int


class Rate(Struct, frozen=True, kw_only=True):
    kind: str
    requests: int
    per_second: int
    p50_us: int
    p99_us: int


class Balance(Struct, frozen=True, kw_only=True):
    """``given`` and ``paid`` as in the responses to clients, ``balance`` as in the ledger."""

    subject: str
    given: int
    paid: int
    balance: int

    @property
    def agrees(self) -> bool:
        return self.given - self.paid == self.balance


class Calls(Struct, frozen=True, kw_only=True):
    """Model calls: credits ``charged`` by the responses, and ``computed`` from the tokens."""

    source: str
    calls: int
    context_tokens: int
    generated_tokens: int
    charged: int
    computed: int
    balances: list[Balance]

    @property
    def agrees(self) -> bool:
        balances_agree = all(balance.agrees for balance in self.balances)
        return balances_agree and self.charged == self.computed


class Summary(Struct, frozen=True, kw_only=True):
    essays: str
    payments: list[PaymentLine]
    denials: list[Denial]
    unpaid: list[Unpaid]
    rates: list[Rate]
    balances: list[Balance]
    calls: Calls
    sent_twice: int
    charged_once: int
    books_balance: bool
    verify: str

    @property
    def is_good(self) -> bool:
        agree = all(balance.agrees for balance in self.balances)
        once = self.sent_twice == self.charged_once
        return self.books_balance and agree and once and self.calls.agrees


class ReportTally:
    """Sums of the responses to clients."""

    def __init__(self) -> None:
        self.given: Counter[Subject] = Counter()
        self.paid: Counter[Subject] = Counter()
        self._operations: Counter[tuple[Subject, str]] = Counter()

    def pay(self, payer: Subject, metric: str, credits: int) -> None:
        self.paid[payer] += credits
        self._operations[payer, metric] += 1

    def payments(self) -> list[PaymentLine]:
        return [
            PaymentLine(
                payer=str(payer),
                comparisons=self._operations[payer, COMPARISON],
                feedbacks=self._operations[payer, FEEDBACK],
                credits=credits,
            )
            for payer, credits in sorted(self.paid.items())
        ]


def rates(timings: Timings) -> list[Rate]:
    """Return the rates by kind of request, in order of first use; all grading comes last."""
    by_kind = timings.by_kind
    grading = [*by_kind.get(COMPARISON, []), *by_kind.get(FEEDBACK, [])]
    return [_rate(*each) for each in (*by_kind.items(), ("all grading", grading))]


def _rate(kind: str, requests: list[tuple[int, int]]) -> Rate:
    times = sorted(ended - began for began, ended in requests)
    span = max(ended for _, ended in requests) - min(began for began, _ in requests)
    return Rate(
        kind=kind,
        requests=len(times),
        per_second=len(times) * 10**9 // max(1, span),
        p50_us=times[len(times) // 2] // 1_000,
        p99_us=times[len(times) * 99 // 100] // 1_000,
    )


def show(report: Summary, console: Console) -> None:
    """Print the tables."""
    _table(
        console,
        "Payments by payer",
        ("payer", "comparisons", "feedbacks", "credits"),
        ((p.payer, p.comparisons, p.feedbacks, p.credits) for p in report.payments),
    )
    _table(
        console,
        "Denied before the work (402)",
        ("batch", "teacher", "why", "required", "school has", "teacher has", "missing"),
        (
            (d.batch, d.user, d.reason, d.required, d.org_available, d.user_available, d.missing)
            for d in report.denials
        ),
    )
    _table(
        console,
        "Unpaid work: the batch stopped, debts are filed",
        ("batch", "teacher", "why", "operations", "owed"),
        ((u.batch, u.user, u.reason, u.operations, u.owed) for u in report.unpaid),
    )
    _table(
        console,
        "Requests, as measured by the clients on this machine",
        ("kind", "requests", "per second", "p50 ms", "p99 ms"),
        ((r.kind, r.requests, r.per_second, _ms(r.p50_us), _ms(r.p99_us)) for r in report.rates),
    )
    _balances(console, "Final balances", report.balances)
    _balances(console, "The schools' credits for their assistants", report.calls.balances)
    console.print(
        f"{report.sent_twice} consumptions were sent twice at once, "
        f"{report.charged_once} of them charged once."
    )
    console.print(_called(report.calls), markup=False)
    console.print(f"entitlements verify: {report.verify}", markup=False)


def _called(calls: Calls) -> str:
    verdict = "the same" if calls.charged == calls.computed else "NOT THE SAME"
    return (
        f"{calls.calls:,} model calls from {calls.source} read {calls.context_tokens:,} tokens and "
        f"wrote {calls.generated_tokens:,}. {calls.charged:,} credits were charged; "
        f"{calls.computed:,} are computed from the tokens: {verdict}."
    )


def _balances(console: Console, title: str, balances: list[Balance]) -> None:
    _table(
        console,
        title,
        ("subject", "given", "paid", "balance", "agrees"),
        ((b.subject, b.given, b.paid, b.balance, _yes(b.agrees)) for b in balances),
    )


def _table(
    console: Console, title: str, columns: tuple[str, ...], rows: Iterable[tuple[object, ...]]
) -> None:
    table = Table(*columns, title=title, title_justify="left")
    for row in rows:
        table.add_row(*(f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row))
    for name, column in zip(columns, table.columns, strict=True):
        is_text = name in {"payer", "batch", "teacher", "why", "kind", "subject", "agrees"}
        column.overflow = "fold"
        column.justify = "left" if is_text else "right"
    console.print(table)


def _ms(microseconds: int) -> str:
    tenths = microseconds // 100
    return f"{tenths // 10}.{tenths % 10}"


def _yes(answer: bool) -> str:
    return "yes" if answer else "NO"
