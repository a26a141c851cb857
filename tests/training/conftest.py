"""What the tests of training start from: small bases, and a prepared study."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.support.prepared_files import write_prepared
from tests.support.tiny_models import ARCHITECTURES, save_tiny_model

from chatbench.data.workspace import Workspace


@pytest.fixture(scope="session")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Bases of the three architectures; tests must not write into them."""
    folder = tmp_path_factory.mktemp("models")
    return {name: save_tiny_model(folder / name, name) for name in ARCHITECTURES}


@pytest.fixture(scope="session")
def base(bases: dict[str, Path]) -> Path:
    return bases["llama"]


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(write_prepared(tmp_path / "data"), tmp_path / "results")
