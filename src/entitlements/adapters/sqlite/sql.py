"""The SQL statements of SQLite, by name; values are always bound."""

from entitlements.adapters import columns

_WALLET = "subject_type = ? AND subject_id = ? AND credit_type = ?"
_GRANT_COLUMNS = """subject_type, subject_id, credit_type, id, quantity, remaining, held, priority,
    granted_at, expires_at, reason, started, ended_at, end_reason"""
_DEBT_COLUMNS = """subject_type, subject_id, credit_type, operation_id, owed, metric, created_at,
    closed_by"""
_OPERATION_COLUMNS = ", ".join(columns.OPERATION)
_HOLD_COLUMNS = ", ".join(columns.HOLD)
_API_KEY_COLUMNS = """id, name, role, prefix, secret_sha256, created_at, revoked_at, last_used_at"""
_RECORD_COLUMNS = ", ".join(columns.RECORD)
_LETTER_COLUMNS = ", ".join(columns.LETTER)
_AUDIT_COLUMNS = ", ".join(columns.AUDIT)

# IMMEDIATE takes the file's write lock now, so that what is read next cannot change until COMMIT.
BEGIN_WRITE = "BEGIN IMMEDIATE"
BEGIN_READ = "BEGIN"
COMMIT = "COMMIT"
ROLLBACK = "ROLLBACK"

# Reads of a batch.
ACTIVE_POLICY = "SELECT version FROM policies WHERE active = 1"
POLICY_CONTENT = "SELECT content FROM policies WHERE version = ?"
WALLET = f"""SELECT balance, held, overdraft, version, next_due_at, updated_at, balance_at_grant
    FROM credit_balances WHERE {_WALLET}"""
LIVE_GRANTS = f"""SELECT {_GRANT_COLUMNS} FROM grants WHERE {_WALLET} AND live = 1
    ORDER BY priority, coalesce(expires_at, 253402300799999999), granted_at, id LIMIT ?"""
LIVE_GRANTS_FIFO = f"""SELECT {_GRANT_COLUMNS} FROM grants WHERE {_WALLET} AND live = 1
    ORDER BY priority, granted_at, id LIMIT ?"""
# In the order in which the core applies them: at the same instant, expiries come before starts.
DUE_GRANTS = f"""SELECT {_GRANT_COLUMNS} FROM grants WHERE {_WALLET} AND due_at <= ?
    ORDER BY due_at, started DESC, id LIMIT ?"""
GRANTS_AHEAD = f"""SELECT {_GRANT_COLUMNS} FROM grants WHERE {_WALLET} AND due_at > ?
    ORDER BY due_at, started DESC, id LIMIT ?"""
DUE_AFTER = f"""SELECT due_at FROM grants WHERE {_WALLET} AND due_at IS NOT NULL
    ORDER BY due_at, started DESC, id LIMIT 1 OFFSET ?"""
# A started grant is due at its expiry. The index also has grants that start later, in between.
SOONEST_EXPIRY = f"""SELECT due_at, sum(remaining - held) FROM grants
    WHERE {_WALLET} AND started = 1 AND due_at = (
        SELECT due_at FROM grants
        WHERE {_WALLET} AND started = 1 AND due_at > ? AND remaining > held
        ORDER BY due_at LIMIT 1)
    GROUP BY due_at"""
WALLET_GRANT = f"SELECT {_GRANT_COLUMNS} FROM grants WHERE {_WALLET} AND id = ?"
WALLET_HOLD = f"SELECT {_HOLD_COLUMNS} FROM holds WHERE {_WALLET} AND id = ?"
DUE_HOLDS = f"""SELECT {_HOLD_COLUMNS} FROM holds
    WHERE {_WALLET} AND status = 'open' AND expires_at <= ? ORDER BY expires_at, id LIMIT ?"""
HOLDS_AHEAD = f"""SELECT {_HOLD_COLUMNS} FROM holds
    WHERE {_WALLET} AND status = 'open' AND expires_at > ? ORDER BY expires_at, id LIMIT ?"""
HOLD_DUE_AFTER = f"""SELECT expires_at FROM holds WHERE {_WALLET} AND status = 'open'
    ORDER BY expires_at, id LIMIT 1 OFFSET ?"""
RECEIPT = """SELECT client, key, fingerprint, outcome, created_at, expires_at
    FROM receipts WHERE client = ? AND key = ?"""
_JOB = "user_id = ?1 AND service_name = ?2 AND processing_id = ?3 AND metric = ?4"
# A row without a batch_id, written by a program of the previous version, is for any batch.
JOB = f"""SELECT units, outcome FROM jobs WHERE {_JOB} AND batch_id = ?5
    UNION ALL SELECT units, outcome FROM jobs WHERE {_JOB} AND batch_id IS NULL
    LIMIT 1"""
RECORD = f"SELECT {_RECORD_COLUMNS} FROM consumption_records WHERE user_id = ? AND event_id = ?"
MEMBER = "SELECT 1 FROM org_members WHERE org_id = ? AND user_id = ?"
# With the number of the operation that each of them reversed.
REPAYMENTS = f"""SELECT {_OPERATION_COLUMNS},
        (SELECT seq FROM credit_operations AS r WHERE r.id = o.reverses)
    FROM credit_operations AS o
    WHERE {_WALLET} AND seq > ? AND overdraft_after IS NOT NULL AND kind <> 'consume'
    ORDER BY seq"""
REVERSED = f"SELECT reversed FROM reversals WHERE {_WALLET} AND operation_id = ?"
WALLET_DEBT = f"SELECT {_DEBT_COLUMNS} FROM debts WHERE {_WALLET} AND operation_id = ?"
OLDEST_DEBTS = f"""SELECT {_DEBT_COLUMNS} FROM debts
    WHERE {_WALLET} AND closed_by IS NULL AND owed IS NOT NULL
    ORDER BY created_at, operation_id LIMIT ?"""
ACCOUNT = "SELECT 1 FROM accounts WHERE subject_type = ? AND subject_id = ?"

# Writes of a batch. A statement must change one row per set of values, or its guard has failed.
# A wallet that was loaded with version 0 may be new.
CREATE_WALLET = """INSERT INTO credit_balances (balance, held, overdraft, version, next_due_at,
        updated_at, subject_type, subject_id, credit_type)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT DO UPDATE SET balance = excluded.balance, held = excluded.held,
        overdraft = excluded.overdraft, version = excluded.version,
        next_due_at = excluded.next_due_at, updated_at = excluded.updated_at
    WHERE version = 0"""
UPDATE_WALLET = f"""UPDATE credit_balances SET balance = ?, held = ?, overdraft = ?, version = ?,
        next_due_at = ?, updated_at = ?
    WHERE {_WALLET} AND version = ?"""
# Written after the wallets: only grants change it, so other writes need not carry it.
PUT_BALANCE_AT_GRANT = f"UPDATE credit_balances SET balance_at_grant = ? WHERE {_WALLET}"
UPDATE_GRANT = f"""UPDATE grants SET remaining = ?, held = ?, started = ?, ended_at = ?,
        end_reason = ?, live = ?, due_at = ?
    WHERE {_WALLET} AND id = ? AND remaining = ? AND held = ? AND started = ? AND ended_at IS ?"""
# A draw changes only the remaining credits, and touches neither of the partial indexes.
DRAW_GRANT = f"""UPDATE grants SET remaining = ?
    WHERE {_WALLET} AND id = ? AND remaining = ? AND ended_at IS NULL AND live = 1"""
CREATE_GRANT = f"""INSERT INTO grants ({_GRANT_COLUMNS}, live, due_at, granted_by, reference_id,
        cost_microcents, notes, metadata, created_at)
    VALUES (?{", ?" * 21})"""
CREATE_OPERATION = f"INSERT INTO credit_operations ({_OPERATION_COLUMNS}) VALUES (?{', ?' * 28})"
CREATE_EVENT = f"""INSERT INTO event_outbox (bucket, subject_type, subject_id, credit_type, seq, n,
        event_id, event_type, key, payload, created_at, traceparent)
    VALUES (?{", ?" * 11})"""
# An expired receipt is replaced by a new one; a valid one is not.
PUT_RECEIPT = """INSERT INTO receipts (client, key, fingerprint, outcome, created_at, expires_at)
    VALUES (?, ?, ?, ?, ?, ?)
    ON CONFLICT DO UPDATE SET fingerprint = excluded.fingerprint, outcome = excluded.outcome,
        created_at = excluded.created_at, expires_at = excluded.expires_at
    WHERE expires_at <= excluded.created_at"""
CREATE_JOB = """INSERT INTO jobs
        (user_id, service_name, processing_id, metric, batch_id, units, outcome)
    VALUES (?, ?, ?, ?, ?, ?, ?)"""
CREATE_RECORD = f"INSERT INTO consumption_records ({_RECORD_COLUMNS}) VALUES (?{', ?' * 21})"
ADD_MEMBER = "INSERT INTO org_members (org_id, user_id, joined_at) VALUES (?, ?, ?)"
CREATE_HOLD = f"INSERT INTO holds ({_HOLD_COLUMNS}) VALUES (?{', ?' * 23})"
UPDATE_HOLD = f"""UPDATE holds SET held = ?, charged = ?, returned = ?, backing = ?, status = ?,
        expires_at = ?, settled = ?, closing = ?, closed_at = ?, billed = ?
    WHERE {_WALLET} AND id = ? AND status = ? AND held = ?"""
PUT_REVERSED = """INSERT INTO reversals
        (subject_type, subject_id, credit_type, operation_id, reversed)
    VALUES (?1, ?2, ?3, ?4, ?5)
    ON CONFLICT DO UPDATE SET reversed = excluded.reversed WHERE reversed = ?6"""
OPEN_DEBT = f"INSERT INTO debts ({_DEBT_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
UPDATE_DEBT = f"""UPDATE debts SET credit_type = ?, owed = ?, closed_by = ?
    WHERE {_WALLET} AND operation_id = ? AND closed_by IS NULL AND owed IS ?"""
OPEN_ACCOUNT = "INSERT INTO accounts (subject_type, subject_id, opened_at) VALUES (?, ?, ?)"
CREATE_AUDIT_ENTRY = f"INSERT INTO audit_log ({_AUDIT_COLUMNS}) VALUES (?{', ?' * 9})"

# Reads of committed state.
OPERATION = f"SELECT {_OPERATION_COLUMNS} FROM credit_operations WHERE id = ?"
OPERATION_IDS = "SELECT id FROM credit_operations WHERE id BETWEEN ? AND ? LIMIT 2"
GRANT = f"SELECT {_GRANT_COLUMNS} FROM grants WHERE id = ?"
HOLD = f"SELECT {_HOLD_COLUMNS} FROM holds WHERE id = ?"
WALLET_KEYS = """SELECT subject_type, subject_id, credit_type FROM credit_balances
    WHERE subject_type = ? AND subject_id = ? ORDER BY credit_type"""
ORGS_OF = "SELECT org_id FROM org_members WHERE user_id = ? ORDER BY org_id LIMIT ?"
DEBT = f"SELECT {_DEBT_COLUMNS} FROM debts WHERE operation_id = ?"
OPEN_DEBTS = f"""SELECT {_DEBT_COLUMNS} FROM debts
    WHERE closed_by IS NULL AND (created_at, operation_id) > (?1, ?2)
    ORDER BY created_at, operation_id LIMIT ?3"""
DEBTS = f"""SELECT * FROM ({OPEN_DEBTS}) UNION ALL
    SELECT * FROM ({OPEN_DEBTS.replace("IS NULL", "IS NOT NULL")})
    ORDER BY created_at, operation_id LIMIT ?3"""
OWING = f"""SELECT CAST(min(total(owed), 9007199254740991) AS INTEGER) FROM debts
    WHERE {_WALLET} AND closed_by IS NULL AND owed IS NOT NULL"""
UNPRICED_WORK = """SELECT operation_id FROM debts
    WHERE closed_by IS NULL AND owed IS NULL
        AND (?1 IS NULL OR metric IN (SELECT value FROM json_each(?1)))
        AND operation_id NOT IN (SELECT value FROM json_each(?2))
    ORDER BY created_at, operation_id LIMIT ?3"""
UNPRICED_TOTAL = """SELECT count(*) FROM
    (SELECT 1 FROM debts WHERE closed_by IS NULL AND owed IS NULL LIMIT ?)"""
DUE_WALLETS = """SELECT subject_type, subject_id, credit_type FROM credit_balances
    WHERE next_due_at <= ? AND (subject_type, subject_id, credit_type) NOT IN
        (SELECT value ->> 0, value ->> 1, value ->> 2 FROM json_each(?))
    ORDER BY next_due_at LIMIT ?"""
API_KEY = f"SELECT {_API_KEY_COLUMNS} FROM api_keys WHERE secret_sha256 = ?"
API_KEYS = f"SELECT {_API_KEY_COLUMNS} FROM api_keys ORDER BY created_at, id"
IS_OURS = "SELECT 1 FROM pragma_table_info('schema_version') WHERE name = 'checksum'"
TABLES = "SELECT name FROM sqlite_master WHERE type IN ('table', 'view')"
SCHEMA_VERSION_EXISTS = "SELECT 1 FROM sqlite_schema WHERE name = 'schema_version'"
SCHEMA_VERSIONS = "SELECT number, checksum FROM schema_version"
# The first event of each bucket is where the bucket begins in the index.
BACKLOG = """SELECT
    (SELECT count(*) FROM (SELECT 1 FROM event_outbox
        WHERE published_at IS NULL AND parked_at IS NULL LIMIT ?1)),
    (SELECT min((SELECT created_at FROM event_outbox AS e
        WHERE e.bucket = l.bucket AND published_at IS NULL AND parked_at IS NULL
        ORDER BY created_at LIMIT 1)) FROM relay_leases AS l),
    (SELECT count(*) FROM (SELECT 1 FROM event_outbox WHERE parked_at IS NOT NULL LIMIT ?1))"""
PING = "SELECT 1 FROM schema_version LIMIT 1"

# Slices are counted as in core/windows.py; sums have the same maximum as in the limiters. A request
# of many adjustments counts once: what one commit adjusts for one operator is one use.
PAST_USES = """WITH resets AS (
        SELECT subject_id, detail ->> 'metric' AS metric, max(at) AS at
        FROM audit_log WHERE at >= ?3 AND action = 'rate_limit.reset' GROUP BY 1, 2
    ), used AS (
        SELECT user_id, org_id, metric, coalesce(counted, quantity) AS units, created_at
        FROM credit_operations
        WHERE created_at >= ?3 AND created_at < ?4
            AND kind IN ('consume', 'hold') AND operation_status = 'completed'
        UNION ALL
        SELECT DISTINCT actor, NULL, 'credit_adjustment', 1, created_at
        FROM credit_operations
        WHERE created_at >= ?3 AND created_at < ?4
            AND kind = 'manual_adjustment' AND operation_status = 'completed'
    )
    SELECT used.user_id, used.org_id, used.metric,
        created_at / 1000 * 60 / (?2 * 1000) AS slice,
        CAST(min(total(units), 9007199254740991) AS INTEGER),
        coalesce(created_at > u.at, 1) AS of_user, coalesce(created_at > o.at, 1) AS of_org
    FROM used
    LEFT JOIN resets AS u ON u.subject_id = used.user_id AND u.metric = used.metric
    LEFT JOIN resets AS o ON o.subject_id = used.org_id AND o.metric = used.metric
    WHERE used.metric IN (SELECT value FROM json_each(?1))
    GROUP BY used.user_id, used.org_id, used.metric, slice, of_user, of_org
    ORDER BY slice"""

# Small tables that are independent of wallets.
CREATE_API_KEY = f"INSERT INTO api_keys ({_API_KEY_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
REVOKE_API_KEY = "UPDATE api_keys SET revoked_at = ? WHERE id = ? AND revoked_at IS NULL"
TOUCH_API_KEY = """UPDATE api_keys SET last_used_at = ?1
    WHERE id = ?2 AND (last_used_at IS NULL OR last_used_at < ?1)"""
RETIRE_POLICY = "UPDATE policies SET active = 0 WHERE active = 1"
# Later than the previous version, even if the clock was set back.
ACTIVATE_POLICY = """INSERT INTO policies (version, content, activated_at, actor, active)
    SELECT ?, ?, max(?, 1 + coalesce(max(activated_at), 0)), ?, 1 FROM policies"""
POLICIES = """SELECT version, activated_at, actor, active FROM policies
    WHERE substr(version, 1, length(?1)) = ?1 AND (?2 IS NULL OR activated_at < ?2)
    ORDER BY activated_at DESC LIMIT ?3"""
ANNOUNCE_LIMITER = """INSERT INTO lone_limiters (name, expires_at) VALUES (?, ?)
    ON CONFLICT DO UPDATE SET expires_at = excluded.expires_at"""
# Also deletes leases that end later than possible: they were written before the clock was set back.
LIMITERS_GONE = "DELETE FROM lone_limiters WHERE expires_at <= ?1 OR expires_at > ?2"
OTHER_LIMITERS = "SELECT count(*) FROM lone_limiters WHERE name <> ?"
ADD_LIMIT_EXCEEDED = """INSERT INTO limit_exceeded (subject_type, subject_id, metric, minute,
        event_id, event_type, key, payload, created_at)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"""
PURGE_LIMIT_EXCEEDED = """DELETE FROM limit_exceeded
    WHERE (subject_type, subject_id, metric, minute) IN
    (SELECT subject_type, subject_id, metric, minute FROM limit_exceeded
        WHERE created_at < ? LIMIT ?)"""
PURGE_RECEIPTS = """DELETE FROM receipts WHERE (client, key) IN
    (SELECT client, key FROM receipts WHERE expires_at <= ? ORDER BY expires_at LIMIT ?)"""

# The inbox.
LETTER = f"SELECT {_LETTER_COLUMNS} FROM dead_letters WHERE id = ?"
CREATE_LETTER = f"""INSERT INTO dead_letters ({_LETTER_COLUMNS})
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 'open', NULL) ON CONFLICT DO NOTHING"""
CLOSE_LETTER = "UPDATE dead_letters SET state = ?, closed_at = ? WHERE id = ? AND state = 'open'"
NOTE_REPLAY = "UPDATE dead_letters SET reason = ?, detail = ? WHERE id = ? AND state = 'open'"
OPEN_LETTERS = """SELECT count(*) FROM
    (SELECT 1 FROM dead_letters WHERE state = 'open' LIMIT 1000)"""

# The outbox.
RELAY_IS_ALIVE = """INSERT INTO relays (name, sink, expires_at) VALUES (?, ?, ?)
    ON CONFLICT DO UPDATE SET sink = excluded.sink, expires_at = excluded.expires_at"""
# ?2 here, ?6 below: a lease that ends later was written before the clock was set back.
RELAYS_GONE = "DELETE FROM relays WHERE expires_at <= ?1 OR expires_at > ?2"
RELAYS_ALIVE = "SELECT sink, count(*) FROM relays WHERE expires_at > ? GROUP BY sink"
# An expired lease is renewed too, unless another relay has claimed it.
RENEW_LEASES = """UPDATE relay_leases SET expires_at = ?2 WHERE holder = ?1
    RETURNING bucket, epoch"""
GIVE_BACK_LEASE = """UPDATE relay_leases SET holder = NULL, expires_at = NULL
    WHERE holder = ? AND bucket = ?"""
GIVE_BACK_LEASES = "UPDATE relay_leases SET holder = NULL, expires_at = NULL WHERE holder = ?"
# ?4: the sink if it sends events out of the process. Other sinks cannot claim the buckets of one.
CLAIM_LEASES = """UPDATE relay_leases
    SET holder = ?1, sink = ?4, epoch = epoch + 1, expires_at = ?3
    WHERE bucket IN (
        SELECT bucket FROM relay_leases
        WHERE (holder IS NULL OR expires_at <= ?2 OR expires_at > ?6)
            AND (sink IS NULL OR ?4 IS NOT NULL)
        ORDER BY bucket LIMIT ?5)
    RETURNING bucket, epoch"""
LEAVE = "DELETE FROM relays WHERE name = ?"
WAITING = """SELECT bucket, created_at, seq, n, event_id, event_type, key, payload, traceparent
    FROM event_outbox INDEXED BY event_outbox_unsent
    WHERE bucket = ? AND published_at IS NULL AND parked_at IS NULL
        AND key NOT IN (SELECT value FROM json_each(?))
    ORDER BY created_at, seq, n LIMIT ?"""
HELD_LEASE = "SELECT 1 FROM relay_leases WHERE holder = ? AND bucket = ? AND epoch = ?"
_PLACE = """bucket = ? AND created_at = ? AND seq = ? AND n = ? AND event_id = ?
    AND published_at IS NULL AND parked_at IS NULL"""
MARK_PUBLISHED = f"""UPDATE event_outbox INDEXED BY event_outbox_unsent
    SET published_at = ? WHERE {_PLACE}"""
DELETE_PUBLISHED = f"DELETE FROM event_outbox INDEXED BY event_outbox_unsent WHERE {_PLACE}"
PARK = f"""UPDATE event_outbox INDEXED BY event_outbox_unsent
    SET parked_at = ?, park_reason = ?, attempts = ? WHERE {_PLACE}"""
NOTE_CLEANED = """UPDATE relay_leases SET cleaned_until = max(coalesce(cleaned_until, ?2), ?2)
    WHERE bucket = ?1"""
SKIP_WAITING = """UPDATE event_outbox SET published_at = ? WHERE rowid IN (
    SELECT rowid FROM event_outbox INDEXED BY event_outbox_unsent
    WHERE bucket = ? AND published_at IS NULL AND parked_at IS NULL
    ORDER BY created_at, seq, n LIMIT ?)
    RETURNING event_id, event_type, payload"""
CLEAN = """DELETE FROM event_outbox WHERE rowid IN (
        SELECT rowid FROM event_outbox WHERE published_at <= ? ORDER BY published_at LIMIT ?)
    RETURNING created_at"""
LIMIT_EVENTS = """SELECT subject_type, subject_id, metric, minute, event_id, event_type, key,
        payload, created_at
    FROM limit_exceeded WHERE published_at IS NULL ORDER BY created_at LIMIT ?"""
LIMIT_EVENT_TOLD = """UPDATE limit_exceeded SET published_at = ?
    WHERE subject_type = ? AND subject_id = ? AND metric = ? AND minute = ?"""
LEASES = "SELECT bucket, holder, epoch, sink, expires_at FROM relay_leases ORDER BY bucket"
PARKED = """SELECT subject_type, subject_id, credit_type, seq, event_id, event_type, created_at,
        parked_at, park_reason, attempts
    FROM event_outbox WHERE parked_at IS NOT NULL AND (parked_at, event_id) > (?, ?)
    ORDER BY parked_at, event_id LIMIT ?"""
RETRY = """UPDATE event_outbox SET parked_at = NULL, attempts = 0
    WHERE parked_at IS NOT NULL AND (?1 IS NULL OR event_id = ?1)"""
HAND_OVER = "UPDATE relay_leases SET sink = NULL WHERE sink IS NOT NULL"
