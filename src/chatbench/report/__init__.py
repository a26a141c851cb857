"""The HTML page: what a run found, drawn and told from plain values; nothing here reads results or computes scores."""

from __future__ import annotations
