"""The finished folder: every file of it, a card that says what it is, and lines of Python that load it."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tests.support.chat_templates import EXACT, save_chat_model
from tests.support.finished_folders import DATA, run_record, save_adapter
from tests.support.prepared_files import write_prepared
from tests.support.tiny_models import save_tiny_model

from chatbench.data.workspace import Workspace
from chatbench.metrics.text import Perplexity, TunedAndBase
from chatbench.models.chat_template import ChatForm
from chatbench.models.encoding import PlainForm
from chatbench.models.loading import load, load_tokenizer
from chatbench.protocol.prompts import FOUR_OPTIONS, simulator_messages
from chatbench.publishing.model_card import FOLDER_LINE, QUESTION, model_card, update_card, with_folder
from chatbench.scoring.eval_ppl import eval_ppl
from chatbench.training.checkpoints import chat_template_use, loss_curve
from chatbench.training.finetune import finetune

MESSAGES = simulator_messages(QUESTION, (), asked_for=FOUR_OPTIONS)
TUNED, BASE = Perplexity(3.25, 0.75, 40.0, 34, 77, 6), Perplexity(9.5, 1.5, 80.0, 34, 77, 6)


def snippet_of(card: str) -> str:
    match = re.search(r"^```python\n(.*?)^```", card, re.MULTILINE | re.DOTALL)
    assert match is not None
    return match[1]


def ran(snippet: str) -> dict[str, Any]:
    """The names that the lines of a card leave behind; what they print goes by."""
    names: dict[str, Any] = {}
    exec(snippet, names)
    return names


def head_of(card: str) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(card.split("---\n")[1])
    return loaded


def assert_same_model(names: dict[str, Any], folder: Path) -> None:
    """The card's model has the logits of the one that chatbench loads, where an adapter is merged: up to rounding."""
    ids, expected = names["inputs"]["input_ids"], load(str(folder), device="cpu")
    with torch.inference_mode():
        assert torch.allclose(names["model"].eval()(ids).logits, expected.model(ids).logits, atol=1e-5)
    assert ids[0].tolist() == PlainForm(expected.tokenizer).prompt_ids(MESSAGES)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("bases") / "small", context=1024)


@pytest.fixture(scope="module")
def trained(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data and results of one full and one LoRA run on a prepared split."""
    place = tmp_path_factory.mktemp("runs")
    data = write_prepared(place / "data")
    for method in ("full", "lora"):
        flags = {"max_steps": 2, "precision": "fp32", "logging_steps": 1, "method": method}
        finetune(str(base), workspace=Workspace(data, place / method), flags=flags, say=lambda _: None)
    return place


@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_finished_folder_holds_everything_that_repeats_and_explains_it(
    trained: Path, base: Path, method: str
) -> None:
    # What loads it: tests/training/test_run.py.
    folder = trained / method / "models" / "small" / "split_0"

    resolved = json.loads((folder / "resolved_settings.json").read_text())
    assert resolved["settings"]["max_steps"] == {"value": 2, "origin": "--max-steps"}
    assert resolved["settings"]["learning_rate"] == {"value": 5e-5, "origin": "default"}
    log = [json.loads(line) for line in (folder / "trainer_log.jsonl").read_text().splitlines()]
    assert (folder / "loss_curve.png").read_bytes() == loss_curve(log, "small, split_0")
    assert json.loads((folder / "config.json").read_text())["vocab_size"] == 320
    card = (folder / "README.md").read_text()
    assert "12 for training, 6 held out" in card
    assert "Study `sums`" in card
    assert "| max_steps | `2` | command line |" in card
    assert str(base.parent) not in card  # no path of the machine


@pytest.mark.parametrize("method", ["full", "lora"])
def test_the_lines_of_the_card_load_the_model_wherever_its_folder_was_taken(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    folder = Path(shutil.copytree(trained / method / "models" / "small" / "split_0", tmp_path / "taken" / "model"))
    snippet = snippet_of((folder / "README.md").read_text())

    monkeypatch.chdir(folder)
    assert_same_model(ran(snippet), folder)
    assert "temperature=1.0, top_k=0, top_p=1.0, repetition_penalty=1.0" in snippet  # a base of the hub has its own

    monkeypatch.chdir(tmp_path)
    assert_same_model(ran(snippet.replace(FOLDER_LINE, 'folder = "taken/model"')), folder)


def test_the_lines_of_a_published_card_load_an_adapter_and_its_base_by_their_names(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # transformers takes a folder `org/name` under the working directory before it asks the hub.
    adapter = save_adapter(tmp_path / "lab" / "simulator", base, ["q_proj"])
    shutil.copytree(base, tmp_path / "org" / "base")
    record = json.loads((adapter / "chatbench.json").read_text())
    hub = {**record, "base": "org/base", "base_weights": "org/base@5c1e"}
    card = with_folder(model_card(hub, adapter=True), "lab/simulator")

    monkeypatch.chdir(tmp_path)
    assert_same_model(ran(snippet_of(card)), adapter)
    assert "revision='5c1e'" in card
    assert head_of(card) == {
        "base_model": "org/base", "library_name": "peft", "pipeline_tag": "text-generation",
        "tags": ["chatbench", "user-simulator", "lora"],
    }  # fmt: skip


def test_an_adapter_on_a_base_that_comes_with_chatbench_loads_through_chatbench(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from chatbench.models.loading import known_weights, local_folder

    packaged = local_folder("package:tiny_base")
    assert packaged is not None
    adapter = save_adapter(tmp_path / "adapter", packaged, ["q_proj"])
    record = json.loads((adapter / "chatbench.json").read_text())
    record |= {"base": "package:tiny_base", "base_weights": known_weights("package:tiny_base", 0)}
    (adapter / "chatbench.json").write_text(json.dumps(record))

    monkeypatch.chdir(adapter)
    assert_same_model(ran(snippet_of(model_card(record, adapter=True))), adapter)


@pytest.mark.parametrize("template", EXACT)
def test_the_card_of_a_chat_model_asks_through_its_template_exactly_as_chatbench_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, template: str
) -> None:
    # Templates without a system role, with thoughts, or with a date need more than apply_chat_template's defaults.
    folder = save_chat_model(tmp_path / "model", EXACT[template])
    tokenizer = load_tokenizer(str(folder))
    record = {**run_record(folder, template="chat"), "chat_template": chat_template_use(tokenizer)}
    card = model_card(record, adapter=False)

    monkeypatch.chdir(folder)
    names = ran(snippet_of(card).replace("max_new_tokens=200", "max_new_tokens=3"))

    assert names["inputs"]["input_ids"][0].tolist() == ChatForm(tokenizer).prompt_ids(MESSAGES)
    assert "through its chat template" in card
    assert "[SYSTEM]" not in card


def test_names_that_others_chose_mean_nothing_in_the_card(base: Path) -> None:
    nasty = "a`b|c\n---\nlicense: mit\n# Title <script>"
    record = run_record(base, lora_targets=["q|_proj"], method="lora")
    record |= {"model": nasty, "data": {**DATA, "study": nasty}, "base": f"/home/me/{nasty}", "split": nasty}

    card = model_card(record, adapter=True)

    assert set(head_of(card)) == {"library_name", "pipeline_tag", "tags"}
    text = card.replace(snippet_of(card), "")
    assert [line for line in text.splitlines() if line.startswith("# ")] == [
        "# User simulator ``a`b|c --- license: mit # Title <script>``, ``a`b|c --- license: mit # Title <script>``"
    ]
    assert "| lora_targets | `q\\|_proj` | command line |" in card
    assert "/home/me" not in card
    compile(snippet_of(card), "card", "exec")


def test_a_card_names_the_data_set_of_the_hub_guesses_no_licence_and_loads_a_quantised_base_as_in_training(
    base: Path,
) -> None:
    data = {**DATA, "hub_dataset": "microsoft/ChatBench", "revision": "abc"}
    record = run_record(base, method="lora", load_in_4bit=True)
    hub = {**record, "base": "org/base", "base_weights": "org/base@5c1e", "data": data}

    card = model_card(hub, adapter=True)

    assert head_of(card)["datasets"] == ["microsoft/ChatBench"]
    assert "license" not in head_of(card)
    assert "downloaded from `microsoft/ChatBench` at `abc`" in card
    assert "quantization_config=BitsAndBytesConfig(load_in_4bit=True" in snippet_of(card)
    assert "quantization_config" not in snippet_of(model_card({**hub, "merged": {"dtype": "float32"}}, adapter=False))


def test_held_out_perplexity_is_written_into_its_section_alone(base: Path, tmp_path: Path) -> None:
    card, measured = tmp_path / "README.md", {"all": TunedAndBase(TUNED, BASE)}
    assert not update_card(tmp_path, measured)
    assert not card.exists()
    card.write_text("mine")
    assert not update_card(tmp_path, measured)
    assert card.read_text() == "mine"
    card.write_text(model_card(run_record(base), adapter=False) + "\nA line of my own.\n")
    before = card.read_text()

    assert update_card(tmp_path, measured)
    first = card.read_text()
    assert update_card(tmp_path, measured)

    assert card.read_text() == first
    assert "| all | 6 | 34 | 3.250 | 9.500 | 0.7500 | 1.5000 |" in first
    assert "Not measured yet" not in first
    assert first.partition("## Held-out")[0] == before.partition("## Held-out")[0]
    assert first.endswith("\nA line of my own.\n")


def test_eval_ppl_puts_its_result_on_the_card_also_when_it_was_known_before(trained: Path, base: Path) -> None:
    card = trained / "full" / "models" / "small" / "split_0" / "README.md"
    unmeasured = card.read_text()

    (scored,) = eval_ppl(str(base), workspace=Workspace(trained / "data", trained / "full"), say=lambda _: None)
    measured = card.read_text()
    assert f"| all | 6 | {scored.finetuned.tokens} | {scored.finetuned.perplexity:.3f} | " in measured
    assert f"| answer | 2 | {scored.by_kind['answer'].finetuned.tokens} | " in measured

    card.write_text(unmeasured)
    eval_ppl(str(base), workspace=Workspace(trained / "data", trained / "full"), say=lambda _: None)
    assert card.read_text() == measured


def test_the_curve_is_drawn_from_losses_alone_and_is_the_same_each_time() -> None:
    log = [{"step": step, "loss": 3.0 - step / 10} for step in range(9)] + [{"step": 8, "eval_loss": 2.5}]

    first = loss_curve(log, "tiny $x$, split_0")

    assert first is not None
    assert first.startswith(b"\x89PNG")
    assert loss_curve(log, "tiny $x$, split_0") == first
    assert loss_curve(log[:-1], "tiny $x$, split_0") != first
    assert loss_curve([{"step": 1, "learning_rate": 1.0}, {"step": 2, "loss": float("nan")}], "t") is None
