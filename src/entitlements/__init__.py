"""Credits, entitlements, holds and rate limits: one authority for what a subject may do."""

__version__ = "0.1.0"
