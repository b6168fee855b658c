-- The span that caused the event, as W3C Trace Context writes it; it goes with the event's record.
ALTER TABLE event_outbox ADD COLUMN traceparent text;
