"""What the tests of simulations share: a server on this machine, for models behind endpoints."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from benchmarks.loopback_endpoint import LoopbackEndpoint, running


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackEndpoint]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    one = LoopbackEndpoint()
    with running(one):
        yield one
