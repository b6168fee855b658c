"""The business rules, as pure functions: no I/O, no clock, no randomness, immutable values."""
