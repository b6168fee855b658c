"""Bodies and query strings of the HTTP interface, as sent on the wire, and its verbs.

Integers are strict: text, floats and booleans are invalid. Unknown request fields are ignored.
"""

from entitlements.contracts.http.administration import *
from entitlements.contracts.http.audit import *
from entitlements.contracts.http.balances import *
from entitlements.contracts.http.checks import *
from entitlements.contracts.http.consumption import *
from entitlements.contracts.http.debts import *
from entitlements.contracts.http.entitlements import *
from entitlements.contracts.http.events import *
from entitlements.contracts.http.fields import *
from entitlements.contracts.http.health import *
from entitlements.contracts.http.holds import *
from entitlements.contracts.http.ledger import *
from entitlements.contracts.http.members import *
from entitlements.contracts.http.outbox import *
from entitlements.contracts.http.policies import *
from entitlements.contracts.http.rate_limits import *
from entitlements.contracts.http.subscriptions import *
