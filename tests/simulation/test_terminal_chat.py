"""One chat in the terminal: typed, watched, ended early, and saved."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from benchmarks.loopback_endpoint import LoopbackEndpoint
from rich.console import Console
from tests.support.study_files import tiny_folder
from tests.support.tiny_models import save_tiny_model

from chatbench import cli
from chatbench.core.errors import ChatbenchError
from chatbench.core.records import Question, SimulatedConversation, Turn
from chatbench.data.prepare_splits import prepare_splits
from chatbench.data.workspace import Workspace
from chatbench.protocol.dialogue import Failure, FunctionParticipant, Reply, Request, dialogue
from chatbench.protocol.dialogue_runner import run_together
from chatbench.simulation.log import read_conversations
from chatbench.simulation.simulate import ChatSettings
from chatbench.simulation.terminal_chat import STOPPED, ChatView, chat, printable

QUESTION = Question("q1", "maths", "What is 2+2?", ("3", "4", "5", "6"), "B")
SETTINGS = ChatSettings(max_tokens=8, max_user_turns=2)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a prepared study, and a random model where the one fine-tuned on `split_1` would lie."""
    root = tmp_path_factory.mktemp("prepared")
    prepare_splits(tiny_folder(root / "study"), root / "data", splits=2)
    save_tiny_model(root / "results" / "models" / "tiny" / "split_1", context=1024)
    return root


@pytest.fixture
def screen() -> Console:
    return Console(file=io.StringIO(), width=200)


def shown(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def typing(monkeypatch: pytest.MonkeyPatch, *lines: str, then: type[BaseException] = EOFError) -> None:
    """What the person types; after that, Ctrl-D or Ctrl-C."""
    left = iter(lines)

    def typed() -> str:
        for line in left:
            return line
        raise then

    monkeypatch.setattr("builtins.input", typed)


def ended(console: Console, *says: str, model: FunctionParticipant | None = None) -> SimulatedConversation:
    """A chat with a simulator that says these; without a model the person is the assistant."""
    said: Iterator[str] = iter(says)
    view = ChatView(console, QUESTION, model)
    simulator = view.simulator(FunctionParticipant(lambda _: Reply(next(said)), {}))
    (outcome,) = run_together(
        [dialogue(QUESTION, "id", base_seed=0, max_user_turns=2)],
        {"simulator": simulator, "assistant": view.assistant()},
    )
    view.end(outcome)
    return outcome


def test_the_person_is_the_assistant_and_sees_each_message_before_typing(
    screen: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    typing(monkeypatch, "", "  ", "It is \\", "4.")

    outcome = ended(screen, "what is 2+2", "Answer: B")

    assert outcome.turns == (Turn("user", "what is 2+2"), Turn("assistant", "It is \n4."))
    assert (
        shown(screen).index("what is 2+2") < shown(screen).index("assistant >") < shown(screen).index("answer (right)")
    )


def test_what_models_write_is_shown_as_text(screen: Console) -> None:
    # Markup would vanish, and an escape sequence would reach the terminal: the likely mistakes.
    wild = "[bold]hi[/] \x1b[2J\r\u202etxt"

    ended(screen, wild, "Answer: A", model=FunctionParticipant(lambda _: Reply(wild), {}))

    assert shown(screen).count("[bold]hi[/] \ufffd[2J\ufffd\ufffdtxt") == 2
    assert "\x1b" not in shown(screen)
    assert "answer (wrong, it is B)" in shown(screen)
    assert printable("naïve 1\u00a0000 数 \n\t") == "naïve 1\u00a0000 数 \n\t"


def test_the_end_says_what_was_detected_and_the_lenient_answer(screen: Console) -> None:
    model = FunctionParticipant(lambda _: Reply("4"), {})
    ended(screen, "hi", "thanks, it is 4. Answer: B", "the answer is B", model=model)

    assert "no answer even when forced\nthe answer is B\n" in shown(screen)
    assert "lenient answer extraction reads that as B" in shown(screen)
    assert "failure detectors saw: glued_answer 1" in shown(screen)


def test_a_failure_is_shown_as_one(screen: Console) -> None:
    ended(screen, "hi", model=FunctionParticipant(lambda _: Failure("endpoint: HTTP 503"), {}))

    assert "failed\nendpoint: HTTP 503" in shown(screen)


# ---- the whole step ----


def held(prepared: Path, question: str, **options: Any) -> SimulatedConversation | None:
    place = Workspace(prepared / "data", prepared / "results")
    return chat("tiny", question, workspace=place, settings=SETTINGS, **options)


def question_on(prepared: Path, side: str) -> str:
    return Workspace(prepared / "data").split("split_1").question_ids(side)[0]  # type: ignore[arg-type]  # train or test


@pytest.mark.parametrize("key", [EOFError, KeyboardInterrupt])
def test_a_chat_that_was_stopped_is_saved_as_far_as_it_went_and_the_next_one_behind_it(
    prepared: Path, screen: Console, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, key: type[BaseException]
) -> None:
    question = question_on(prepared, "test")
    for _ in range(2):
        typing(monkeypatch, then=key)
        assert held(prepared, question, save=tmp_path / "chats.jsonl", console=screen) is None

    first, second = read_conversations(tmp_path / "chats.jsonl")
    assert [first.id, second.id] == [f"{question}|person|0", f"{question}|person|1"]
    assert (first.termination, first.reason, [turn.role for turn in first.turns]) == ("failed", STOPPED, ["user"])
    assert "tiny split_1" in shown(screen)
    assert "was fine-tuned" not in shown(screen)


def test_a_chat_is_saved_under_an_index_that_no_other_has(
    prepared: Path, screen: Console, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # Counting lines, one that was saved meanwhile or a deleted one gives an index twice, and the second is not written.
    question, log = question_on(prepared, "test"), tmp_path / "chats.jsonl"

    def typed() -> str:
        monkeypatch.setattr("builtins.input", ends)
        held(prepared, question, save=log, console=screen)  # begins and ends while the first one waits
        raise EOFError

    def ends() -> str:
        raise EOFError

    monkeypatch.setattr("builtins.input", typed)
    held(prepared, question, save=log, console=screen)
    held(prepared, question, save=log, console=screen)
    ids = [f"{question}|person|{index}" for index in range(3)]
    assert [(chat.id, chat.index) for chat in read_conversations(log)] == [(ids[n], n) for n in range(3)]

    log.write_bytes(b"".join(log.read_bytes().splitlines(keepends=True)[1:]))
    held(prepared, question, save=log, console=screen)
    assert [chat.id for chat in read_conversations(log)] == [ids[1], ids[2], ids[0]]


def test_a_person_can_watch_two_models(prepared: Path, screen: Console) -> None:
    outcome = held(prepared, question_on(prepared, "test"), assistant="replay:gpt-4o", console=screen)

    assert outcome is not None
    assert all(printable(turn.text) in shown(screen) for turn in outcome.turns)


def test_a_question_of_the_training_side_is_said_to_be_one(
    prepared: Path, screen: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    typing(monkeypatch)

    held(prepared, question_on(prepared, "train"), console=screen)

    assert "note: the simulator was fine-tuned on people's chats about this question" in shown(screen)


@pytest.mark.parametrize(
    ("question", "assistant", "said"),
    [("nobody-asked", None, "no question 'nobody-asked'"), ("", "scripted:all", "a chat has one assistant")],
)
def test_what_cannot_be_is_refused(prepared: Path, question: str, assistant: str | None, said: str) -> None:
    with pytest.raises(ChatbenchError, match=said):
        held(prepared, question or question_on(prepared, "test"), assistant=assistant)


def test_the_command_reads_what_is_typed(
    prepared: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("hello\n"))

    code = cli.main(
        ["chat", "tiny", "--question", question_on(prepared, "test"), "--max-tokens", "8", "--max-user-turns", "1",
         "--data", str(prepared / "data"), "--results", str(prepared / "results")]
    )  # fmt: skip

    assert code == 0
    assert "\nno answer even when forced\n" in capsys.readouterr().out


def test_a_chat_takes_the_answer_model_and_the_room_of_the_assistant_as_a_simulation_does(
    prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    question, log = question_on(prepared, "test"), tmp_path / "chats.jsonl"
    command = ["chat", "tiny", "--question", question, "--max-tokens", "8", "--max-user-turns", "2"]
    command += ["--data", str(prepared / "data"), "--results", str(prepared / "results"), "--save", str(log)]
    assert cli.main([*command, "--assistant-max-tokens", "9"]) == 2  # the person is the assistant
    assert "omit --assistant-max-tokens" in capsys.readouterr().err

    model = f"local:{prepared / 'results' / 'models' / 'tiny' / 'split_1'}"
    code = cli.main(
        [*command, "--assistant", model, "--assistant-max-tokens", "9", "--answer-model", "--dtype", "bfloat16"]
    )

    assert code == 0
    (chat,) = read_conversations(log)
    assert chat.letter  # a model of this size writes none by itself, in eight tokens
    assert chat.simulator["answer_model"]
    assert chat.simulator["dtype"] == "bfloat16"
    assert (chat.simulator["max_tokens"], chat.assistant_identity["max_tokens"]) == (8, 9)


def test_a_request_is_the_same_as_in_a_simulation(screen: Console) -> None:
    # A prompt of its own in the chat would show the person another simulator than the one that is measured.
    asked: list[Request] = []
    model = FunctionParticipant(lambda request: asked.append(request) or Reply("4"), {})  # type: ignore[func-returns-value]

    ended(screen, "hi", "Answer: B", model=model)

    assert [message.content for message in asked[0].messages] == ["You are a helpful AI assistant.", "hi"]


def test_a_slow_endpoint_gets_the_time_that_it_is_given(
    prepared: Path, server: LoopbackEndpoint, capsys: pytest.CaptureFixture[str]
) -> None:
    question = next(iter(Workspace(prepared / "data").study.questions))
    server._latency = lambda _: 0.3
    command = ["chat", "tiny", "--question", question, "--assistant", f"openai:m@{server.url}", "--max-tokens", "8"]
    command += ["--data", str(prepared / "data"), "--results", str(prepared / "results"), "--max-user-turns", "1"]
    assert cli.main([*command, "--timeout", "0.1", "--patience", "0.2"]) == 2
    told = capsys.readouterr().err
    assert "no answer within 0.1 s" in told
    assert "more time with --timeout" in told
    assert cli.main([*command, "--timeout", "5"]) == 0
