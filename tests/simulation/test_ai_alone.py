"""Assistants alone: what they are asked, how a reply is counted, and that nothing that was asked is asked twice."""

from __future__ import annotations

import asyncio
import csv
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from benchmarks.loopback_endpoint import LoopbackEndpoint, completion, error
from tests.support.simulated_logs import prepared, write_log
from tests.support.tiny_models import save_tiny_model

from chatbench.cli import main
from chatbench.core.errors import ChatbenchError
from chatbench.core.records import AiAloneScore, Question, Study, Usage
from chatbench.data.chatbench_format import read_ai_alone
from chatbench.data.tables import Intake
from chatbench.data.workspace import Workspace
from chatbench.metrics.agreement import Undefined
from chatbench.metrics.names import Predictor
from chatbench.metrics.resampling import Resampling
from chatbench.protocol.dialogue import Failure, FunctionParticipant, Reply, Request
from chatbench.scoring.eval_chatbench import eval_chatbench
from chatbench.simulation.ai_alone import (
    AiAloneLog,
    AiAloneResult,
    AiAloneSettings,
    Method,
    Sample,
    ai_alone,
    ask_missing,
    extraction_messages,
    question_messages,
    questions_of,
    read_extraction,
    with_measured_here,
)
from chatbench.simulation.budget import SPENT, Prices, Spending
from chatbench.simulation.log import open_log, read_log

QUESTIONS = [
    Question(
        f"elementary_mathematics-redux-{n}", "elementary_mathematics", f"What is {n}+1?", ("1", "2", "3", "4"), "AB"[n]
    )
    for n in range(2)
]
STUDY = Study("s", {question.id: question for question in QUESTIONS}, (), ())
EXAMPLES = [replace(QUESTIONS[0], id=f"e{n}", text=f"Example {n}?", answer="C") for n in range(2)]
SAMPLES = [Sample(question, index) for question in QUESTIONS for index in range(3)]


def participant(function: Callable[[Request], Reply | Failure]) -> FunctionParticipant:
    return FunctionParticipant(function, {"kind": "fake"})


def measured(spec: str, settings: AiAloneSettings, results: Path, **more: Any) -> AiAloneResult:
    place = Workspace(results=results)
    return ai_alone(spec, settings, study=STUDY, workspace=place, **{"questions": QUESTIONS, **more})


def asked(
    tmp_path: Path, method: Method, replies: Sequence[str], extractor: FunctionParticipant | None = None
) -> AiAloneLog:
    """A log in which the samples got these replies, in order."""
    log = AiAloneLog(Workspace(results=tmp_path), "bot", method)
    in_order = iter(replies)
    record(log, SAMPLES, lambda _: Reply(next(in_order)), extractor)
    return log


def record(
    log: AiAloneLog,
    samples: Sequence[Sample],
    says: Callable[[Request], Reply | Failure],
    extractor: FunctionParticipant | None = None,
    *,
    seed: int = 0,
    questions: str = "s",
) -> None:
    with open_log(log.path, {"questions_sha256": questions}) as writer:
        sides = {"assistant": participant(says), **({"simulator": extractor} if extractor else {})}
        ask_missing(log, writer, samples, sides, {}, seed, Spending(Prices()))


def test_each_reply_is_in_the_log_as_soon_as_it_has_come(tmp_path: Path) -> None:
    # One that waits for a block loses up to 255 paid replies when it is killed.
    log, seen = AiAloneLog(Workspace(results=tmp_path), "bot", "letter-only-zero-shot"), []

    class OneAfterTheOther:
        identity: Mapping[str, object] = {"kind": "fake"}
        line = asyncio.Lock()

        async def reply(self, request: Request) -> Reply | Failure:
            async with self.line:
                seen.append(request.seed)
                if len(seen) == 4:
                    raise KeyboardInterrupt
                await asyncio.sleep(0)
            return Reply("A")

        async def close(self) -> None: ...

    with pytest.raises(KeyboardInterrupt), open_log(log.path, {}) as writer:
        ask_missing(log, writer, SAMPLES, {"assistant": OneAfterTheOther()}, {}, 0, Spending(Prices()))
    assert len(log.texts("reply")) == 3


def test_the_prompts_are_the_papers() -> None:
    # Word for word: a blank line or a missing space makes another baseline.
    full = "What is 0+1?\nA. 1\nB. 2\nC. 3\nD. 4"
    zero = question_messages("letter-only-zero-shot", QUESTIONS[0])
    few = question_messages("letter-only-few-shot", QUESTIONS[0], EXAMPLES)
    free = question_messages("free-text", QUESTIONS[0])

    assert {messages[0].content for messages in (zero, few, free)} == {"You are a helpful AI assistant."}
    assert zero[1].content == f"Answer with only a single letter.\n\nQuestion: {full}\nAnswer:"
    assert few[1].content == (
        "Answer with only a single letter.\n\n"
        "The following are multiple choice questions (with answers) about elementary mathematics.\n\n"
        "Question: Example 0?\nA. 1\nB. 2\nC. 3\nD. 4\nAnswer: C\n\n"
        "Question: Example 1?\nA. 1\nB. 2\nC. 3\nD. 4\nAnswer: C\n\n"
        f"Question: {full}\nAnswer:"
    )
    assert free[1].content == full


def test_a_reply_that_holds_a_marker_of_the_prompt_is_quoted_as_it_is() -> None:
    assert "I say {question}" in extraction_messages(QUESTIONS[0], "I say {question}")[1].content


def test_a_letter_counts_only_at_the_beginning_and_an_invalid_reply_is_wrong(tmp_path: Path) -> None:
    # Likely mistakes: searching the reply for a letter, lower case, and dropping the invalid ones from the accuracy.
    log = asked(tmp_path, "letter-only-zero-shot", ["A", " A.", "The answer is A", "b", "B", "(B)"])

    first, second = log.scores(STUDY.questions)

    assert first == AiAloneScore(QUESTIONS[0].id, "bot", "letter_only_zero_shot", 3, pytest.approx(2 / 3), 1)
    assert second == AiAloneScore(QUESTIONS[1].id, "bot", "letter_only_zero_shot", 3, pytest.approx(1 / 3), 2)


@pytest.mark.parametrize(
    ("output", "result"),
    [
        ('{"attempted_answer": true, "answer_val": "1", "answer_letter": "A"}', "right"),
        ('```json\n{"attempted_answer": true, "answer_val": "1", "answer_letter": "A"}\n```', "right"),
        (r'\boxed{1}, option A. {"attempted_answer": true, "answer_val": "1", "answer_letter": "A"}', "right"),
        (r'{"attempted_answer": true, "answer_val": "1", "answer_letter": "A"}, for \frac{8}{8} is 1', "right"),
        ('{"attempted_answer": true, "answer_val": "1", "answer_letter": "(a)"}', "right"),
        ('{"attempted_answer": true, "answer_val": "1", "answer_letter": "A. 1"}', "right"),
        ('{"attempted_answer": true, "answer_val": "2", "answer_letter": "B"}', "wrong"),
        ('{"attempted_answer": true, "answer_val": "?", "answer_letter": "A or B"}', "wrong"),
        ('{"attempted_answer": true, "answer_val": "?", "answer_letter": "A, B"}', "wrong"),
        ('{"attempted_answer": true, "answer_val": "?", "answer_letter": ["A"]}', "wrong"),
        ('{"attempted_answer": true, "answer_val": "9", "answer_letter": null}', "wrong"),
        ('{"attempted_answer": false, "answer_val": null, "answer_letter": "A"}', "wrong"),
        ('{"attempted_answer": "yes", "answer_val": "1", "answer_letter": "A"}', "unknown"),
        ('{"answer_val": "1", "answer_letter": "A"}', "unknown"),
        ('["A"]', "unknown"),
        ('{"attempted_answer": true, "answer_letter": "A"', "unknown"),
        ("", "unknown"),
    ],
)
def test_what_the_extractor_returns_is_read_by_the_papers_rules(output: str, result: str) -> None:
    assert read_extraction(output, QUESTIONS[0]) == result


def test_free_text_is_read_by_the_second_model_and_the_unknown_is_dropped(tmp_path: Path) -> None:
    def extract(request: Request) -> Reply:
        said = request.messages[1].content
        letter = next(letter for letter in "ABX" if f"I take {letter}" in said)
        return Reply(
            "?" if letter == "X" else f'{{"attempted_answer": true, "answer_val": "", "answer_letter": "{letter}"}}'
        )

    log = asked(tmp_path, "free-text", [f"I take {letter}" for letter in "ABXXXX"], participant(extract))

    (only,) = log.scores(STUDY.questions)
    assert only == AiAloneScore(QUESTIONS[0].id, "bot", "free_text", 2, 0.5, 0)


@pytest.mark.parametrize(("most", "expected"), [(None, 4000), (5000, 5000)])
def test_an_extractor_has_room_to_reason_and_is_told_how_much(
    tmp_path: Path, server: LoopbackEndpoint, most: int | None, expected: int
) -> None:
    spec = f"bot=openai:m@{server.url}"
    settings = AiAloneSettings("free-text", samples=1, max_tokens=most, reasoning_effort="low")
    measured(spec, settings, tmp_path, extractor=spec)

    told = Counter((asked["max_tokens"], asked["reasoning_effort"]) for asked in server.asked)  # one of each is a check
    assert told == Counter([*[(most or 1000, "low")] * 3, *[(expected, "low")] * 3])


def test_what_was_answered_is_not_asked_again_and_a_passing_failure_is(tmp_path: Path) -> None:
    # Asking all again would cost twice; giving a failure up for good would lose a sample to a busy endpoint.
    ids: list[str] = []

    def fails_once(request: Request) -> Reply | Failure:
        ids.append(request.conversation_id)
        if request.conversation_id.endswith("|1|reply") and ids.count(request.conversation_id) == 1:
            return Failure("busy", transient=True)
        return Failure("refused") if request.conversation_id.endswith("|2|reply") else Reply("A")

    for _ in range(3):
        log = AiAloneLog(Workspace(results=tmp_path), "bot", "letter-only-zero-shot")
        record(log, SAMPLES, fails_once)

    assert sorted(ids) == sorted([*(sample.id("reply") for sample in SAMPLES), *(q.id + "|1|reply" for q in QUESTIONS)])
    assert len(log.results(SAMPLES)) == 4


def free_text(folder: Path, server: LoopbackEndpoint, samples: int, *more: str) -> int:
    """Exit code of the command, about the four questions of a sample study."""
    if not (study := folder / "study").exists():
        assert main(["sample", str(study), "--questions", "4", "--chats", "2"]) == 0
    who = f"--assistant m=openai:m@{server.url} --extractor m=openai:m@{server.url} --method free-text".split()
    return main(["ai-alone", "--study", str(study), *who, "--results", str(folder), "--samples", str(samples), *more])


def test_a_budget_ends_the_asking_and_a_larger_one_goes_on(
    tmp_path: Path, server: LoopbackEndpoint, capsys: pytest.CaptureFixture[str]
) -> None:
    # Likely mistakes: all samples begin before the first has cost anything; what earlier runs cost is forgotten; the
    # extractor is free; what was not asked counts as failed.
    prices = ["--assistant-price", "1000/1000", "--extractor-price", "2000/0", "--max-tokens", "20"]
    used = []
    for more in (["--budget-tokens", "3000"], ["--budget-tokens", "6000"], []):
        capsys.readouterr()
        assert free_text(tmp_path, server, 30, *prices, *more) == (4 if more else 0)
        told = capsys.readouterr().out
        read, written, dollars = (
            float(part.strip(" $").split()[0].replace(",", ""))
            for part in re.findall("tokens: (.*) read, (.*) written, (.*)", told)[0]
        )
        used.append(read + written)
        assert ("samples are left" in told) == bool(more)
        assert "failed" not in told
    rows = [cast("dict[str, Any]", row) for _, row in read_log(tmp_path / "ai_alone" / "m-free_text.jsonl")]
    by_hand = sum(
        row["prompt_tokens"] + row["tokens"] if row["stage"] == "reply" else 2 * row["prompt_tokens"] for row in rows
    )

    assert used[0] < 3300
    assert 3000 < used[1] < 6600
    assert len(rows) == len({row["id"] for row in rows}) == 240
    assert len(server.asked) < 250  # nothing twice, but for the checks
    assert dollars == pytest.approx(by_hand / 1000, abs=0.01)


def test_what_failed_costs_too(tmp_path: Path) -> None:
    # The next run knew nothing of it, and spent the budget again.
    log = AiAloneLog(Workspace(results=tmp_path), "bot", "letter-only-zero-shot")
    record(log, SAMPLES[:1], lambda _: Failure("only reasoning", transient=True, tokens=90, prompt_tokens=9))

    assert log.usages() == [Usage(assistant_tokens=90, assistant_prompt_tokens=9)]


def test_an_extractor_that_writes_a_lot_does_not_break_the_budget(
    tmp_path: Path, server: LoopbackEndpoint, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # More samples began than fit, before one had ended and told what the extractor costs.
    monkeypatch.setattr("benchmarks.loopback_endpoint.said_to", lambda _prompt: "word " * 1000)
    prices = ["--assistant-price", "0/0", "--extractor-price", "0/100", "--max-tokens", "5", "--budget-usd", "3"]
    server._latency = lambda _: 0.01
    assert free_text(tmp_path, server, 40, *prices, "--concurrency", "4") == 4
    told = capsys.readouterr().out
    assert float(re.findall(r"written, \$(.*)", told)[0]) <= 3
    assert "samples are left" in told


def test_scores_of_the_settings_before_go_when_they_are_overwritten(tmp_path: Path, server: LoopbackEndpoint) -> None:
    # A run that was killed left the old model's accuracy beside the new model's settings, to be used as a baseline.
    settings = AiAloneSettings("letter-only-zero-shot", samples=2)
    server.models = ("m", "n")
    table = measured(f"bot=openai:m@{server.url}", settings, tmp_path).table
    assert table.exists()
    server.will(completion("ready"), *[error(401, "revoked")] * 9)
    with pytest.raises(ChatbenchError):
        measured(f"bot=openai:n@{server.url}", settings, tmp_path, overwrite=True)
    assert not table.exists()


def test_what_failed_for_good_is_not_left_for_a_larger_budget(tmp_path: Path) -> None:
    log = AiAloneLog(Workspace(results=tmp_path), "bot", "free-text")
    replies = iter([Failure("refused"), Failure(SPENT, transient=True), Reply("B"), Reply("A")])
    extractions = iter([Failure(SPENT, transient=True), Reply("{}")])
    record(log, SAMPLES[:4], lambda _: next(replies), participant(lambda _: next(extractions)))

    assert log.unfinished(SAMPLES, extracted=True) == 2 + 2
    assert log.unfinished(SAMPLES, extracted=False) == 1 + 2


def test_each_sample_has_a_seed_of_its_own_which_a_second_run_would_give_it_again(tmp_path: Path) -> None:
    seeds: list[int] = []
    for folder in ("one", "two"):
        log = AiAloneLog(Workspace(results=tmp_path / folder), "bot", "letter-only-zero-shot")
        record(log, SAMPLES, lambda request: Reply(str(seeds.append(request.seed))), seed=7)

    assert seeds[:6] == seeds[6:]
    assert len(set(seeds)) == 6


def test_a_run_says_how_many_replies_were_cut_off_and_which_models_answered(tmp_path: Path) -> None:
    # Replies of other samples are no part of it; a version of the model asked for is no news.
    log = AiAloneLog(Workspace(results=tmp_path), "bot", "free-text")
    replies = iter([
        Reply("thinking of", finish="length", model="big"), Failure("the server is down", transient=True),
        Reply("B it is", model="small"), Reply("A it is", model="small"), Reply("it", finish="length", model="x"),
    ])  # fmt: skip
    extractor = participant(lambda _: Reply("{}", model="reader-2026", finish="content_filter"))
    record(log, SAMPLES[:5], lambda _: next(replies), extractor)

    assert log.trouble(SAMPLES[:4], {"reply": "big", "extraction": "reader"}) == [
        "1 failed: the server is down (the same command tries them again)",
        "1 replies of the assistant were cut off at --max-tokens",
        "3 replies of the extractor were cut off by a content filter",
        "the assistant: big was requested; models that answered (replies): small in 2, big in 1",
    ]


def test_the_table_is_read_as_a_studys_own(tmp_path: Path) -> None:
    log = asked(tmp_path, "letter-only-zero-shot", ["A", "A", "B", "B", "x", "A"])
    scores = log.scores(STUDY.questions)
    table = log.write_table(STUDY.questions)

    assert list(read_ai_alone(table, STUDY.questions, Intake())) == scores
    with table.open(newline="") as file:
        assert next(csv.DictReader(file)) == {
            "question_id": QUESTIONS[0].id, "model": "bot", "letter_only_zero_shot_count": "3",
            "letter_only_zero_shot_acc": str(2 / 3), "letter_only_zero_shot_invalid": "0",
            "letter_only_zero_shot_acc_valid": str(2 / 3),
        }  # fmt: skip


def test_measured_here_stands_beside_the_studys_scores_under_a_name_of_its_own(tmp_path: Path) -> None:
    # One name for both would pool them in one row; both of one assistant would count it twice.
    log = asked(tmp_path, "letter-only-zero-shot", ["A"] * 6)
    log.write_table(STUDY.questions)
    own = AiAloneScore(QUESTIONS[0].id, "bot", "letter_only_zero_shot", 50, 0.5, 0)
    others = replace(own, assistant="other")

    beside, notes = with_measured_here(replace(STUDY, ai_alone=(others,)), Workspace(results=tmp_path), "s")
    kept, preferred = with_measured_here(replace(STUDY, ai_alone=(own,)), Workspace(results=tmp_path), "s")
    unlike, left_out = with_measured_here(STUDY, Workspace(results=tmp_path), "another study")

    assert [score.method for score in beside.ai_alone] == ["letter_only_zero_shot"] + 2 * [
        "letter_only_zero_shot, measured here"
    ]
    assert "letter_only_zero_shot of bot: measured here on 2 questions, 3 to 3 samples each" in notes[0]
    assert kept.ai_alone == (own,)
    assert "the study has its own" in preferred[0]
    assert unlike.ai_alone == ()
    assert "other questions" in left_out[0]


@pytest.mark.parametrize(
    ("method", "more", "found"),
    [
        ("free-text", {}, "needs a second model"),
        ("letter-only-zero-shot", {"extractor": "scripted:strong"}, "--extractor does nothing"),
        ("letter-only-few-shot", {}, "needs the five examples"),
        ("letter-only-zero-shot", {"mmlu": Path("x")}, "--mmlu does nothing"),
    ],
)
def test_what_a_method_needs_or_has_no_use_for_is_said(
    tmp_path: Path, method: Method, more: dict[str, object], found: str
) -> None:
    with pytest.raises(ChatbenchError, match=found):
        measured("scripted:strong", AiAloneSettings(method), tmp_path, **more)


def test_questions_are_named_or_all(tmp_path: Path) -> None:
    assert questions_of(STUDY, workspace=Workspace(tmp_path)) == QUESTIONS
    assert questions_of(STUDY, ids=[QUESTIONS[1].id], workspace=Workspace(tmp_path)) == QUESTIONS[1:]
    with pytest.raises(ChatbenchError, match="no question 'q' in the study"):
        questions_of(STUDY, ids=["q"], workspace=Workspace(tmp_path))


def test_a_model_on_this_machine_is_asked_with_few_shots_and_asked_for_more_later(tmp_path: Path) -> None:
    (tmp_path / "mmlu" / "dev").mkdir(parents=True)
    rows = "".join(f"Example {n}?,1,2,3,4,C\n" for n in range(5))
    (tmp_path / "mmlu" / "dev" / "elementary_mathematics_dev.csv").write_text(rows)
    model = save_tiny_model(tmp_path / "bot", context=512)

    def run(samples: int, questions: Sequence[Question]) -> list[str]:
        settings = AiAloneSettings("letter-only-few-shot", samples)
        return measured(f"local:{model}", settings, tmp_path, questions=questions, mmlu=tmp_path / "mmlu").lines()

    first, more = run(2, QUESTIONS[:1]), run(3, QUESTIONS)

    assert first[0].startswith("bot, letter-only-few-shot: 1 questions, 2 samples, ")
    assert more[1].startswith("4 new replies -> ")
    scores = read_ai_alone(tmp_path / "ai_alone" / "bot-letter_only_few_shot.csv", STUDY.questions, Intake())
    assert [score.count for score in scores] == [3, 3]


def test_what_was_measured_here_is_a_baseline_of_the_scores_and_a_note_says_so(tmp_path: Path) -> None:
    # Questions by their number: people are right the more often the later the question, and so is this assistant.
    place = prepared(tmp_path)
    write_log(place, "split_0")
    questions = place.study.questions
    log = AiAloneLog(place, "gpt-4o", "letter-only-zero-shot")
    samples = [Sample(question, index) for question in questions.values() for index in range(10)]
    record(log, samples, sometimes_b, questions=place.manifest.questions_sha256)
    log.write_table(questions)

    found = eval_chatbench("tiny", workspace=place, resampling=Resampling(0))

    predictor = Predictor("AI alone", method="letter_only_zero_shot, measured here")
    assert found.estimates()["gpt-4o", predictor, "pearson"].mean > 0.9
    assert isinstance(found.estimates()["llama-3.1-8b", predictor, "pearson"].mean, Undefined)
    assert any("letter_only_zero_shot of gpt-4o: measured here on 10 questions" in note for note in found.notes)


def sometimes_b(request: Request) -> Reply:
    """Right (B) in as many samples of ten as the question's number."""
    _, number = request.question_id.rsplit("-", 1)
    return Reply("B" if int(request.conversation_id.split("|")[1]) < int(number) else "C")
