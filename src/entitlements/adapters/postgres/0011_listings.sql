-- What listings walk, newest first. Operations of a correlation come in the order of time, those that failed have an
-- index of their own, which nearly no operation is in.
CREATE INDEX credit_operations_correlated ON credit_operations (correlation_id, created_at);
DROP INDEX credit_operations_correlation;
CREATE INDEX credit_operations_failed ON credit_operations (created_at) WHERE operation_status = 'failed';
CREATE INDEX holds_open ON holds (id) WHERE status = 'open';
CREATE INDEX debts_closed ON debts (created_at, operation_id) WHERE closed_by IS NOT NULL;
CREATE INDEX consumption_records_of ON consumption_records (user_id, id);
