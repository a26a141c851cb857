"""The simulator of a run, from what stands on the command line.

    tuned                        the model that was fine-tuned on the split, in the form of its training (the default)
    STYLE:tuned                  the same, spoken to in another style, such as two-step-problem
    STYLE:local:FOLDER           a model on this machine, or a hub id
    STYLE:openai:ADDRESS         a chat model behind an OpenAI-compatible endpoint
    STYLE:completions:ADDRESS    a model fine-tuned on the plain-text form, behind /v1/completions

STYLE is one of protocol/styles.py; ADDRESS is MODEL[@BASE_URL][#NAME_OF_KEY_VARIABLE]. `{split}` in a folder or an
address stands for the split's name, so that each split is simulated by the model, or the adapter, that never saw its
questions. A local model that chatbench fine-tuned speaks in the form of its training; another through its chat
template, or in the plain-text form where it has none.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast, get_args

from chatbench.core.errors import ChatbenchError
from chatbench.core.model_names import model_key
from chatbench.core.resolved_settings import resolve_settings
from chatbench.protocol.dialogue import ConcurrentSpeaker, Speaker
from chatbench.protocol.styles import STYLES, StyleName

if TYPE_CHECKING:
    from chatbench.models.encoding import TextForm
    from chatbench.models.endpoint import EndpointOptions
    from chatbench.models.loading import Loaded

SimulatorKind = Literal["tuned", "local", "openai", "completions"]
SPLIT_MARK = "{split}"
EXPECTED = "tuned, or STYLE:KIND:ARGUMENT, e.g. two-step:openai:gpt-4o, iqa-eval:local:FOLDER (chatbench simulators)"
_SPEC = re.compile(r"(?P<style>[^:]+):(?P<kind>[^:]+)(?::(?P<argument>.+))?", re.DOTALL)


@dataclass(frozen=True, slots=True)
class SimulatorSpec:
    """One simulator: how it is spoken to, and what plays it; `argument` is "" for the tuned one."""

    style: StyleName
    kind: SimulatorKind
    argument: str = ""

    @property
    def trained_per_split(self) -> bool:
        """Whether there is one only for the splits that MODEL was fine-tuned on."""
        return self.kind == "tuned"

    def text(self) -> str:
        """The spec as it is written on the command line; it holds the name of a key's variable, never a key."""
        return ":".join(filter(None, (self.style, self.kind, self.argument)))


TUNED = SimulatorSpec("two-step", "tuned")


def read_simulator_spec(text: str) -> SimulatorSpec:
    """Reads `tuned` or `STYLE:KIND[:ARGUMENT]`.

    >>> read_simulator_spec("iqa-eval:openai:gpt-4o")
    SimulatorSpec(style='iqa-eval', kind='openai', argument='gpt-4o')

    Raises:
        ChatbenchError: no such style or kind, or one that needs, or knows, no argument; or the two do not go together.
    """
    if text == "tuned":
        return TUNED
    shown = text.partition("#")[0]  # what stands after # may be a key by mistake
    match = _SPEC.fullmatch(text)
    if match is None or match["style"] not in STYLES or match["kind"] not in get_args(SimulatorKind):
        raise ChatbenchError(
            f"--simulator {shown!r} cannot be read", expected=_expected(match), fix="chatbench simulators"
        )
    spec = SimulatorSpec(
        cast(StyleName, match["style"]), cast(SimulatorKind, match["kind"]), (match["argument"] or "").strip()
    )
    if (spec.kind == "tuned") == bool(spec.argument):
        wanted = "nothing after tuned" if spec.kind == "tuned" else f"what to play it: {spec.style}:{spec.kind}:..."
        raise ChatbenchError(f"--simulator {shown!r}", expected=wanted, fix="chatbench simulators")
    if spec.style == "userlm" and spec.kind in ("tuned", "completions"):
        raise ChatbenchError(
            f"--simulator {shown!r}: a UserLM is prompted by its own chat template, not in the form of fine-tuning",
            expected="userlm:local:FOLDER or userlm:openai:MODEL@URL",
        )
    return spec


def _expected(match: re.Match[str] | None) -> str:
    if match is None:
        return EXPECTED
    if match["style"] not in STYLES:
        return f"one of the styles {', '.join(STYLES)}"
    return f"one of the kinds {', '.join(get_args(SimulatorKind))}"


def open_simulator(
    spec: SimulatorSpec,
    *,
    model: str,
    results: Path,
    split: str,
    untrained: bool = False,
    temperature: float = 1.0,
    max_tokens: int = 1000,
    expected_answers: bool = False,
    options: EndpointOptions | None = None,
) -> Speaker | ConcurrentSpeaker:
    """The speaker of a spec for one split, ready and checked: whatever would fail for all conversations fails here.

    Args:
        model: whose fine-tuned model is the tuned one; the others do not look at it.
        untrained: the tuned one's base in its place.
        expected_answers: the simulator also gives the probabilities of its answers.

    Raises:
        ChatbenchError: the model was not fine-tuned on this split, cannot be loaded, the endpoint cannot be used, or
            the simulator cannot give what is asked.
    """
    refuse_impossible(spec, untrained=untrained, expected_answers=expected_answers)
    argument = spec.argument.replace(SPLIT_MARK, split)
    if spec.kind in ("openai", "completions"):
        from chatbench.models.endpoint_speakers import open_endpoint_speaker

        kind: Literal["chat", "completions"] = "chat" if spec.kind == "openai" else "completions"
        return open_endpoint_speaker(
            argument, kind=kind, role="simulator", temperature=temperature, max_tokens=max_tokens, options=options
        )
    if spec.kind == "local":
        loaded, form = load_local(argument)
        name = Path(argument).name
    else:
        loaded, form = load_simulator(model, results, split, untrained=untrained)
        name = f"{model_key(model)} untrained" if untrained else f"{model_key(model)} {split}"
    if spec.style == "userlm":
        from chatbench.models.userlm import LocalUserLm

        return LocalUserLm(loaded, name, temperature=temperature, max_tokens=max_tokens)
    from chatbench.models.speakers import LocalSimulator

    return LocalSimulator(
        loaded, name, temperature=temperature, max_tokens=max_tokens, template=form.template,
        expected_answers=expected_answers,
    )  # fmt: skip


def refuse_impossible(spec: SimulatorSpec, *, untrained: bool, expected_answers: bool) -> None:
    """Nothing, unless the options contradict each other.

    Raises:
        ChatbenchError: an untrained model without a tuned one, or probabilities that this simulator does not give.
    """
    if untrained and spec.kind != "tuned":
        raise ChatbenchError(
            f"--untrained with --simulator {spec.text()}: only the tuned simulator has an untrained base",
            fix="leave one of the two out",
        )
    if expected_answers and (spec.kind not in ("tuned", "local") or not spec.style.startswith("two-step")):
        raise ChatbenchError(
            f"expected answers with --simulator {spec.text()}",
            expected="a two-step simulator on this machine: no other gives the probabilities of its answers",
            fix="simulate without --expected-answers",
        )


def load_local(source: str) -> tuple[Loaded, TextForm]:
    """A model of this machine or the hub, and its form: that of its training, else its chat template, else plain text.

    Raises:
        ChatbenchError: it cannot be loaded.
    """
    from chatbench.models.encoding import TextForm, form_of
    from chatbench.models.loading import load
    from chatbench.models.run_record import read_record

    record = read_record(Path(source))
    loaded = load(source)
    if record:
        return loaded, form_of(record)
    return loaded, TextForm("chat" if loaded.tokenizer.chat_template else "plain")


def load_simulator(model: str, results: Path, split: str, *, untrained: bool) -> tuple[Loaded, TextForm]:
    """The fine-tuned model of a split, or the base it starts from, in the form of the fine-tuned one's training.

    Before there is a fine-tuned model, the base speaks in the form that its recipe names.

    Raises:
        ChatbenchError: the model was not fine-tuned on this split, or cannot be loaded.
    """
    folder = results / "models" / model_key(model) / split
    if not untrained and not folder.is_dir():
        raise ChatbenchError(
            f"{folder}: no model fine-tuned on {split}",
            fix=f"fine-tune first: SPLIT_ID={split} chatbench finetune {model}; or simulate the base with --untrained",
        )
    from chatbench.models.encoding import TextForm, form_of
    from chatbench.models.loading import load
    from chatbench.models.run_record import read_record

    record = read_record(folder)
    form = form_of(record or {})
    if untrained:
        resolved = resolve_settings(model)
        loaded = load(resolved.base, seed=resolved.settings.seed)
        form = form if record else TextForm(resolved.settings.template)
    else:
        loaded = load(str(folder))
    return loaded, form
