"""The simulated chats of one split, as scoring needs them, checked to belong to the prepared data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from chatbench.core.configurations import differences
from chatbench.core.errors import ChatbenchError
from chatbench.core.files import read_json
from chatbench.core.records import Split
from chatbench.data.splits import question_set_sha256
from chatbench.data.workspace import Workspace
from chatbench.metrics.names import BASE_MODEL, FINE_TUNED, Predictor
from chatbench.metrics.pairs import Simulation
from chatbench.simulation.log import FIX, has_chats, read_conversations, settings_path
from chatbench.simulation.participants import SPLIT_MARK


@dataclass(frozen=True, slots=True)
class SplitChats:
    """A split with its simulations, the scored simulator's first.

    `settings` and `assistants` are by predictor: the settings of the run, and the identity of each assistant by name.
    """

    split: Split
    simulations: tuple[Simulation, ...]
    settings: Mapping[Predictor, Mapping[str, object]]
    assistants: Mapping[Predictor, Mapping[str, object]]

    @property
    def simulator(self) -> Mapping[str, object]:
        """Identity of the scored simulator."""
        return cast(Mapping[str, object], self.settings[FINE_TUNED]["simulator"])


def read_chats(workspace: Workspace, model: str, split_id: str) -> SplitChats:
    """The chats of the fine-tuned simulator, and of the base model if there are any.

    Raises:
        ChatbenchError: the fine-tuned simulator's chats are missing, or chats belong to other data or another split.
    """
    split = workspace.split(split_id)
    paths = {
        FINE_TUNED: workspace.conversations(model, split.id),
        BASE_MODEL: workspace.conversations(model, split.id, base_model=True),
    }
    if not has_chats(paths[FINE_TUNED]):
        raise ChatbenchError(
            f"{paths[FINE_TUNED]}: missing or empty",
            expected=f"simulated chats of {model} on {split.id}",
            fix=f"simulate first: chatbench simulate {model} --assistant SPEC --split {split.id}",
        )
    simulations = []
    settings: dict[Predictor, Mapping[str, object]] = {}
    assistants: dict[Predictor, Mapping[str, object]] = {}
    for predictor, path in paths.items():
        if has_chats(path):
            settings[predictor], assistants[predictor] = settings_of(path)
            _check_data(path, settings[predictor], workspace, split)
            chats = tuple(read_conversations(path))
            if foreign := sorted({chat.question_id for chat in chats} - set(split.question_ids("test"))):
                raise ChatbenchError(
                    f"{path}: {len(foreign)} questions are not held out in {split.id}, such as {foreign[0]}",
                    expected="chats about held-out questions only",
                    fix=FIX,
                )
            count = int(cast(int, settings[predictor]["conversations"]))
            simulations.append(Simulation(called(predictor, settings[predictor], split_id), chats, count))
    return SplitChats(split, tuple(simulations), settings, assistants)


def called(predictor: Predictor, settings: Mapping[str, object], split_id: str) -> Predictor:
    """The predictor with its name: model and style if it is not `tuned`; a split's name becomes `{split}`."""
    if settings.get("simulator_kind", "tuned") == "tuned":
        return predictor
    simulator = cast(Mapping[str, object], settings["simulator"])
    model = str(simulator.get("name")).removesuffix(f" {split_id}").replace(split_id, SPLIT_MARK)
    kind = f"{settings.get('style')}, answer model" if simulator.get("answer_model") else settings.get("style")
    return replace(predictor, name=f"{model} ({kind})")


def settings_of(log: Path) -> tuple[Mapping[str, object], Mapping[str, object]]:
    """The settings of the run that wrote a log, and the identity of each of its assistants."""
    path = settings_path(log)
    found = read_json(path, fix=FIX)
    try:
        content = cast(Mapping[str, Mapping[str, object]], found)
        settings, assistants = content["settings"], content["assistants"]
        for name in ("questions_sha256", "held_out_sha256", "conversations", "simulator"):
            settings[name]
    except (KeyError, TypeError) as error:
        raise ChatbenchError(f"{path}: {error!r}", expected="settings of a simulation", fix=FIX) from error
    return settings, assistants


def _check_data(log: Path, settings: Mapping[str, object], workspace: Workspace, split: Split) -> None:
    held_out = question_set_sha256([workspace.study.questions[each] for each in split.question_ids("test")])
    expected = {"questions_sha256": workspace.manifest.questions_sha256, "held_out_sha256": held_out}
    for each in differences(expected, {name: settings[name] for name in expected}):
        what = "other questions" if each.name == "questions_sha256" else f"another {split.id}"
        raise ChatbenchError(
            f"{log}: simulated on {what} ({each.name} {str(each.other)[:12]})",
            expected=f"chats about the prepared data ({each.name} {str(each.one)[:12]})",
            fix=f"{FIX}, or pass the --data folder that the chats were made with",
        )


def simulated_splits(workspace: Workspace, model: str, splits: Sequence[str] | None) -> tuple[list[str], list[str]]:
    """Ids of the splits to score, and a note on each prepared split without chats.

    Raises:
        ChatbenchError: there are none.
    """
    prepared = workspace.manifest.split_ids
    if splits is not None:
        for split_id in splits:
            workspace.split(split_id)
            if not any(has_chats(workspace.conversations(model, split_id, base_model=base)) for base in (False, True)):
                raise ChatbenchError(
                    f"{workspace.conversations(model, split_id)}: missing or empty",
                    expected=f"simulated chats of {model} on {split_id}",
                    fix=f"simulate first: chatbench simulate {model} --assistant SPEC --split {split_id}",
                )
        return list(splits), []
    found = [s for s in prepared if has_chats(workspace.conversations(model, s))]
    if not found:
        raise ChatbenchError(
            f"{workspace.simulations(model)}: no simulated chats of {model}",
            expected="conversations.jsonl in a folder per split",
            fix=f"simulate first: chatbench simulate {model} --assistant SPEC",
        )
    missing = [split_id for split_id in prepared if split_id not in found]
    command = f"chatbench simulate {model} --assistant SPEC"
    return found, [f"{s}: not simulated yet, left out; {command} --split {s}" for s in missing]
