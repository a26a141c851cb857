"""Participants of a simulation, from their specs on the command line: the simulator and the assistants.

The simulator:

    tuned                        the model that was fine-tuned on the split, in the form of its training (the default)
    STYLE:tuned                  the same, prompted in another style, such as two-step-problem
    STYLE:local:FOLDER           a model on this machine (a folder or a GGUF file), or a Hub id
    STYLE:openai:ADDRESS         a chat model behind an OpenAI-compatible endpoint
    STYLE:completions:ADDRESS    a model fine-tuned on the plain-text form, behind /v1/completions

STYLE is one of protocol/prompt_styles.py; ADDRESS is MODEL[@BASE_URL[,BASE_URL...]][#NAME_OF_KEY_VARIABLE]. `{split}`
in a folder or an address is replaced by the split's name, so each split is simulated by the model, or the adapter,
that never saw its questions. A local model that chatbench fine-tuned is prompted in the form of its training; any other
one through its chat template, or in the plain-text form if it has none.

The assistants, each as [NAME=]KIND:ARGUMENT:

    scripted:strong, scripted:weak, scripted:all     the scripted assistants of the sample study
    scripted:X                                       one in between, 0 (weak) to 1 (strong)
    replay:ASSISTANT, replay:all                     recorded responses of one of the study's assistants, or of each
    local:FOLDER_OR_HUB_ID                           a language model on this machine, or a GGUF file
    openai:ADDRESS                                   a model behind an OpenAI-compatible endpoint

NAME is what the study calls that assistant, so that simulated and human accuracy are compared; it is needed only
if it differs, as in `gpt-4o=openai:gpt-4o-2024-08-06`.

With `replay`, a simulator can be scored without any assistant model. For a simulated prompt it returns the recorded
response whose recorded prompt, to the same assistant about the same question, is nearest by cosine of the prompts'
words, weighted by TF-IDF over that question's recorded prompts, so that words in every prompt about the question count
little. Among equally near ones, those at the same depth of the chat come first (a preference, not a condition: an early
prompt may be repeated late). If several are still equal, as when ten people pasted the question, one of them is drawn
by the request's seed: always taking the first would show one recorded answer and hide how often the assistant was
right. It uses all recorded chats about the question, held out or not: they are the assistant's record, not the
simulator's training text. It cannot answer a question without a record: such pairs are left out of a simulation
(`Task.unrecorded`); a single chat, or one of `chatbench.api.run`, ends as failed.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast, get_args

from chatbench.core.errors import ChatbenchError
from chatbench.core.records import Conversation, Study
from chatbench.core.settings import base_of, is_local, resolve_settings
from chatbench.data.workspace import Workspace
from chatbench.endpoints.address import SYSTEM_ROLE, EndpointOptions, read_addresses, without_secrets
from chatbench.metrics.names import EVERY_ASSISTANT, MEAN_OF_ASSISTANTS
from chatbench.metrics.pairs import Pair
from chatbench.protocol.dialogue import AnyParticipant, Failure, FunctionParticipant, Participant, Reply, Request
from chatbench.protocol.prompt_styles import STYLES, StyleName

if TYPE_CHECKING:
    from chatbench.models.encoding import TextForm
    from chatbench.models.loading import Loaded


Kind = Literal["scripted", "replay", "local", "openai", "opened"]
SCRIPTED = ("scripted-strong", "scripted-weak")
EXPECTED_ASSISTANT = (
    "[NAME=]scripted:strong|weak|all, replay:ASSISTANT|all, local:FOLDER_OR_HUB_ID[#thinking], or "
    "openai:MODEL[@URL][#KEY_NAME]"
)
LEAST_TEMPERATURE, MOST_TEMPERATURE = 0.001, 100
THINKING_MARK = "#thinking"
"""Suffix of a local model that is to think first, by its chat template."""
_ASSISTANT_SPEC = re.compile(
    r"(?:(?P<name>[^=:]+)=)?(?P<kind>scripted|replay|local|openai):(?P<argument>.+)", re.DOTALL
)


@dataclass(frozen=True, slots=True)
class AssistantSpec:
    """One assistant: `name` as in the study, and what plays it; an opened one brings its participant."""

    name: str
    kind: Kind
    argument: str
    participant: AnyParticipant | None = None


def read_specs(
    texts: Sequence[str | AssistantSpec], recorded: Sequence[str], option: str = "--assistant"
) -> list[AssistantSpec]:
    """One spec per assistant, with `all` expanded; `recorded` are the assistants that the study has chats with.

    `option` is where they were given, for messages.

    Raises:
        ChatbenchError: no assistant, one that cannot be parsed, or two with the same name.
    """
    if not texts:
        raise ChatbenchError("no assistant is given", expected=EXPECTED_ASSISTANT, fix="add --assistant scripted:all")
    specs = [spec for each in texts for spec in (_specs(each, recorded, option) if isinstance(each, str) else [each])]
    if taken := {EVERY_ASSISTANT, MEAN_OF_ASSISTANTS} & {spec.name for spec in specs}:
        raise ChatbenchError(f"{option}: an assistant called {min(taken)!r}, as totals are", fix="give it another name")
    if twice := [name for name, count in Counter(spec.name for spec in specs).items() if count > 1]:
        raise ChatbenchError(f"two assistants are called {twice[0]!r}", fix="rename one of them: NAME=KIND:ARGUMENT")
    return specs


def active_at(addresses: Iterable[str], options: EndpointOptions | None) -> int:
    """How many dialogues with participants at these addresses are active at once.

    More than the endpoint replies to: while some wait for one side, others keep the other side busy.
    """
    places = max((len(read_addresses(each)) for each in addresses), default=1)
    return places * 2 * (options or EndpointOptions()).concurrency


def refuse_missing(specs: Iterable[AssistantSpec]) -> None:
    """Checks what a spec says about this machine before anything is opened.

    Raises:
        ChatbenchError: a local assistant is a path that does not exist.
    """
    for spec in specs:
        if spec.kind == "local":
            is_local(spec.argument)


def _specs(text: str, recorded: Sequence[str], option: str) -> list[AssistantSpec]:
    match = _ASSISTANT_SPEC.fullmatch(text)
    if match is None:
        raise ChatbenchError(f"{option} {without_secrets(text)!r} cannot be read", expected=EXPECTED_ASSISTANT)
    name, argument, kind = match["name"], match["argument"], cast(Kind, match["kind"])
    if kind == "local":
        return [AssistantSpec(name or Path(argument).name, kind, argument)]
    if kind == "openai":
        read_addresses(argument)  # now, so that an error in it is reported first
        return [AssistantSpec(name or re.split("[@#]", argument)[0], kind, argument)]
    known = recorded if kind == "replay" else SCRIPTED
    if argument == "all" and name is None and known:
        return [AssistantSpec(each, kind, each) for each in known]
    chosen = argument if kind == "replay" else f"scripted-{argument}"
    if chosen not in known and not (kind == "scripted" and is_scripted(chosen)):
        has = (
            "strong, weak, all, or a number in 0..1"
            if kind == "scripted"
            else ", ".join(known) or "no recorded chats in this study"
        )
        raise ChatbenchError(
            f"{option} {without_secrets(text)!r}: no such assistant (NAME= takes one assistant)", expected=has
        )
    return [AssistantSpec(name or chosen, kind, chosen)]


def refuse_temperature(name: str, value: float) -> None:
    """Check a sampling temperature; logits divided by a smaller one than `LEAST_TEMPERATURE` may overflow.

    Raises:
        ChatbenchError: it is neither 0 nor within the range.
    """
    if value != 0 and not LEAST_TEMPERATURE <= value <= MOST_TEMPERATURE:
        expected = f"0 (greedy), or {LEAST_TEMPERATURE} to {MOST_TEMPERATURE}"
        raise ChatbenchError(f"{name} is {value}", expected=expected)


def is_scripted(name: str) -> bool:
    """Whether a scripted assistant has this name."""
    from chatbench.sample.participants import share_of

    try:
        share_of(name)
    except ChatbenchError:
        return False
    return True


def open_assistant(
    spec: AssistantSpec,
    study: Study,
    *,
    temperature: float,
    max_tokens: int,
    reasoning_effort: str = "",
    dtype: str = "auto",
    options: EndpointOptions | None = None,
) -> Participant:
    """Opens and checks the participant of a spec: whatever would fail for all conversations fails here.

    `options` say how an endpoint is asked; a model behind one may be a `ConcurrentParticipant`, and is sent the
    `reasoning_effort`. A local model is loaded as `dtype`.

    Raises:
        ChatbenchError: the model cannot be loaded, or the endpoint cannot be used.
    """
    if spec.kind == "scripted":
        from chatbench.sample.participants import scripted_reply

        def reply(request: Request) -> Reply:
            return Reply(scripted_reply(spec.argument, request.messages, request.seed))

        return FunctionParticipant(reply, {"kind": "scripted", "name": spec.argument})
    if spec.kind == "replay":
        return replay_assistant(study.conversations, spec.argument)
    if spec.kind == "local":
        from chatbench.models.loading import load, named_dtype
        from chatbench.models.local_participants import LocalAssistant

        source = spec.argument.removesuffix(THINKING_MARK)
        return LocalAssistant(
            load(source, dtype=named_dtype(dtype)), Path(source).name, temperature=temperature, max_tokens=max_tokens,
            thinking=source != spec.argument,
        )  # fmt: skip
    from chatbench.endpoints.participant import open_endpoint_participant

    return open_endpoint_participant(
        spec.argument, kind="chat", role="assistant", temperature=temperature, max_tokens=max_tokens,
        reasoning_effort=reasoning_effort, options=options,
    )  # fmt: skip


def notes_on(participants: Iterable[AnyParticipant]) -> list[str]:
    """Notes to print once before a run: parameters that an endpoint refused, and addresses that cannot be reached."""
    participants = list(participants)
    left_out = {str(one.identity["name"]): one.identity.get("left_out") for one in participants}
    return [
        f"{name} does not accept {', '.join(map(str, what))}: omitted"
        + ", and the system message put before the user's" * (SYSTEM_ROLE in what)
        for name, what in left_out.items()
        if isinstance(what, list)
    ] + [
        f"{url}: cannot connect; not used until it answers"
        for url in dict.fromkeys(url for one in participants for url in getattr(one, "unreachable", ()))
    ]


SIMULATORS = (
    ("the fine-tuned model of the split", "chatbench finetune", "tuned"),
    ("... asked for the problem statement", "chatbench finetune", "two-step-problem:tuned"),
    ("... with the paper's fixed first message", "chatbench finetune", "two-step-help:tuned"),
    ("... of another folder, adapter or merged", "a model folder", "two-step:local:models/mine/{split}"),
    ("... behind an endpoint, in the plain-text form", "/v1/completions", "two-step:completions:mine-{split}@URL"),
    ("... behind an endpoint, as a chat", "/v1/chat/completions", "two-step:openai:mine-{split}@URL"),
    ("a chat model, only prompted", "an endpoint and its key", "two-step:openai:gpt-4o"),
    ("... on this machine", "a folder or a hub id", "two-step:local:FOLDER"),
    ("the IQA-EVAL baseline", "an endpoint, or local:", "iqa-eval:openai:gpt-4o"),
    ("UserLM-8b, or a model like it", "a folder or a hub id", "userlm:local:microsoft/UserLM-8b"),
    ("... behind an endpoint", "a server with its chat template", "userlm:openai:microsoft/UserLM-8b@URL"),
)
"""Each simulator: what it is, what it needs, and an example spec."""


def simulator_lines() -> list[str]:
    """A table of the simulators, a line each, and notes on how a spec is written."""
    rows = [("simulator", "needs", "--simulator"), *SIMULATORS]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    return [
        *(f"{what:<{widths[0]}}  {needs:<{widths[1]}}  {example}" for what, needs, example in rows),
        "",
        f"--simulator is tuned or STYLE:KIND:ARGUMENT. Styles: {', '.join(STYLES)}.",
        "Kinds: tuned, local:FOLDER_OR_HUB_ID, openai:ADDRESS, completions:ADDRESS.",
        "ADDRESS is MODEL[@URL[,URL...]][#KEY_NAME].",
        "{split} is replaced by the name of each split.",
    ]


SimulatorKind = Literal["tuned", "local", "openai", "completions"]
SPLIT_MARK = "{split}"
_SIMULATOR_SPEC = re.compile(r"(?P<style>[^:]+):(?P<kind>[^:]+)(?::(?P<argument>.+))?", re.DOTALL)


@dataclass(frozen=True, slots=True)
class SimulatorSpec:
    """One simulator: how it is prompted and what plays it; `argument` is "" for the tuned one."""

    style: StyleName
    kind: SimulatorKind
    argument: str = ""

    def text(self) -> str:
        """The spec as on the command line; it holds the name of a key's variable, never a key."""
        return ":".join(filter(None, (self.style, self.kind, self.argument)))


TUNED = SimulatorSpec("two-step", "tuned")


def read_simulator_spec(text: str) -> SimulatorSpec:
    """Reads `tuned` or `STYLE:KIND[:ARGUMENT]`.

    >>> read_simulator_spec("iqa-eval:openai:gpt-4o")
    SimulatorSpec(style='iqa-eval', kind='openai', argument='gpt-4o')

    Raises:
        ChatbenchError: no such style or kind, a missing or superfluous argument, an invalid combination of the two, or
            an address that cannot be used.
    """
    if text == "tuned":
        return TUNED
    shown = without_secrets(text)
    match = _SIMULATOR_SPEC.fullmatch(text)
    expected = ""
    if match is None:
        expected = "tuned, or STYLE:KIND:ARGUMENT, e.g. two-step:openai:gpt-4o, iqa-eval:local:FOLDER"
    elif match["style"] not in STYLES:
        expected = f"one of the styles {', '.join(STYLES)}"
    elif match["kind"] not in get_args(SimulatorKind):
        expected = f"one of the kinds {', '.join(get_args(SimulatorKind))}"
    if match is None or expected:
        fix = "chatbench simulate --list-simulators"
        raise ChatbenchError(f"--simulator {shown!r} cannot be read", expected=expected, fix=fix)
    spec = SimulatorSpec(
        cast(StyleName, match["style"]), cast(SimulatorKind, match["kind"]), (match["argument"] or "").strip()
    )
    if (spec.kind == "tuned") == bool(spec.argument):
        wanted = "nothing after tuned" if spec.kind == "tuned" else f"an argument: {spec.style}:{spec.kind}:..."
        raise ChatbenchError(f"--simulator {shown!r}", expected=wanted, fix="chatbench simulate --list-simulators")
    if spec.style == "userlm" and spec.kind in ("tuned", "completions"):
        raise ChatbenchError(
            f"--simulator {shown!r}: a UserLM is prompted with its own chat template, not in the fine-tuning format",
            expected="userlm:local:FOLDER or userlm:openai:MODEL@URL",
        )
    if spec.kind in ("openai", "completions"):
        read_addresses(spec.argument.replace(SPLIT_MARK, "split_0"))  # now, so that an error in it is reported first
    return spec


def open_simulator(
    spec: SimulatorSpec,
    *,
    model: str,
    workspace: Workspace,
    split: str,
    base_model: bool = False,
    temperature: float = 1.0,
    max_tokens: int = 1000,
    reasoning_effort: str = "",
    expected_answers: bool = False,
    answer_model: bool = False,
    dtype: str = "auto",
    options: EndpointOptions | None = None,
) -> AnyParticipant:
    """Opens and checks the participant of a spec for one split: whatever would fail for all conversations fails here.

    Args:
        answer_model: draw its letters from an answer model fitted on the split's training side.
        model: the model whose fine-tuned version is the tuned simulator; ignored by the others.
        base_model: use the tuned simulator's base instead.
        expected_answers: the simulator also gives the probabilities of its answers.
        dtype: data type of a local model's weights, such as "bfloat16"; "auto": see `inference_dtype`.

    Raises:
        ChatbenchError: the model was not fine-tuned on this split, cannot be loaded, the endpoint cannot be used, or
            the simulator cannot provide what is asked.
    """
    refuse_impossible(spec, base_model=base_model, expected_answers=expected_answers, answer_model=answer_model)
    participant: AnyParticipant
    argument = spec.argument.replace(SPLIT_MARK, split)
    if answer_model:
        from chatbench.simulation.answer_model import answering, fitted_on

        fitted = fitted_on(workspace.examples(split, "train"), workspace.study.questions)
    if spec.kind in ("openai", "completions"):
        from chatbench.endpoints.participant import open_endpoint_participant

        participant = open_endpoint_participant(
            argument, kind="chat" if spec.kind == "openai" else "completions", role="simulator",
            temperature=temperature, max_tokens=max_tokens, reasoning_effort=reasoning_effort, options=options,
        )  # fmt: skip
    else:
        from chatbench.models.encoding import TextForm, form_of
        from chatbench.models.loading import load, named_dtype
        from chatbench.models.local_participants import LocalSimulator, LocalUserLm
        from chatbench.models.run_record import read_record, refuse_other_data

        if spec.kind == "local":
            folder = Path(argument)
            record = read_record(folder)
            if record and SPLIT_MARK in spec.argument:  # a model of each split, trained here
                refuse_other_data(folder, record, workspace.split_file(split, "train.jsonl"))
            loaded = load(argument, dtype=named_dtype(dtype))
            form = form_of(record) if record else TextForm("chat" if loaded.tokenizer.chat_template else "plain")
            name = f"{folder.parent.name} {split}" if folder.name == split else folder.name  # MODEL/{split}
        else:
            loaded, form = load_simulator(workspace, model, split, base_model=base_model, dtype=dtype)
            name = f"{workspace.models(model).name} {'base model' if base_model else split}"
        if spec.style == "userlm":
            participant = LocalUserLm(loaded, name, temperature=temperature, max_tokens=max_tokens)
        else:
            participant = LocalSimulator(
                loaded, name, temperature=temperature, max_tokens=max_tokens, template=form.template,
                expected_answers=expected_answers,
            )  # fmt: skip
    if answer_model:
        return answering(participant, fitted, workspace.study.questions, temperature=temperature)
    return participant


def refuse_impossible(
    spec: SimulatorSpec, *, base_model: bool, expected_answers: bool, answer_model: bool = False
) -> None:
    """Refuses options that contradict each other.

    Raises:
        ChatbenchError: a base model without a tuned one, probabilities that this simulator cannot give, or an answer
            model with a simulator that answers in another form.
    """
    shown = without_secrets(spec.text())
    if answer_model and not spec.style.startswith("two-step"):
        raise ChatbenchError(
            f"an answer model with --simulator {shown}",
            expected="a two-step simulator, which answers in the form of the training examples",
            fix="simulate without --answer-model",
        )
    if base_model and spec.kind != "tuned":
        raise ChatbenchError(
            f"--base with --simulator {shown}: only the tuned simulator has a base model",
            fix="omit one of the two",
        )
    if expected_answers and (spec.kind not in ("tuned", "local") or not spec.style.startswith("two-step")):
        raise ChatbenchError(
            f"expected answers with --simulator {shown}",
            expected="a two-step simulator on this machine; no other can give the probabilities of its answers",
            fix="simulate without --expected-answers",
        )


def load_simulator(
    workspace: Workspace, model: str, split: str, *, base_model: bool, dtype: str = "auto"
) -> tuple[Loaded, TextForm]:
    """Loads the fine-tuned model of a split, or its base, with the form that the fine-tuned one was trained in.

    If there is no fine-tuned model yet, the base is prompted in the form that its recipe names.

    Raises:
        ChatbenchError: the model was not fine-tuned on this split, may have seen its held-out questions, is of another
            base than MODEL, or cannot be loaded.
    """
    folder = workspace.model_folder(model, split)
    if not base_model and not folder.is_dir():
        raise ChatbenchError(
            f"{folder}: no model fine-tuned on {split}",
            fix=f"fine-tune first: SPLIT_ID={split} chatbench finetune {model}; or simulate the base with --base",
        )
    from chatbench.models.encoding import TextForm, form_of
    from chatbench.models.loading import load, load_base_of, named_dtype, refuse_other_base
    from chatbench.models.run_record import read_record, refuse_other_data

    record = read_record(folder)
    if base_model and record:
        return load_base_of(base_of(model, record), record, dtype=named_dtype(dtype)), form_of(record)
    if base_model:
        resolved = resolve_settings(model)
        loaded = load(resolved.base, seed=resolved.settings.seed, dtype=named_dtype(dtype))
        return loaded, TextForm(resolved.settings.template)
    if record:
        refuse_other_data(folder, record, workspace.split_file(split, "train.jsonl"))
        refuse_other_base(base_of(model, record), record)
    return load(str(folder), dtype=named_dtype(dtype)), form_of(record or {})


NO_RECORD = "no recorded reply"


@dataclass(frozen=True, slots=True)
class RecordedReply:
    """One recorded prompt and what the assistant answered; `depth` counts the user turns before it."""

    prompt: str
    response: str
    depth: int


class RecordedQuestion:
    """Everything one assistant was recorded to answer about one question, with its prompts' word weights."""

    def __init__(self, replies: Sequence[RecordedReply]) -> None:
        self.replies = tuple(replies)
        spread = Counter(word for reply in replies for word in {*_words(reply.prompt)})
        # Smoothed: a word in every prompt still has some weight, and one in no prompt does not divide by zero.
        self._rarity = {word: 1 + math.log((1 + len(replies)) / (1 + count)) for word, count in spread.items()}
        self._weights = [self._weighted(reply.prompt) for reply in replies]

    def nearest(self, prompt: str, depth: int, seed: int) -> RecordedReply:
        """The recorded reply to the nearest prompt; `seed` breaks ties."""
        sought = self._weighted(prompt)
        # Rounded, so that equal word counts stay equal in whatever order their products are summed.
        ranks = [
            (round(cosine(sought, weights), 9), -abs(reply.depth - depth))
            for reply, weights in zip(self.replies, self._weights, strict=True)
        ]
        best = max(ranks)
        equal = [reply for reply, rank in zip(self.replies, ranks, strict=True) if rank == best]
        return equal[seed % len(equal)]

    def _weighted(self, prompt: str) -> dict[str, float]:
        unseen = 1 + math.log(1 + len(self.replies))
        return {word: count * self._rarity.get(word, unseen) for word, count in Counter(_words(prompt)).items()}


def replay_assistant(conversations: Sequence[Conversation], assistant: str) -> FunctionParticipant:
    """A participant that answers for `assistant` from its recorded conversations."""
    by_question: dict[str, list[RecordedReply]] = {}
    for conversation in conversations:
        if conversation.assistant == assistant:
            replies = by_question.setdefault(conversation.question_id, [])
            turns = zip(conversation.turns[::2], conversation.turns[1::2], strict=True)
            replies += [RecordedReply(user.text, answer.text, depth) for depth, (user, answer) in enumerate(turns)]
    digest = hashlib.sha256()
    for question_id in sorted(by_question):
        for each in by_question[question_id]:
            digest.update(repr((question_id, each.prompt, each.response, each.depth)).encode())
    record = {question_id: RecordedQuestion(replies) for question_id, replies in by_question.items()}

    def reply(request: Request) -> Reply | Failure:
        if request.question_id not in record:
            return Failure(NO_RECORD)
        depth = sum(message.role == "user" for message in request.messages) - 1
        nearest = record[request.question_id].nearest(request.messages[-1].content, depth, request.seed)
        return Reply(nearest.response)

    return FunctionParticipant(
        reply,
        {
            "kind": "replay",
            "name": assistant,
            "replies": sum(map(len, by_question.values())),
            "record_sha256": digest.hexdigest(),
            "choice": "nearest prompt by TF-IDF cosine, then depth, then seed",
        },
    )


def not_recorded(study: Study, replayed: Mapping[str, str], questions: Iterable[str]) -> list[Pair]:
    """Pairs of question and assistant that cannot be replayed: in the study, nobody asked the assistant about it.

    `replayed` maps the names of replayed assistants to those that the study knows them by.
    """
    recorded = {(chat.question_id, chat.assistant) for chat in study.conversations}
    return [pair for pair in product(questions, replayed) if (pair[0], replayed[pair[1]]) not in recorded]


def _words(text: str) -> list[str]:
    return re.findall(r"\w+|[^\w\s]", text.lower())  # punctuation marks too


def cosine(first: Mapping[str, float], second: Mapping[str, float]) -> float:
    """Cosine of two sparse vectors; 0 if one is empty.

    >>> cosine({"a": 1.0, "b": 1.0}, {"a": 1.0})
    0.7071067811865475
    """
    norm = math.hypot(*first.values()) * math.hypot(*second.values())
    return sum(weight * second[word] for word, weight in first.items() if word in second) / norm if norm else 0.0
