"""All commands: their functions, summaries and examples.

`entitlements --help` uses only this module, and so imports nothing else of the program.
"""

from typing import Final, NamedTuple


class CommandNode(NamedTuple):
    """``function`` is its module in this package, and its name in the module."""

    function: str
    help: str
    examples: tuple[str, ...]

    @property
    def epilogue(self) -> str:
        return "\n".join(("Examples:", *(f"  {example}" for example in self.examples)))


GROUPS: Final = {
    "access": "What users may do.",
    "account": "Accounts of organisations and users.",
    "consumer": "The consumer group that reads the platform's events.",
    "debts": "Finished work that could not be paid.",
    "dlq": "Dead-lettered events.",
    "export": "Balances, grants and operations as CSV.",
    "grants": "Entitlements that were granted.",
    "holds": "Credits reserved before work.",
    "import": "Balances and history of other systems.",
    "keys": "API keys.",
    "limits": "Rate limits and their usage.",
    "members": "Members of organisations, and their monthly caps.",
    "outbox": "Events to be published.",
    "plan": "Plans of the active policy.",
    "policy": "Policy documents.",
    "subscription": "Subscriptions to plans.",
    "webhooks": "Signed events to other systems.",
    "worker": "Background work in separate processes.",
}
_OPERATION: Final = "01a22100-30bf-70f7-91b4-380849156502"
_HOLD: Final = "01a22101-7a3c-7b21-8c55-0d0f6f0b1c2d"

COMMANDS: Final = {
    "serve": CommandNode(
        "operate:serve",
        "Run the service until SIGTERM or Ctrl-C.",
        ("entitlements serve", "entitlements serve --host 0.0.0.0 --port 8083"),
    ),
    "migrate": CommandNode(
        "operate:migrate",
        "Apply pending migrations; safe while services run.",
        ("entitlements migrate", "entitlements migrate --service-role entitlements_service"),
    ),
    "verify": CommandNode(
        "operate:verify",
        "Check the ledger's invariants; exit code 1 if any is violated.",
        ("entitlements verify",),
    ),
    "completion": CommandNode(
        "operate:completion",
        "Print the completion script of a shell.",
        (
            "source <(entitlements completion bash)",
            "entitlements completion zsh > ~/.zfunc/_entitlements",
        ),
    ),
    "check": CommandNode(
        "check:check",
        "Check whether work may run and who would pay; exit code 1 if it may not. Nothing is "
        "reserved or recorded. Limits are counted from the ledger, or in Redis if configured.",
        (
            "entitlements check ada cj_comparison=45 --org school",
            "entitlements check ada cj_comparison spellcheck --explain",
        ),
    ),
    "consume": CommandNode(
        "credits:consume",
        "Charge finished work; exit code 1 if neither the org nor the user can pay.",
        (
            "entitlements consume ada cj_comparison=45 --org school",
            "entitlements consume ada cj_comparison --key essay-17",
        ),
    ),
    "adjust": CommandNode(
        "ledger:adjust",
        "Add credits, or with a negative amount remove them; never below zero.",
        (
            'entitlements adjust org:school 500 --reason "invoice 17" --key invoice-17',
            "entitlements adjust user:ada -5 --reason mistake",
            "entitlements adjust org:school 100 --reason trial --expires-at 2027-01-01T00:00:00Z",
        ),
    ),
    "set": CommandNode(
        "credits:set_balance",
        "Set a balance to a target in one step.",
        ('entitlements set user:ada 50 --reason "support case 12"',),
    ),
    "reverse": CommandNode(
        "credits:reverse",
        "Reverse an operation, in full or in part.",
        (
            f"entitlements reverse {_OPERATION} --reason mistake",
            f"entitlements reverse {_OPERATION[:18]} --amount 5 --reason mistake",
        ),
    ),
    "balance": CommandNode(
        "ledger:balance",
        "Show the balances of subjects, by credit type.",
        ("entitlements balance org:school user:ada",),
    ),
    "audit": CommandNode(
        "audit:audit",
        "List administrative acts, newest first; omitted filters match all.",
        (
            "entitlements audit",
            "entitlements audit --action policy.activate --since 2026-09-01",
        ),
    ),
    "conflicts": CommandNode(
        "events:conflicts",
        "List jobs that were reported with different quantities, newest first; only the first "
        "report is charged.",
        ("entitlements conflicts --user ada",),
    ),
    "operations": CommandNode(
        "ledger:operations_tree",
        "List the ledger, newest first; omitted filters match all.",
        (
            "entitlements operations --subject org:school",
            "entitlements operations --since 2026-09-01 --until 2026-10-01 --json",
            "entitlements operations --imported --subject user:ada",
        ),
    ),
    "operations show": CommandNode(
        "ledger:operation",
        "Show one operation, by its id or the start of its id.",
        (f"entitlements operations show {_OPERATION[:18]}",),
    ),
    "grant": CommandNode(
        "grants:grant",
        "Grant an entitlement to an org or a user.",
        (
            "entitlements grant user:ada credit_grant --credit-type ai_tokens --quantity 5000",
            "entitlements grant org:school feature_unlock --feature export --reference order-17",
            "entitlements grant user:ada temporary_access --reason trial --expires-at 2027-01-01",
        ),
    ),
    "revoke": CommandNode(
        "grants:revoke",
        "Revoke a grant, or every grant of a reference; what has ended does not change.",
        (
            f'entitlements revoke {_OPERATION[:18]} --reason "cancelled"',
            'entitlements revoke --reference sub_abc123 --reason "refund processed"',
        ),
    ),
    "members set": CommandNode(
        "members:set_member",
        "Add a user to an org, or set the monthly cap of a member.",
        (
            "entitlements members set school ada",
            "entitlements members set school ada --monthly-cap 500",
        ),
    ),
    "members remove": CommandNode(
        "members:remove_member",
        "End the membership of a user in an org.",
        ("entitlements members remove school ada",),
    ),
    "members list": CommandNode(
        "members:list_members",
        "List the members of an org with their credits of this month.",
        ("entitlements members list school",),
    ),
    "grants list": CommandNode(
        "grants:list_grants",
        "List grants, newest first; omitted filters match all.",
        (
            "entitlements grants list --subject user:ada --status active",
            "entitlements grants list --type credit_grant --json",
        ),
    ),
    "grants show": CommandNode(
        "grants:show_grant",
        "Show a grant as it is now.",
        (f"entitlements grants show {_OPERATION[:18]}",),
    ),
    "access check": CommandNode(
        "grants:check_access",
        "Check whether a user has an entitlement; exit code 1 if not.",
        (
            "entitlements access check ada feature_unlock --feature export --org school",
            "entitlements access check ada credit_grant --credit-type ai_tokens --quantity 1000",
        ),
    ),
    "summary": CommandNode(
        "grants:summary",
        "Show what a subject has: subscription, tier, features, credits, allowances.",
        ("entitlements summary user:ada",),
    ),
    "subscription activate": CommandNode(
        "subscriptions:activate",
        "Begin a subscription to a plan, or the next period of an open one.",
        (
            "entitlements subscription activate user:ada pro sub_abc123",
            "entitlements subscription activate user:ada pro sub_abc123 --period-end 2027-01-01",
        ),
    ),
    "subscription change": CommandNode(
        "subscriptions:change",
        "Replace the plan; units used in the current period count as used.",
        ("entitlements subscription change sub_abc123 team",),
    ),
    "subscription cancel": CommandNode(
        "subscriptions:cancel",
        "Cancel a subscription, now or at the end of its period.",
        (
            "entitlements subscription cancel sub_abc123 --at period_end",
            'entitlements subscription cancel sub_abc123 --reason "refund processed"',
        ),
    ),
    "subscription past-due": CommandNode(
        "subscriptions:past_due",
        "Record that a payment is late; the grants stay until the subscription ends.",
        ('entitlements subscription past-due sub_abc123 --reason "invoice 17"',),
    ),
    "subscription expire": CommandNode(
        "subscriptions:expire",
        "End a subscription that was not paid.",
        ("entitlements subscription expire sub_abc123",),
    ),
    "subscription list": CommandNode(
        "subscriptions:list_subscriptions",
        "List subscriptions, newest first; omitted filters match all.",
        (
            "entitlements subscription list --plan pro --status active",
            "entitlements subscription list --subject user:ada --json",
        ),
    ),
    "subscription show": CommandNode(
        "subscriptions:show",
        "Show a subscription as it is now.",
        ("entitlements subscription show sub_abc123",),
    ),
    "subscription calls": CommandNode(
        "subscriptions:list_calls",
        "List calls of lifecycle handlers that are still to be made, the oldest first.",
        ("entitlements subscription calls",),
    ),
    "plan list": CommandNode(
        "plans:list_plans", "List the plans of the active policy.", ("entitlements plan list",)
    ),
    "plan show": CommandNode(
        "plans:show",
        "Show what a plan of the active policy grants.",
        ("entitlements plan show pro",),
    ),
    "plan migrate": CommandNode(
        "plans:migrate",
        "Move open subscriptions to their plan in the active policy; repeatable.",
        ("entitlements plan migrate pro --dry-run", "entitlements plan migrate pro"),
    ),
    "import balances": CommandNode(
        "importing:balances",
        "Import balances from a CSV file: one grant for each row, each reference once.",
        (
            "entitlements import balances balances.csv --dry-run",
            "entitlements import balances balances.csv",
        ),
    ),
    "import origin": CommandNode(
        "importing:origin",
        "Import an older service's balances and the history of its operations.",
        (
            "entitlements import origin --from postgresql://reader@old-db/credits --dry-run",
            "entitlements import origin --from 'postgresql://reader@db/app?schema=credits'",
        ),
    ),
    "export balances": CommandNode(
        "exporting:export_balances",
        "Export balances as CSV, in the form that `import balances` reads.",
        (
            "entitlements export balances --csv > balances.csv",
            "entitlements export balances --subject org:school --out school.csv",
        ),
    ),
    "export grants": CommandNode(
        "exporting:export_grants",
        "Export grants of every type as CSV, newest first; omitted filters match all.",
        ("entitlements export grants --csv --status active > grants.csv",),
    ),
    "export operations": CommandNode(
        "exporting:export_operations",
        "Export the ledger as CSV, newest first; omitted filters match all, of any age.",
        (
            "entitlements export operations --csv --since 2026-09-01 --until 2026-10-01",
            "entitlements export operations --imported --out history.csv",
        ),
    ),
    "account open": CommandNode(
        "ledger:open_account",
        "Open an account; its signup bonus is granted once.",
        ("entitlements account open org:school",),
    ),
    "keys create": CommandNode(
        "keys:create",
        "Create an API key; the secret is printed once, alone on standard output.",
        ("KEY=$(entitlements keys create grading --role service)",),
    ),
    "keys list": CommandNode(
        "keys:list_keys", "List all keys, without their secrets.", ("entitlements keys list",)
    ),
    "keys revoke": CommandNode(
        "keys:revoke",
        "Revoke an API key; services stop accepting it within seconds.",
        (f"entitlements keys revoke {_OPERATION}",),
    ),
    "policy check": CommandNode(
        "policy:check",
        "Validate a policy document, line by line.",
        ("entitlements policy check policy.yaml",),
    ),
    "policy show": CommandNode(
        "policy:show",
        "Print the document of a version as it was activated.",
        ("entitlements policy show", "entitlements policy show 5f0c6b2d9a3e"),
    ),
    "policy history": CommandNode(
        "policy:history",
        "List every version that was ever active, newest first.",
        ("entitlements policy history",),
    ),
    "policy diff": CommandNode(
        "policy:diff",
        "List the differences of two policies, rule by rule.",
        (
            "entitlements policy diff policy.yaml",
            "entitlements policy diff 5f0c6b2d9a3e policy.yaml",
        ),
    ),
    "policy apply": CommandNode(
        "policy:apply",
        "Activate a policy document; services follow within two seconds.",
        ('entitlements policy apply policy.yaml --reason "prices of the spring term"',),
    ),
    "holds list": CommandNode(
        "holds:list_holds",
        "List holds, newest first, with one line per credit type.",
        ("entitlements holds list", "entitlements holds list --subject org:school --status all"),
    ),
    "holds show": CommandNode("holds:show", "Show a hold.", (f"entitlements holds show {_HOLD}",)),
    "holds release": CommandNode(
        "holds:release",
        "Release a hold; its remaining credits are returned.",
        (f'entitlements holds release {_HOLD} --reason "worker died"',),
    ),
    "debts list": CommandNode(
        "credits:list_debts",
        "List work that could not be paid, oldest first.",
        ("entitlements debts list", "entitlements debts list --status all"),
    ),
    "debts settle": CommandNode(
        "credits:settle_debt",
        "Settle a debt, or a part of it, from the debtor's wallet.",
        (f"entitlements debts settle {_OPERATION[:18]} --amount 60",),
    ),
    "debts write-off": CommandNode(
        "credits:write_off_debt",
        "Write off a debt.",
        (f'entitlements debts write-off {_OPERATION[:18]} --reason "agreed with the school"',),
    ),
    "debts price": CommandNode(
        "credits:price_debt",
        "Charge work that was filed without a price, by the active policy.",
        (f"entitlements debts price {_OPERATION[:18]}",),
    ),
    "limits show": CommandNode(
        "credits:show_limits",
        "Show the usage of each rate limit of a user or org.",
        ("entitlements limits show ada",),
    ),
    "limits reset": CommandNode(
        "credits:reset_limit",
        "Reset the usage of a metric's rate limits for a user or org, in the configured Redis.",
        ('entitlements limits reset ada batch_create --reason "stuck client"',),
    ),
    "outbox status": CommandNode(
        "outbox:status",
        "Show how many events wait or are parked, and which relays publish them.",
        ("entitlements outbox status",),
    ),
    "outbox parked": CommandNode(
        "outbox:parked",
        "List parked events, the longest parked first.",
        ("entitlements outbox parked",),
    ),
    "outbox retry": CommandNode(
        "outbox:retry",
        "Retry a parked event, or all of them.",
        (f"entitlements outbox retry {_OPERATION}", "entitlements outbox retry --everything"),
    ),
    "outbox hand-over": CommandNode(
        "outbox:hand_over",
        "Let processes without Kafka publish the events that Kafka relays published before.",
        ("entitlements outbox hand-over",),
    ),
    "dlq list": CommandNode(
        "events:list_letters",
        "List dead-lettered events, newest first.",
        ("entitlements dlq list", "entitlements dlq list --reason malformed --state all"),
    ),
    "dlq show": CommandNode(
        "events:show_letter",
        "Show a dead-lettered event with its headers, key and value.",
        (f"entitlements dlq show {_OPERATION}",),
    ),
    "dlq replay": CommandNode(
        "events:replay",
        "Process a dead-lettered event again; exit code 1 if it is rejected again.",
        (f"entitlements dlq replay {_OPERATION}",),
    ),
    "dlq drop": CommandNode(
        "events:drop",
        "Drop a dead-lettered event.",
        (f'entitlements dlq drop {_OPERATION} --reason "a test"',),
    ),
    "consumer status": CommandNode(
        "events:consumer_status",
        "Show the consumer group as the broker sees it; exit code 1 if it has no member.",
        ("entitlements consumer status",),
    ),
    "webhooks create": CommandNode(
        "webhooks:create",
        "Post events to a URL; the secret that signs them is printed once.",
        ("entitlements webhooks create https://school.example/hooks",),
    ),
    "webhooks list": CommandNode(
        "webhooks:list_webhooks",
        "List all webhooks, without their secrets.",
        ("entitlements webhooks list",),
    ),
    "webhooks test": CommandNode(
        "webhooks:ping",
        "Send a ping; exit code 1 if it was not accepted.",
        (f"entitlements webhooks test {_OPERATION}",),
    ),
    "webhooks rotate": CommandNode(
        "webhooks:rotate",
        "Create a new secret, printed once; the current one keeps signing for a while.",
        (f"entitlements webhooks rotate {_OPERATION} --overlap 3600",),
    ),
    "webhooks delete": CommandNode(
        "webhooks:delete",
        "Delete a webhook; its pending deliveries are dropped.",
        (f"entitlements webhooks delete {_OPERATION}",),
    ),
    "webhooks deliveries": CommandNode(
        "webhooks:deliveries",
        "List the deliveries of a webhook, newest first.",
        (f"entitlements webhooks deliveries {_OPERATION} --state failed",),
    ),
    "webhooks retry": CommandNode(
        "webhooks:retry",
        "Send an event to a webhook again.",
        (f"entitlements webhooks retry {_OPERATION} {_HOLD}",),
    ),
    "worker consumer": CommandNode(
        "workers:consumer",
        "Read the platform's events until SIGTERM or Ctrl-C.",
        ("entitlements worker consumer",),
    ),
    "worker relay": CommandNode(
        "workers:relay",
        "Publish events until SIGTERM or Ctrl-C.",
        ("entitlements worker relay",),
    ),
}
