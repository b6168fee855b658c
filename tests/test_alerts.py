"""Alerts speak of metrics that the service has, with labels that they have, and are explained."""

from pathlib import Path

ROOT = Path(__file__).parents[1]
