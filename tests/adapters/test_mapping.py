"""Rows and structs, by the names of columns."""

from datetime import UTC, datetime
from typing import Any

import pytest

from entitlements.adapters import columns
from entitlements.adapters.mapping import Mapper, Stored, placed
from entitlements.adapters.postgres import rows as postgres
from entitlements.adapters.sqlite import rows as sqlite
from entitlements.app.ports import Unreadable
from entitlements.core.model import AuditEntry, Draw, Grant, Hold, Subject, WalletKey
from entitlements.core.reasons import GrantReason

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
WALLET = WalletKey("user", "ada", "credits")
HOLD = Hold(
    id="h",
    wallet=WALLET,
    user_id="ada",
    requirements={"cj": 2},
    taken=5,
    held=5,
    backing=(Draw("g", 5),),
    expires_at=NOON,
    correlation_id="c",
    policy_version="1",
    actor="a",
    client="c",
    created_at=NOON,
)
GRANT = Grant(
    id="g", wallet=WALLET, quantity=5, remaining=5, granted_at=NOON, reason=GrantReason.TRIAL
)


@pytest.mark.parametrize("subject", [None, Subject("org", "school")])
@pytest.mark.parametrize("engine", [postgres, sqlite], ids=["postgres", "sqlite"])
def test_a_row_is_read_as_it_was_written(engine: Any, subject: Subject | None) -> None:
    entry = AuditEntry(
        id="i",
        at=NOON,
        actor="a",
        client="c",
        action="policy.activate",
        subject=subject,
        reason=None,
        detail={"version": "1"},
        correlation_id="c",
    )

    assert engine.audit_entry(engine.audit_values(entry)) == entry


def test_columns_are_found_by_name_in_any_order() -> None:
    mapper = Mapper({datetime: Stored(sqlite.from_us, sqlite.to_us)})
    names = tuple(reversed(columns.HOLD))
    row = ("before", *mapper.encoder(Hold, names)(HOLD))

    assert mapper.decoder(Hold, placed(names, 1))(row) == HOLD


@pytest.mark.parametrize("engine", [postgres, sqlite], ids=["postgres", "sqlite"])
def test_an_unknown_value_is_reported_with_its_wallet(engine: Any) -> None:
    values = engine._grant_values(GRANT)
    row = ["barter" if value == GrantReason.TRIAL else value for value in values]

    with pytest.raises(Unreadable, match="user:ada/credits"):
        engine.grant(row)
