"""Fixtures that test files share without importing them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest
from tests.support.browser import browser, open_page

from chatbench.data.workspace import Workspace

if TYPE_CHECKING:
    from benchmarks.loopback_endpoint import LoopbackEndpoint

hypothesis.settings.register_profile("chatbench", deadline=None)  # machines are shared: no test is timed
hypothesis.settings.load_profile("chatbench")

__all__ = ["browser", "copied", "finished", "open_page", "prompted", "server"]


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A finished run of two models on two splits; tests must not write into it."""
    from tests.support.finished_results import finish  # late: most tests need none of it

    return finish(tmp_path_factory.mktemp("finished"))


@pytest.fixture
def copied(finished: Workspace, tmp_path: Path) -> Workspace:
    """That run with a copy of its results, to be changed."""
    shutil.copytree(finished.results, tmp_path / "results")
    return Workspace(finished.data, tmp_path / "results")


@pytest.fixture(scope="session")
def prompted(finished: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """The same study with a simulator that is prompted and not fine-tuned, scored."""
    from tests.support.finished_results import finish_prompted

    return finish_prompted(Workspace(finished.data, tmp_path_factory.mktemp("prompted") / "results"))


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackEndpoint]:
    """A server of models on this machine."""
    from benchmarks.loopback_endpoint import LoopbackEndpoint, running

    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    one = LoopbackEndpoint()
    with running(one):
        yield one
