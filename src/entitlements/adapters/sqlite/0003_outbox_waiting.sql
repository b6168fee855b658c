-- How old the oldest event is that waits to be shipped. New ones come in at its end, which costs next to nothing.
CREATE INDEX event_outbox_waiting ON event_outbox (created_at)
    WHERE published_at IS NULL AND parked_at IS NULL;
