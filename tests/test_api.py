"""Simulations from Python: what is refused, and what does not show in the examples of docs/python-api.md."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from tests.support.study_files import tiny_folder
from tests.support.tiny_models import save_tiny_model

from chatbench.api import Question, assistant, run, simulator
from chatbench.core.errors import ChatbenchError
from chatbench.protocol.dialogue import function_identity
from chatbench.simulation.log import read_conversations

QUESTIONS = [Question(f"q{n}", "maths", f"What is {n}+1?", ("1", "2", "3", "4"), "A") for n in range(3)]


def user(messages: list[dict[str, str]]) -> str:
    return "Answer: B" if "SYSTEM:" in messages[-1]["content"] else "hello"


def polite(messages: list[dict[str, str]]) -> str:
    assert messages[0] == {"role": "system", "content": "You are a helpful AI assistant."}
    return "hi"


def test_records_come_in_the_order_of_the_plan_whatever_order_they_ended_in() -> None:
    def slow_about_the_first(messages: list[dict[str, str]]) -> str:
        text = messages[-1]["content"]
        return "go on" if "What is 0+1?" in messages[0]["content"] and text.count("SYSTEM:") < 3 else user(messages)

    both = [assistant(polite), assistant(polite, name="b")]
    records = run(simulator(slow_about_the_first), both, QUESTIONS, conversations=2)

    wanted = [f"q{n}|{name}|{index}" for name in ("polite", "b") for n in range(3) for index in range(2)]
    assert [record.id for record in records] == wanted


def test_a_log_is_one_that_the_commands_read(tmp_path: Path) -> None:
    records = run(simulator(user), assistant(polite), QUESTIONS, conversations=1, log=tmp_path / "a.jsonl")

    assert {one.id: one for one in read_conversations(tmp_path / "a.jsonl")} == {one.id: one for one in records}
    first = json.loads((tmp_path / "a.jsonl").read_text().splitlines()[0])
    assert (first["simulator"]["kind"], first["simulator"]["name"]) == ("python", "user")


def test_a_folder_is_a_simulator_and_greedy_runs_agree(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "m", context=1024)
    one = simulator(folder, style="iqa-eval", temperature=0.0, max_tokens=4)

    first, second = (
        run(one, assistant("scripted:weak"), QUESTIONS, conversations=1, max_user_turns=2) for _ in range(2)
    )

    assert one.style == "iqa-eval"
    assert [record.turns for record in first] == [record.turns for record in second]


def test_what_simulator_and_assistant_take_is_opened_by_run_and_a_study_is_its_questions(tmp_path: Path) -> None:
    study = tiny_folder(tmp_path / "study")

    opened = run(simulator(user), [assistant(polite), assistant("scripted:weak")], QUESTIONS[:1], conversations=1)
    assert run(user, [polite, "scripted:weak"], QUESTIONS[0], conversations=1) == opened
    assert run(user, polite, QUESTIONS[0], conversations=1) == opened[:1]
    for replay in ("replay:gpt-4o", assistant("replay:gpt-4o", study=study)):
        records = run(user, replay, study, conversations=1, max_user_turns=1)
        assert {record.assistant for record in records} == {"gpt-4o"}
        assert len({record.question_id for record in records}) == len(records) > 2
        assert all(record.turns[1].text.startswith("reply ") for record in records if record.termination != "failed")


def test_a_fix_from_python_names_arguments(tmp_path: Path) -> None:
    run(user, polite, QUESTIONS, conversations=1, log=tmp_path / "log.jsonl")
    with pytest.raises(ChatbenchError) as caught:
        run(user, polite, QUESTIONS, conversations=2, log=tmp_path / "log.jsonl")
    assert caught.value.fix == (
        "to continue it, use conversations=1; otherwise choose another log or, losing what is recorded, add "
        "overwrite=True to start log.jsonl over"
    )


def test_what_a_script_needs_is_in_one_module_that_stays_quick_to_import() -> None:
    code = "import sys, chatbench.api; print('chatbench.estimation.estimate' in sys.modules)"
    code += "; from chatbench.api import ChatbenchError, Estimate, Study, Undefined, open_study; print(Estimate)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["False", "<class 'chatbench.estimation.estimate.Estimate'>"]


def test_an_error_of_ones_own_function_is_not_hidden() -> None:
    def broken(messages: list[dict[str, str]]) -> str:
        raise RuntimeError(f"mine: {len(messages)} messages")

    with pytest.raises(RuntimeError, match="mine"):
        run(simulator(user), assistant(broken), QUESTIONS, conversations=1)


def test_a_log_of_an_edited_function_is_not_continued(tmp_path: Path) -> None:
    def edited(messages: list[dict[str, str]]) -> str:
        return f"mine: {len(messages)} messages"

    edited.__name__ = polite.__name__
    run(simulator(user), assistant(polite), QUESTIONS, conversations=1, log=tmp_path / "log.jsonl")
    with pytest.raises(ChatbenchError, match="source_sha256"):
        run(simulator(user), assistant(edited), QUESTIONS, conversations=1, log=tmp_path / "log.jsonl")


def test_a_partial_and_an_object_are_known_by_what_they_hold() -> None:
    # All were one function: class `partial`, or the class of the object. A log of another one was continued.
    @dataclass
    class Says:
        word: str

        def __call__(self, _messages: list[dict[str, str]]) -> str:
            return self.word

        def method(self, _messages: list[dict[str, str]]) -> str:
            return self.word

    class Client: ...

    said = [partial(polite, "a"), partial(polite, "b"), partial(user, "a"), Says("a"), Says("b"), polite]
    assert len({str(function_identity(each)) for each in said}) == len(said)
    assert function_identity(Says("a").method) != function_identity(Says("b").method)
    # A client's address is another in the next process, which could not continue.
    assert function_identity(partial(polite, Client())) == function_identity(partial(polite, Client()))


def test_a_function_that_returns_no_text_is_told_so() -> None:
    with pytest.raises(ChatbenchError, match="returned None"):
        run(simulator(user), assistant(lambda _: None), QUESTIONS, conversations=1)  # type: ignore[arg-type,return-value]  # the mistake


@pytest.mark.parametrize(
    ("open_it", "said"),
    [
        (lambda: simulator("tuned"), "the folder of one model"),
        (lambda: simulator("no/such/folder"), "no such folder"),
        (lambda: simulator("two-step:openai:m", style="iqa-eval"), "in the style iqa-eval"),
        (lambda: assistant("scripted:all"), "names 2"),
        (lambda: assistant("replay:gpt-4o"), "'replay:gpt-4o': no such assistant"),
        (lambda: simulator(user, expected_answers=True), "leave expected_answers out"),
        (
            lambda: run(simulator(user), [assistant(lambda _: "a"), assistant(lambda _: "b")], QUESTIONS),
            "two assistants are called '<lambda>'",
        ),
        (lambda: run(simulator(user), assistant(polite), QUESTIONS, conversations=0), "conversations is 0"),
        (lambda: run(simulator(user), assistant(polite), QUESTIONS, end_on=["boredom"]), "no such failure detector"),
        (lambda: run(simulator(user), assistant(polite), QUESTIONS, end_on="boredom"), "--end-on boredom"),
        (lambda: run(simulator(user), assistant(polite), QUESTIONS, active=0), "active is 0"),
        (lambda: run(assistant(polite), polite, QUESTIONS), "the simulator: Assistant("),  # type: ignore[arg-type]
        (lambda: run(user, [polite, 3], QUESTIONS), "an assistant: 3 (int)"),  # type: ignore[list-item]
        (lambda: run(user, None, QUESTIONS), "an assistant: None (NoneType)"),  # type: ignore[arg-type]
        (lambda: run(user, ["nobody"], QUESTIONS), "'nobody' cannot be read"),
        (lambda: run(user, polite, {"q": QUESTIONS[0]}), "a question: 'q' (str)"),  # type: ignore[arg-type]
        (lambda: run(user, polite, 7), "a question: 7 (int)"),  # type: ignore[arg-type]
        (lambda: run(user, polite, QUESTIONS, conversations=2.0), "conversations is 2.0"),  # type: ignore[arg-type]
        (lambda: run(user, polite, QUESTIONS, seed=None), "seed is None"),  # type: ignore[arg-type]
        (lambda: run(user, polite, QUESTIONS, active=1.5), "active is 1.5"),  # type: ignore[arg-type]
        (lambda: run(simulator(user), assistant(polite), QUESTIONS[:1] * 2), "two questions have the id"),
        (lambda: simulator(user, style="none"), "style 'none'"),  # type: ignore[arg-type]  # the mistake
        (lambda: simulator(user, temperature=float("nan")), "simulator_temperature is nan"),
        (lambda: assistant("scripted:weak", temperature=-1), "assistant_temperature is -1"),
        (lambda: assistant("scripted:weak", max_tokens=0), "max_tokens is 0"),
    ],
)
def test_what_cannot_be_is_refused(open_it: object, said: str) -> None:
    with pytest.raises(ChatbenchError) as caught:
        open_it()  # type: ignore[operator]  # a lambda
    assert said in str(caught.value)
