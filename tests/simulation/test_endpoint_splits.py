"""One server, an adapter per split: each split is simulated by its own. Both sides are behind endpoints."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from benchmarks.loopback_endpoint import LoopbackEndpoint, running
from tests.support.study_files import tiny_folder

from chatbench.cli import main
from chatbench.data.workspace import Workspace
from chatbench.simulation.log import read_conversations

BOTH = ("split_0", "split_1")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackEndpoint]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    one = LoopbackEndpoint(models=("m", *(f"mine-{split}" for split in BOTH)))
    with running(one):
        yield one


def simulated(folder: Path, server: LoopbackEndpoint) -> int:
    """Exit code of the command."""
    study, data = tiny_folder(folder / "study"), folder / "data"
    assert main(["prepare-splits", "--study", str(study), "--out", str(data), "--splits", "2"]) == 0
    who = f"--simulator two-step:completions:mine-{{split}}@{server.url} --assistant gpt-4o=openai:m@{server.url}"
    where = ["--data", str(data), "--results", str(folder / "results")]
    return main(["simulate", "mine", *who.split(), "--conversations", "2", *where])


def test_each_split_is_simulated_by_its_own_adapter(tmp_path: Path, server: LoopbackEndpoint) -> None:
    assert simulated(tmp_path, server) == 0

    for split in BOTH:
        chats = read_conversations(Workspace(results=tmp_path / "results").conversations("mine", split))
        held_out = Workspace(tmp_path / "data").split(split).question_ids("test")
        assert {chat.question_id for chat in chats} == set(held_out)
        assert len(chats) == 2 * len(held_out)
        assert all(chat.usage.simulator_prompt_tokens and chat.usage.assistant_tokens for chat in chats)
    order = [each["model"] for each in server.asked if "prompt" in each]
    assert order == sorted(order)  # all of split_0's adapter, then all of split_1's
    assert set(order) == {f"mine-{split}" for split in BOTH}


def test_an_adapter_that_is_missing_is_told_before_anything_is_simulated(
    tmp_path: Path, server: LoopbackEndpoint, capsys: pytest.CaptureFixture[str]
) -> None:
    server.models = ("m", "mine-split_0")

    assert simulated(tmp_path, server) == 2
    assert "has not mine-split_1" in capsys.readouterr().err
    assert server.asked == []
