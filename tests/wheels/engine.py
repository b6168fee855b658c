"""The engine on a SQLite file."""

from entitlements import Entitlements

with Entitlements.open_sync("sqlite:///books.db", policy="costs: {essay: 2}\n") as e:
    e.adjust(subject_type="user", subject_id="ada", amount=10, reason="a gift")
    assert e.consume(user_id="ada", metric="essay", amount=3, correlation_id="a").new_balance == 4
