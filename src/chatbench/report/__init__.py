"""Tables, plots, the HTML page and its server: what a run found, from its files in the results folder."""

from __future__ import annotations
