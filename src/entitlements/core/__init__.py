"""The rules, pure: no I/O, no clock, no randomness; every value is immutable."""
