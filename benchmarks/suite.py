"""The rows of one side by name."""

import contextlib
from functools import partial
from pathlib import Path

from benchmarks.brokered import Brokered
from benchmarks.driven import Driven
from benchmarks.history import FILTERS, LONG, READERS, SHORT, listing, listing_load, readers
from benchmarks.paced import LONGER, paced_load
from benchmarks.peaks import Peaks
from benchmarks.places import (
    DUE_AT_ONCE,
    FEATURES,
    HISTORY_OF,
    MILLION,
    MILLION_WALLETS,
    OPERATIONS,
    POSTGRES,
    REDIS,
    RENEWALS,
    SQLITE,
    WALLETS_BY_GRANTS,
    Load,
    Places,
)
from benchmarks.renewals import CONSUME_MEANWHILE, CONSUME_PACED, consume_paced
from benchmarks.scenes import SCENES
from benchmarks.servers import SHAPES, SPREAD, Row, Servers
from benchmarks.service import Service
from benchmarks.sides import Side
from benchmarks.wallets import SCHOOL
from benchmarks.wrk import Sample, load

ENGINES = (POSTGRES, SQLITE)
CHECKS_A_SECOND = 100
"""The rate while other clients read the history: far below any peak, for all sides and engines."""


class Suite:
    """The services of one side, and the rows that load them."""

    def __init__(
        self,
        stack: contextlib.ExitStack,
        folder: Path,
        side: Side,
        servers: Servers,
        peaks: Peaks,
        *,
        operations: int = OPERATIONS,
        renewals: int = DUE_AT_ONCE,
    ) -> None:
        self.side = side
        self.places = Places(stack, folder, side, servers, operations=operations, renewals=renewals)
        self._servers = servers
        self._peaks = peaks
        self._driven = Driven(folder, side, servers)
        self._brokered = Brokered(stack, side, servers, peaks)
        self._rows = self._all_rows()
        peaks.join(side.name, lambda name, seconds: self._rows[name].measure(seconds))

    def rows(self) -> dict[str, Row]:
        """Return the rows in the order of a round."""
        return self._rows

    def _all_rows(self) -> dict[str, Row]:
        return {
            **self._checks_and_consumption(),
            **self._limiters(),
            **self._sizes(),
            **self._entitlements(),
            **self._renewals(),
            **self._listings(),
            **self._half_loads(),
            **{
                f"reported use in process, {shape}, PostgreSQL": self._driven.in_process(
                    POSTGRES, shape, reported=True
                )
                for shape in SHAPES
            },
            **self._brokered.rows(),
        }

    def _checks_and_consumption(self) -> dict[str, Row]:
        found: dict[str, Row] = {}
        for engine in ENGINES:
            for kind in ("check", "consume"):
                for shape, who in SHAPES.items():
                    name = f"{kind}, {shape}, {engine}"
                    found[name] = self._noted(name, self.places.row(engine, _wrk(kind, who)))
            for shape in SHAPES:
                found[f"consume in process, {shape}, {engine}"] = self._driven.in_process(
                    engine, shape
                )
                found[f"consume embedded, {shape}, {engine}"] = self._driven.in_process(
                    engine, shape, embedded=True
                )
        for shape, who in SHAPES.items():
            name = f"hold and settle, {shape}, PostgreSQL"
            found[name] = self.places.row(POSTGRES, _wrk("hold", who))
        found["explain, hot, PostgreSQL"] = self.places.row(POSTGRES, _wrk("explain", SCHOOL))
        return found

    def _limiters(self) -> dict[str, Row]:
        found: dict[str, Row] = {}
        for shape, who in SHAPES.items():
            name = f"check, {shape}, PostgreSQL and Redis"
            found[name] = self.places.row(REDIS, _wrk("check", who))
            for kind in ("memory", "Redis"):
                name = f"{kind} limiter, 3 windows, {shape}"
                found[name] = self._driven.limiter(kind.lower(), shape)
        return found

    def _sizes(self) -> dict[str, Row]:
        """Return the rows of wallets with many grants, and of many wallets."""
        found: dict[str, Row] = {}
        for grants, org in WALLETS_BY_GRANTS.items():
            name = f"consume, wallet of {grants:,} grants, PostgreSQL"
            found[name] = self.places.row(POSTGRES, _wrk("consume", org))
        for kind in ("check", "consume"):
            name = f"{kind}, spread over {MILLION_WALLETS:,} wallets, PostgreSQL"
            found[name] = self.places.row(MILLION, _wrk(kind, str(MILLION_WALLETS)))
        return found

    def _entitlements(self) -> dict[str, Row]:
        """Return the rows of grants of other kinds than one of credits."""
        found: dict[str, Row] = {}
        for engine in ENGINES:
            for shape, who in SHAPES.items():
                name = f"entitlement check, {shape}, {engine}"
                found[name] = self.places.row(FEATURES[engine], _wrk("access", who))
            for scene in SCENES:
                name = f"consume in process, {scene}, {engine}"
                found[name] = self._driven.scene(engine, scene)
        return found

    def _renewals(self) -> dict[str, Row]:
        def record(seconds: int) -> Sample:
            return self.places.renewals().record(seconds)

        def consume_meanwhile(seconds: int) -> Sample:
            return self.places.renewals().consume_meanwhile(seconds)

        return {
            "renewals due at once, PostgreSQL": Row(record),
            CONSUME_PACED: Row(partial(self.places.measure, RENEWALS, consume_paced)),
            # No CPU time: it is mostly that of the renewals.
            CONSUME_MEANWHILE: Row(consume_meanwhile),
        }

    def _listings(self) -> dict[str, Row]:
        found: dict[str, Row] = {}
        for engine, place in HISTORY_OF.items():
            for filtered, filters in FILTERS.items():
                for shape in (SHORT, LONG):
                    name = f"operations{filtered}, wallet of {shape.operations:,}, {engine}"
                    found[name] = self.places.row(place, _list(listing(shape, filters)))
            rate = f"at {CHECKS_A_SECOND}/s, {engine}"
            found[f"check, {rate}"] = Row(partial(self.places.measure, place, _check_paced))
            # No CPU time: it is mostly that of the readers, which read as fast as they can.
            found[f"check while {READERS} read history, {rate}"] = Row(
                partial(self.places.run, place, _check_while_others_read)
            )
        return found

    def _half_loads(self) -> dict[str, Row]:
        return {
            f"{kind}, half load, PostgreSQL": Row(partial(self._half_load, kind))
            for kind in ("check", "consume")
        }

    def _half_load(self, kind: str, seconds: int) -> Sample:
        rate = self._peaks.half(f"{kind}, spread, PostgreSQL", seconds)
        # Latency is not measured while the disk writes back the data of earlier loads.
        self._servers.settle()

        def send(service: Service, seconds: int) -> Sample:
            return paced_load(
                service.url, kind, who=SPREAD, rate=rate, seconds=seconds, token=service.token
            )

        return self.places.measure(POSTGRES, send, seconds)

    def _noted(self, name: str, row: Row) -> Row:
        """Return the row with its rate noted for paced rows."""

        def measure(seconds: int) -> Sample:
            sample = row.measure(seconds)
            self._peaks.note(self.side.name, name, sample.rate)
            return sample

        return row._replace(measure=measure)


def _wrk(kind: str, who: str) -> Load:
    def send(service: Service, seconds: int) -> Sample:
        return load(service.url, kind, who=who, seconds=seconds, token=service.token)

    return send


def _list(path: str) -> Load:
    def send(service: Service, seconds: int) -> Sample:
        return listing_load(service, path, seconds=seconds)

    return send


def _check_paced(service: Service, seconds: int) -> Sample:
    return paced_load(
        service.url,
        "check",
        who=SPREAD,
        rate=CHECKS_A_SECOND,
        seconds=seconds,
        token=service.token,
    )


def _check_while_others_read(service: Service, seconds: int) -> Sample:
    # Readers stop with the window, so that the remaining checks are answered soon.
    with readers(service, LONGER * seconds):
        return _check_paced(service, seconds)
