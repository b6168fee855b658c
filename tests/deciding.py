"""Decisions on a book in tests, as the engine makes them."""

from entitlements.core.commands import AnyCommand
from entitlements.core.ledger import apply as ledger
from entitlements.core.ledger.book import Book, Needs
from entitlements.core.outcomes import AnyOutcome, Refusal
from entitlements.core.policy import Policy


def apply(book: Book, command: AnyCommand) -> AnyOutcome | Refusal:
    """Decide one command on the book, with the wallets of its policy."""
    return ledger.apply(book, command, ledger.wallets_of(command, book.policy))


def add_needs(needs: Needs, command: AnyCommand, policy: Policy) -> None:
    """Add the rows that the command needs under the policy."""
    ledger.add_needs(needs, command, ledger.wallets_of(command, policy), policy)
