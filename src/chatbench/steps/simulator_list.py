"""The list of simulators: what each plays, what it needs, and how it is named."""

from __future__ import annotations

from dataclasses import dataclass

from chatbench.protocol.styles import STYLES


@dataclass(frozen=True, slots=True)
class ListedSimulator:
    """One way to have a simulator; `example` is a spec that can be read."""

    what: str
    needs: str
    example: str


SIMULATORS = (
    ListedSimulator("the fine-tuned model of the split", "chatbench finetune", "tuned"),
    ListedSimulator("... asked for the problem statement", "chatbench finetune", "two-step-problem:tuned"),
    ListedSimulator("... with the paper's fixed first message", "chatbench finetune", "two-step-help:tuned"),
    ListedSimulator("... of another folder, adapter or merged", "a model folder", "two-step:local:models/mine/{split}"),
    ListedSimulator(
        "... behind an endpoint, in the plain-text form", "/v1/completions", "two-step:completions:mine-{split}@URL"
    ),
    ListedSimulator("... behind an endpoint, as a chat", "/v1/chat/completions", "two-step:openai:mine-{split}@URL"),
    ListedSimulator("a chat model, only prompted", "an endpoint and its key", "two-step:openai:gpt-4o"),
    ListedSimulator("... on this machine", "a folder or a hub id", "two-step:local:FOLDER"),
    ListedSimulator("the IQA-EVAL baseline", "an endpoint, or local:", "iqa-eval:openai:gpt-4o"),
    ListedSimulator("UserLM-8b, or a model like it", "a folder or a hub id", "userlm:local:microsoft/UserLM-8b"),
    ListedSimulator(
        "... behind an endpoint", "a server with its chat template", "userlm:openai:microsoft/UserLM-8b@URL"
    ),
)


def simulator_lines() -> list[str]:
    """A line for each simulator, the columns aligned, under their heads; then what may stand for what."""
    rows = [("simulator", "needs", "--simulator"), *((one.what, one.needs, one.example) for one in SIMULATORS)]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    return [
        *(f"{what:<{widths[0]}}  {needs:<{widths[1]}}  {example}" for what, needs, example in rows),
        "",
        f"--simulator is tuned or STYLE:KIND:ARGUMENT. Styles: {', '.join(STYLES)}.",
        "Kinds: tuned, local:FOLDER_OR_HUB_ID, openai:ADDRESS, completions:ADDRESS. ADDRESS is MODEL[@URL][#KEY_NAME].",
        "{split} is filled in with the name of each split.",
    ]
