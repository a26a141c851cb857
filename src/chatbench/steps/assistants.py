"""The assistants of a simulation, from what stands on the command line.

    [NAME=]KIND:ARGUMENT

    scripted:strong, scripted:weak, scripted:all     the scripted assistants of the sample study
    replay:ASSISTANT, replay:all                     recorded responses of one of the study's assistants, or of each
    local:FOLDER_OR_HUB_ID                           a language model on this machine
    openai:MODEL[@BASE_URL][#NAME_OF_KEY_VARIABLE]   a model behind an OpenAI-compatible endpoint

NAME is what the study calls that assistant, so that simulated and human accuracy stand side by side; it is needed only
where it differs, as in `gpt-4o=openai:gpt-4o-2024-08-06`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

from chatbench.core.errors import ChatbenchError
from chatbench.core.records import Study
from chatbench.models.endpoint import read_address
from chatbench.protocol.dialogue import FunctionSpeaker, Reply, Request, Speaker

if TYPE_CHECKING:
    from chatbench.models.endpoint import EndpointOptions

Kind = Literal["scripted", "replay", "local", "openai"]
SCRIPTED = ("scripted-strong", "scripted-weak")
EXPECTED = (
    "[NAME=]scripted:strong|weak|all, replay:ASSISTANT|all, local:FOLDER_OR_HUB_ID, or openai:MODEL[@URL][#KEY_NAME]"
)
_SPEC = re.compile(r"(?:(?P<name>[^=:]+)=)?(?P<kind>scripted|replay|local|openai):(?P<argument>.+)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class AssistantSpec:
    """One assistant: `name` as the study calls it, and what plays it."""

    name: str
    kind: Kind
    argument: str


def read_specs(texts: Sequence[str], recorded: Sequence[str]) -> list[AssistantSpec]:
    """One spec per assistant, `all` spelled out; `recorded` are the assistants that the study has chats with.

    Raises:
        ChatbenchError: no assistant, one that cannot be read, or two of the same name.
    """
    if not texts:
        raise ChatbenchError("no assistant is given", expected=EXPECTED, fix="add --assistant scripted:all")
    specs = [spec for text in texts for spec in _specs(text, recorded)]
    twice = [name for name, count in Counter(spec.name for spec in specs).items() if count > 1]
    if twice:
        raise ChatbenchError(f"two assistants are called {twice[0]!r}", fix="name one of them: NAME=KIND:ARGUMENT")
    return specs


def _specs(text: str, recorded: Sequence[str]) -> list[AssistantSpec]:
    match = _SPEC.fullmatch(text)
    if match is None:
        # What stands after # may be a key by mistake.
        raise ChatbenchError(f"--assistant {text.partition('#')[0]!r} cannot be read", expected=EXPECTED)
    name, argument, kind = match["name"], match["argument"], cast(Kind, match["kind"])
    if kind == "local":
        return [AssistantSpec(name or Path(argument).name, kind, argument)]
    if kind == "openai":
        read_address(argument)  # now: what is wrong with it is told before anything else is looked at
        return [AssistantSpec(name or re.split("[@#]", argument)[0], kind, argument)]
    known = recorded if kind == "replay" else SCRIPTED
    if argument == "all" and name is None and known:
        return [AssistantSpec(each, kind, each) for each in known]
    chosen = argument if kind == "replay" else f"scripted-{argument}"
    if chosen not in known:
        has = "strong, weak or all" if kind == "scripted" else ", ".join(known) or "no recorded chats in this study"
        raise ChatbenchError(
            f"--assistant {text!r}: no assistant {argument!r} (NAME= goes with one only)", expected=has
        )
    return [AssistantSpec(name or chosen, kind, chosen)]


def open_assistant(
    spec: AssistantSpec, study: Study, *, temperature: float, max_tokens: int, options: EndpointOptions | None = None
) -> Speaker:
    """The speaker of a spec, ready and checked: whatever would fail for all conversations fails here.

    `options` say how an endpoint is asked. A model behind an endpoint is both a `Speaker` and a `ConcurrentSpeaker`.

    Raises:
        ChatbenchError: the model cannot be loaded, or the endpoint cannot be used.
    """
    if spec.kind == "scripted":
        return _scripted(spec.argument)
    if spec.kind == "replay":
        from chatbench.studies.replay import replay_assistant

        return replay_assistant(study.conversations, spec.argument)
    if spec.kind == "local":
        from chatbench.models.loading import load
        from chatbench.models.speakers import LocalAssistant

        name = Path(spec.argument).name
        return LocalAssistant(load(spec.argument), name, temperature=temperature, max_tokens=max_tokens)
    from chatbench.models.endpoint_speakers import open_endpoint_speaker

    return open_endpoint_speaker(
        spec.argument, kind="chat", role="assistant", temperature=temperature, max_tokens=max_tokens, options=options
    )


def _scripted(name: str) -> FunctionSpeaker:
    from chatbench.studies.sample.assistants import scripted_reply

    def reply(request: Request) -> Reply:
        return Reply(scripted_reply(name, request.messages, request.seed))

    return FunctionSpeaker(reply, {"kind": "scripted", "name": name})
