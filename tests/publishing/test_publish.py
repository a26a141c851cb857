"""Publishing: what is sent, what stays here, what is refused; to a hub on this machine, through the real client."""

from __future__ import annotations

import json
import mmap
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import HfApi
from tests.support.finished_folders import run_record, save_adapter
from tests.support.loopback_hub import Hub, running_hub
from tests.support.tiny_models import save_tiny_model

from chatbench.cli import main
from chatbench.core.errors import ChatbenchError
from chatbench.core.files import write_json, write_text
from chatbench.data.workspace import Workspace
from chatbench.models.run_record import RESOLVED_SETTINGS, write_record
from chatbench.publishing.model_card import model_card
from chatbench.publishing.upload import publication, publish, refuse_leaks, upload

TOKEN = "hf_" + "t" * 30


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole model as a finished run leaves it, of a base in a folder of this machine; checkpoints and pickle too."""
    place = tmp_path_factory.mktemp("machine")
    base = save_tiny_model(place / "bases" / "small")
    overrides = place / "my settings.json"
    overrides.write_text('{"seed": 3}')
    record = run_record(base)
    origins = {**record["origins"], "seed": str(overrides), "max_steps": f"default, because {overrides} rules it out"}
    record = {**record, "origins": origins}
    folder = save_tiny_model(place / "results" / "models" / "small" / "split_0", seed=1)
    for name in ("training_args.bin", "checkpoint-6/optimizer.pt", "checkpoint-6/config.json", ".hidden"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(str(place).encode())
    write_json(folder / RESOLVED_SETTINGS, {"base": str(base), "settings": {"seed": {"origin": str(overrides)}}})
    write_text(folder / "README.md", model_card(record, adapter=False))
    write_record(folder, record)
    return folder


@pytest.fixture
def folder(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy to change; no token but the one that a test sets."""
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "no-token"))
    return Path(shutil.copytree(trained, tmp_path / "results" / "models" / "small" / "split_0"))


@pytest.fixture
def hub() -> Iterator[Hub]:
    with running_hub() as running:
        yield running


def send(folder: Path, hub: Hub, *, revision: str = "main", private: bool = True) -> str:
    planned = publication(folder, "org/name", revision=revision, private=private)
    return upload(planned, token=TOKEN, api=HfApi(endpoint=hub.endpoint))


def test_the_model_its_tokenizer_card_and_records_arrive_and_nothing_else(folder: Path, hub: Hub) -> None:
    address = send(folder, hub)

    assert set(hub.files["main"]) - {".gitattributes"} == {
        "README.md", "chatbench.json", "config.json", "generation_config.json", "model.safetensors",
        "resolved_settings.json", "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip
    assert hub.files["main"]["model.safetensors"] == (folder / "model.safetensors").read_bytes()
    assert hub.private is True
    assert hub.tokens == {f"Bearer {TOKEN}"}
    assert address == f"{hub.endpoint}/org/name/commit/{'c' * 40}"


def test_what_is_published_names_no_folder_of_this_machine(folder: Path, trained: Path, hub: Hub) -> None:
    # The record holds the base's path, the overrides file's, and the latter again inside a longer text.
    assert str(trained.parents[3]) in (folder / "chatbench.json").read_text()

    send(folder, hub)

    for name, content in hub.files["main"].items():
        assert str(trained.parents[3]).encode() not in content, name
        assert TOKEN.encode() not in content, name
    record = json.loads(hub.files["main"]["chatbench.json"])
    assert record["base"] == "./small"
    assert record["origins"]["seed"] == "./my settings.json"
    assert record["origins"]["max_steps"] == "default, because ./my settings.json rules it out"
    assert record["train_sha256"] == "0" * 64
    assert 'folder = "."' in (folder / "README.md").read_text()  # the local card stays as it is
    assert b"folder = 'org/name'" in hub.files["main"]["README.md"]


def test_what_is_on_the_hub_is_replaced_on_its_branch_and_only_where_it_is_as_private_as_asked_for(
    folder: Path, hub: Hub
) -> None:
    # An adapter_config.json beside a whole model would be loaded in its place.
    send(folder, hub, private=False)
    hub.files["main"] |= {"adapter_config.json": b"{}", "adapter_model.safetensors": b"", "LICENSE": b"mine"}
    send(folder, hub, private=False)
    send(folder, hub, private=False, revision="split_1")

    assert b"snapshot_download('org/name', revision='split_1')" in hub.files["split_1"]["README.md"]
    assert b"snapshot_download" not in hub.files["main"]["README.md"]
    assert not {"adapter_config.json", "adapter_model.safetensors"} & set(hub.files["main"])
    assert hub.files["main"]["LICENSE"] == b"mine"
    # create_repo(private=True, exist_ok=True) leaves the visibility of a repository that exists as it is.
    before = dict(hub.files["main"])
    with pytest.raises(ChatbenchError, match="already public"):
        send(folder, hub)
    assert hub.files["main"] == before


@pytest.mark.parametrize(
    ("rights", "broken", "words"),
    [
        (401, "", "rejects the token"),
        (403, "", "no write access"),
        (500, "", "500"),
        (200, "cut", "cannot be reached"),
        (200, "page", "login page"),
        (200, "list", "what answered is not a hub"),
    ],
)
def test_a_refusal_a_broken_connection_and_somebody_else_who_answers_are_one_clear_error_with_its_cure(
    folder: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch, rights: int, broken: str, words: str
) -> None:
    monkeypatch.setattr("time.sleep", lambda _seconds: None)  # the client waits before it tries again
    hub.rights, hub.broken = rights, broken

    with pytest.raises(ChatbenchError, match=words) as refused:
        send(folder, hub)
    assert refused.value.fix
    assert TOKEN not in str(refused.value)


def test_no_token_and_no_network_are_told_apart(folder: Path, hub: Hub) -> None:
    planned = publication(folder, "org/name")

    with pytest.raises(ChatbenchError, match="no token"):
        upload(planned, token=None, api=HfApi(endpoint=hub.endpoint))
    with pytest.raises(ChatbenchError, match="cannot be reached"):
        upload(planned, token=TOKEN, api=HfApi(endpoint="http://127.0.0.1:9"))  # the discard port: nobody listens


def test_a_dry_run_lists_files_target_and_card_and_asks_for_neither_token_nor_network(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder.parents[3])
    said: list[str] = []

    publish(
        "small", to="org/name", workspace=Workspace(results=Path("results")), private=False, dry_run=True,
        say=said.append, api=HfApi(endpoint="http://127.0.0.1:9"),
    )  # fmt: skip

    assert said[0].endswith("-> org/name (public), revision main")
    assert any(line.split()[-1] == "model.safetensors" for line in said)
    assert "left out: .hidden, checkpoint-6/, training_args.bin" in said
    assert any("# User simulator `small`, `split_0`" in line for line in said)
    assert said[-1] == "dry run: nothing was sent"


def test_the_command_publishes_a_folder_as_well_as_a_model_and_its_split(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder.parents[3])

    assert main(["publish", "small", "--to", "org/name", "--dry-run"]) == 0
    assert main(["publish", str(folder), "--to", "org/name", "--dry-run"]) == 0
    assert main(["publish", str(folder), "--to", "org/name", "--split", "split_0", "--dry-run"]) == 0
    capsys.readouterr()
    for command in (["publish", str(folder), "--to", "org/name", "--dry-run"], ["merge", str(folder), "out"]):
        assert main([*command, "--split", "split_3"]) == 2  # it was ignored, and split_0 was published
        assert "fine-tuned on split_0\n  expected: split_3" in capsys.readouterr().err
    assert main(["publish", "small", "--to", "org/name", "--split", "split_3", "--dry-run"]) == 2
    assert main(["publish", "small", "--to", "name", "--dry-run"]) == 2
    assert main(["publish", "small", "--to", "org/na me", "--dry-run"]) == 2

    assert "SPLIT_ID=split_3 chatbench finetune small" in capsys.readouterr().err


SECRET = "s3cr3t-value"


@pytest.mark.parametrize(
    ("name", "file", "content", "said"),
    [
        ("MY_API_KEY", "trainer_log.jsonl", SECRET, "the value of MY_API_KEY"),
        ("hf_token", "trainer_log.jsonl", f'{{"note": "{SECRET}"}}', "the value of hf_token"),
        # Across two pages of a large file.
        ("CLIENT_SECRET", "model.safetensors", "." * (mmap.PAGESIZE - 6) + SECRET + "." * 50, "the value of CLIENT_S"),
        ("NAME", "README.md", f"See {Path.home() / 'notes'}\n", ".* a path on this machine"),
    ],
)
def test_a_secret_of_the_environment_and_a_path_of_this_machine_are_found_and_no_secret_is_repeated(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, file: str, content: str, said: str
) -> None:
    monkeypatch.setenv(name, SECRET)
    (folder / file).write_text(content)

    with pytest.raises(ChatbenchError, match=f"{file}: contains {said}") as refused:
        refuse_leaks(file, folder / file, folder) if file == "model.safetensors" else publication(folder, "org/name")
    assert SECRET not in str(refused.value)


def test_an_adapter_goes_out_with_its_hub_base_and_is_refused_with_a_base_nobody_else_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    adapter = save_adapter(tmp_path / "adapter", save_tiny_model(tmp_path / "base"), ["q_proj"])
    with pytest.raises(ChatbenchError, match="which nobody else has") as refused:
        publication(adapter, "org/name")
    assert "chatbench merge" in refused.value.fix

    # The same adapter, as if its base were the one that comes with the package: its path is of this machine.
    record = {**json.loads((adapter / "chatbench.json").read_text()), "base": "package:tiny_base"}
    write_record(adapter, record)
    write_text(adapter / "README.md", model_card(record, adapter=True))
    planned = publication(adapter, "org/name")

    config = json.loads(planned.files["adapter_config.json"])  # type: ignore[arg-type]  # changed, so not a path
    assert config["base_model_name_or_path"] == "package:tiny_base"
    assert "adapter_model.safetensors" in planned.files


def test_what_is_no_finished_model_is_not_published(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ChatbenchError, match=r"no chatbench\.json"):
        publication(save_tiny_model(tmp_path / "other"), "org/name")
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-1])
    with pytest.raises(ChatbenchError, match="damaged"):
        publication(folder, "org/name")
