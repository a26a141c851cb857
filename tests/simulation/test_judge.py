"""Answers that only a checker can judge: who is asked what, how often, and what a score says about it."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from benchmarks.loopback_endpoint import LoopbackEndpoint, completion, error

from chatbench.api import judge as judged_by
from chatbench.cli import main
from chatbench.core.answer_kinds import Outcome
from chatbench.core.errors import ChatbenchError
from chatbench.core.records import Answer, Question, Study
from chatbench.data.workspace import Workspace
from chatbench.metrics.agreement import Undefined
from chatbench.metrics.names import PEOPLE
from chatbench.protocol.dialogue import FunctionParticipant, Reply, Request
from chatbench.scoring.eval_chatbench import eval_chatbench
from chatbench.scoring.score_files import read_score_table
from chatbench.simulation.judge import Judge, judge_answers, judge_messages, read_score, read_verdicts, with_verdicts

QUESTION = Question("q", "code", "Write {answer}.", (), "", Outcome())
TURNS = [{"role": "user", "text": "help"}, {"role": "assistant", "text": "Let me see."}]


def study(*people: tuple[str | None, float]) -> Study:
    """One question, and what each person handed in, with the study's score."""
    answers = [
        Answer("q", f"w{number}", "user-AI", "bot", "", given, correct)
        for number, (given, correct) in enumerate(people)
    ]
    return Study("s", {"q": QUESTION}, (), tuple(answers))


def by_name(_question: Question, answer: str) -> float:
    return {"good": 1, "half": 0.5}.get(answer, 0)


def test_agreement_with_people_is_accuracy_and_kappa(tmp_path: Path) -> None:
    # By hand: verdicts 1 1 0 0, the study 1 0 0 0: 3 of 4 agree; by chance 1/2 * 1/4 + 1/2 * 3/4 = 1/2 would.
    people = study(("good", 1), ("half", 0.2), ("bad", False), ("poor", 0.4), (None, True))

    found = judge_answers(Judge(by_name), [("q", "bad"), ("q", "good"), ("q", "half"), ("q", "poor")], people,
                          Workspace(results=tmp_path))  # fmt: skip

    assert (found.accuracy, found.kappa, found.answers, found.unread) == (0.75, 0.5, 4, 0)
    assert "accuracy 0.750, kappa 0.50 on 4 answers of people" in found.text()


def test_a_study_without_answers_of_people_leaves_the_agreement_unknown(tmp_path: Path) -> None:
    # 0/0, or an agreement of 1 over nothing, is the likely mistake.
    found = judge_answers(Judge(by_name), [("q", "good")], study((None, 1)), Workspace(results=tmp_path))

    assert isinstance(found.accuracy, Undefined)
    assert isinstance(found.kappa, Undefined)
    assert "unknown" in found.text()


@pytest.mark.parametrize(("scored", "asked"), [(None, 8), (7, 20), (8, 8)])
def test_a_judge_that_gives_no_score_is_paid_for_eight_replies(tmp_path: Path, scored: int | None, asked: int) -> None:
    # It was asked about every answer, and the run went on.
    requests: list[Request] = []

    def reply(request: Request) -> Reply:
        requests.append(request)
        return Reply('{"score": 1}' if len(requests) - 1 == scored else "I'd say\x1b[31m it is\ngood. " * 20)

    judge = Judge(FunctionParticipant(reply, {"name": "chatty"}), "Is it good?")
    answers, place = [("q", f"answer {number}") for number in range(20)], Workspace(results=tmp_path)
    if asked == 20:
        assert judge_answers(judge, answers, study(), place).unread == 19
        return
    for _ in range(2):  # repeating the command pays for nothing more
        with pytest.raises(ChatbenchError) as caught:
            judge_answers(judge, answers, study(), place)
    assert len(requests) == asked
    assert "the judge chatty has given 8 replies without a score, such as \"I'd say\\x1b[31m it" in caught.value.found
    assert len(caught.value.found) < 300
    assert "remove" in caught.value.fix


def test_no_answer_is_judged_twice_and_a_run_that_was_stopped_goes_on(tmp_path: Path) -> None:
    asked: list[str] = []

    def checker(_question: Question, answer: str) -> float:
        asked.append(answer)
        if len(asked) == 2:
            raise KeyboardInterrupt
        return 1

    place, answers = Workspace(results=tmp_path), [("q", name) for name in ("a", "b", "a", "c")]
    with pytest.raises(KeyboardInterrupt):
        judge_answers(Judge(checker), answers, study(), place)
    for _ in range(2):
        judge_answers(Judge(checker), answers, study(), place)

    assert asked == ["a", "b", "b", "c"]
    assert read_verdicts(place, study())[0] == {("q", name): 1 for name in "abc"}
    with pytest.raises(ChatbenchError, match="verdicts of another judge"):
        judge_answers(Judge(by_name), answers, study(), place)
    with pytest.raises(ChatbenchError, match="returned 7"):
        judge_answers(Judge(lambda _question, _answer: 7), [("q", "a")], study(), Workspace(results=tmp_path / "new"))


@pytest.mark.parametrize(
    ("reply", "score"),
    [
        ('{"score": 1}', 1.0), ('Because {x}. {"score": 0.25} ', 0.25),
        (r'{"score": 1} because \frac{1}{2}', 1.0), ('{"score": 0.5, "why": {"a": 1}}', 0.5),
        ('{"score": 1} or rather {"score": 0}', 0.0), ('{"of": {"score": 1}}', None), ('{"a":' * 3000, None),
        ('{"score": true}', None), ("0.5", None), ('{"score": "0.5"}', 0.5), ('{"score": "good"}', None),
        ('{"score": -1}', None), ('{"score": NaN}', None), ("{}", None), ("", None),
    ],
)  # fmt: skip
def test_a_score_is_a_number_from_0_to_1_in_a_json_object(reply: str, score: float | None) -> None:
    assert read_score(reply) == score


def test_an_answer_that_names_a_part_of_the_prompt_stays_what_it_is() -> None:
    text = judge_messages(QUESTION, "see {rubric} {separator}", "must {run}")[1].content

    assert "Task:\nWrite {answer}.\n\nRubric:\nmust {run}\n" in text
    assert "\nsee {rubric} {separator}\n" in text


# ---- from a study to its scores ----


WORDS = ("apples", "books", "chairs", "ducks", "eggs", "forks")


def prepared(folder: Path) -> Path:
    """Six tasks; each of four people hands in something that the study scores 0.5."""
    rows = [
        {
            "kind": "user-AI", "worker_id": f"w{number}", "assistant": "bot", "turns": TURNS,
            "answer": f"half {number}", "correct": 0.5,
            "question": {"id": word, "subset": "code", "text": f"Count {word} of {word}", "answer_kind": "outcome"},
        }
        for word in WORDS for number in range(4)
    ]  # fmt: skip
    folder.joinpath("study.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    folder.joinpath("rubric.txt").write_text("Half is half.", encoding="utf-8")
    arguments = ["--study", str(folder / "study.jsonl"), "--out", str(folder / "data"), "--splits", "1"]
    assert main(["prepare-splits", *arguments]) == 0
    return folder


READY = 3
"""Small requests before anything else: to the judge, the assistant and the simulator."""


def simulated(folder: Path, server: LoopbackEndpoint, *more: str) -> int:
    """Exit code of the command; the simulator says what `said_to` says until it is forced to answer."""
    who = f"--simulator iqa-eval:openai:m@{server.url} --assistant bot=openai:m@{server.url} --max-user-turns 1"
    return main(["simulate", "u", *who.split(), *folders(folder), "--conversations", "2", "--concurrency", "1", *more])


def judged(folder: Path, server: LoopbackEndpoint, *more: str) -> int:
    """The same, with a judge."""
    return simulated(folder, server, "--judge", f"openai:m@{server.url}", "--rubric", str(folder / "rubric.txt"), *more)


def folders(folder: Path) -> list[str]:
    return ["--data", str(folder / "data"), "--results", str(folder / "results")]


def test_outcomes_are_scored_by_a_judge_whose_agreement_travels_with_the_scores(
    tmp_path: Path, server: LoopbackEndpoint, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    place, asked = Workspace(tmp_path / "data", tmp_path / "results"), []

    def said(prompt: str) -> str:
        if "You judge answers" in prompt:
            asked.append(prompt)
            return "I cannot say" if "half 3" in prompt else '{"score": 0.25}'
        return f"So, the answer is: solution {len(server.asked)}"

    monkeypatch.setattr("benchmarks.loopback_endpoint.said_to", said)
    prepared(tmp_path)

    dry = ["--dry-run", "--assistant-price", "1000/1000"]
    assert judged(tmp_path, server, *dry) == 0
    before = capsys.readouterr().out
    new_chats = 2 * len(place.split("split_0").question_ids("test"))
    assert f"judge: at most {4 * len(WORDS) + new_chats} answers" in before
    told = [before.split(mark)[1].split()[0] for mark in ("conversations, $", "simulate, about $")]
    chats, total = (float(dollars.strip(",;")) for dollars in told)
    assert total > 2 * chats
    assert judged(tmp_path, server, "--dry-run") == 0
    assert server.asked == []
    capsys.readouterr()

    assert judged(tmp_path, server) == 0
    shown = capsys.readouterr().out
    assert shown.count("judged by m") == 1  # not once more after the chats, unless it changed
    assert shown.index("judged by m: accuracy 0.000") < shown.index("conversations: answered")  # people first
    count = len(asked)
    assert judged(tmp_path, server) == 0
    assert len(asked) == count  # nothing is asked twice
    assert judged(tmp_path, server, *dry) == 0
    assert "judge: at most 0 answers" in capsys.readouterr().out

    table = eval_chatbench("u", workspace=place)
    simulated_mean, people = (
        next(each.mean for row, each in table.estimates().items() if row[1:] == (who, "accuracy"))
        for who in (table.simulator, PEOPLE)
    )
    assert (simulated_mean, people) == (0.25, 0.5)
    # Each of the six replies about "half 3" holds no score: neither right nor wrong, but counted.
    note = next(note for note in table.notes if "judged by" in note)
    assert "kappa" in note
    assert "6 replies without a score" in note
    assert table.signature["judge"]["unread"] == 6  # type: ignore[index]
    assert read_score_table(tmp_path / "results" / "scores", "u").signature == table.signature
    rows = list(csv.DictReader((tmp_path / "results" / "scores" / "u.csv").open(encoding="utf-8")))
    assert {(row["judge_judge"], row["judge_accuracy"], row["judge_answers"]) for row in rows} == {("m", "0.0", "18")}


def test_what_a_judge_refuses_and_why_it_fails_is_told_and_its_cost(
    tmp_path: Path, server: LoopbackEndpoint, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Failed requests were told as "replies without a score"; the scores' notes then denied that there was a judge.
    monkeypatch.setattr("benchmarks.loopback_endpoint.said_to", lambda _prompt: "So, the answer is: a solution")
    prepared(tmp_path)
    place = Workspace(tmp_path / "data", tmp_path / "results")
    refused = error(400, "Unsupported value: 'temperature'", param="temperature")
    server.will(refused, *[completion("ready")] * READY, *[error(400, "content policy", code="content_filter")] * 24)
    assert judged(tmp_path, server, "--assistant-price", "9/9") == 0
    told = capsys.readouterr().out

    assert "judge: m does not accept temperature: omitted" in told
    assert "24 answers could not be judged (endpoint: HTTP 400: content policy); of these, outcomes" in told
    assert "for all verdicts in this folder" in told.rpartition("\njudge: ")[2]
    notes = eval_chatbench("u", workspace=place).notes
    assert not any("no judge gave" in note for note in notes)
    assert any("only failed chats or answers that the judge gave no score" in note for note in notes)


@pytest.mark.parametrize(("most", "expected"), [("1000", 4000), ("5000", 5000)])
def test_a_judge_has_room_to_reason_and_is_told_how_much(
    tmp_path: Path, server: LoopbackEndpoint, most: str, expected: int
) -> None:
    prepared(tmp_path)
    judge = ["--judge", f"openai:m@{server.url}", "--rubric", str(tmp_path / "rubric.txt")]
    server.will(*[completion("<think>B?", "length")] * 3)

    assert simulated(tmp_path, server, *judge, "--reasoning-effort", "low", "--max-tokens", most) == 2
    server.will(*[completion("<think>B?", "length")] * 3)
    with pytest.raises(ChatbenchError):
        judged_by("u", judge[1], rubric=judge[3], data=tmp_path / "data", max_tokens=int(most), reasoning_effort="low")
    told = [(asked["max_tokens"], asked["reasoning_effort"]) for asked in server.asked]
    assert told == [(expected, "low")] * 6


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ([], "questions of kind outcome"),
        (["--judge", "openai:m@http://127.0.0.1:1/v1"], "no rubric"),
    ],
)
def test_without_a_checker_or_a_rubric_nothing_is_asked(
    tmp_path: Path, server: LoopbackEndpoint, capsys: pytest.CaptureFixture[str], more: list[str], message: str
) -> None:
    prepared(tmp_path)

    assert simulated(tmp_path, server, *more) == 2
    assert message in capsys.readouterr().err
    plan = ["plan", "tiny", *folders(tmp_path), "--conversations", "400", "--assistant", "replay:all"]
    assert main([*plan, *more]) == 2  # its units failed after fine-tuning
    assert message in capsys.readouterr().err
    judged = [*plan, "--judge", "openai:m", "--rubric", str(tmp_path / "rubric.txt")]
    assert main(judged) == 0  # one run can do it, array jobs cannot
    assert main([*judged, "--slurm", str(tmp_path / "x.sbatch")]) == 2
    assert "--judge with chats in blocks" in capsys.readouterr().err
    assert main([*plan, "--judge", "later"]) == 0
    assert server.asked == []


def test_a_function_judges_what_was_simulated_for_later(tmp_path: Path, server: LoopbackEndpoint) -> None:
    prepared(tmp_path)
    assert simulated(tmp_path, server, "--judge", "later") == 0
    place = Workspace(tmp_path / "data", tmp_path / "results")
    assert any("no judge gave" in note for note in eval_chatbench("u", workspace=place).notes)

    def checker(_question: Question, answer: str) -> float:
        return answer.startswith("half")

    found = judged_by("u", checker, data=place.data, results=place.results)

    assert (found.accuracy, found.answers) == (1.0, 24)
    assert with_verdicts(place.study, place)[1] == found
    assert not any("no judge gave" in note for note in eval_chatbench("u", workspace=place).notes)

    first = checker

    def checker(_question: Question, _answer: str) -> float:  # type: ignore[no-redef]
        return 1.0

    assert judged_by("u", first, data=place.data, results=place.results) == found
    with pytest.raises(ChatbenchError, match="verdicts of another judge"):  # it has the same name
        judged_by("u", checker, data=place.data, results=place.results)


def test_a_judge_that_breaks_down_goes_on_where_it_was(tmp_path: Path, server: LoopbackEndpoint) -> None:
    prepared(tmp_path)
    server.will(*[completion("ready")] * READY, *[completion('{"score": 1}')] * 3, *[error(500, "oops")] * 50)
    assert judged(tmp_path, server, "--patience", "0.1") == 2
    server.script.clear()
    before = len(server.asked)

    assert judged(tmp_path, server) == 0

    prompts = [str(each["messages"]) for each in server.asked[before:]]
    assert sum("You judge answers" in prompt and "half" in prompt for prompt in prompts) == 24 - 3


def test_what_the_judge_reads_and_writes_counts_towards_the_budget(
    tmp_path: Path, server: LoopbackEndpoint, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # A judge that is asked whatever it costs spends a budget many times over before a single chat has begun.
    monkeypatch.setattr("benchmarks.loopback_endpoint.said_to", lambda _prompt: '{"score": 1}')
    prepared(tmp_path)

    judged(tmp_path, server, "--budget-tokens", "500")

    told = capsys.readouterr().out
    left = int(told.partition("judge: ")[2].partition("judge: ")[2].split()[0])
    assert 0 < left < 24
    assert f"{left} of 24 answers are not judged yet" in told
    assert "answered 0" in told
    server.asked.clear()
    assert judged(tmp_path, server, "--budget-tokens", "500") == 4
    assert server.asked == []  # not even the small request
    assert f"judge: {left} of 24 answers are not judged yet; the budget is spent" in capsys.readouterr().out


def test_with_a_budget_a_judge_has_to_report_its_tokens(
    tmp_path: Path, server: LoopbackEndpoint, capsys: pytest.CaptureFixture[str]
) -> None:
    prepared(tmp_path)
    judging = completion('{"score": 1}')
    silent = replace(judging, body=json.dumps({**json.loads(judging.body), "usage": None}).encode())
    server.will(*[completion("ready")] * READY, *[silent] * 50)

    assert judged(tmp_path, server, "--budget-tokens", "500") == 2

    assert "the judge's endpoint does not report how many tokens" in " ".join(capsys.readouterr().err.split())


def tower_study(folder: Path, people: Sequence[tuple[str, bool | None]], right: str = "Paris") -> list[str]:
    """Writes six questions of kind text with what these people answered; returns the arguments that prepare it."""
    rows = [
        {
            "kind": "user-AI", "worker_id": f"w{number}", "assistant": "bot", "turns": TURNS, "answer": given,
            **({} if correct is None else {"correct": correct}),
            "question": {
                "id": word, "subset": "s", "text": f"Where is the {word} tower of {word}?", "answer_kind": "text",
                "answer": [right, f"Ville de {right}"],
            },
        }
        for word in WORDS for number, (given, correct) in enumerate(people)
    ]  # fmt: skip
    folder.joinpath("study.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    folder.joinpath("rubric.txt").write_text("Other words for the same are right.", encoding="utf-8")
    return ["--study", str(folder / "study.jsonl"), "--out", str(folder / "data"), "--splits", "1"]


def test_a_text_in_other_words_is_judged_and_people_are_measured_alike(
    tmp_path: Path, server: LoopbackEndpoint, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # Likely mistakes: people's answers stay strictly compared while simulated ones are judged, which makes simulators
    # look better than people; the judge is asked about what matches anyway; the rule counts as the study's judgement.
    asked: list[str] = []

    def said(prompt: str) -> str:
        if "You judge answers" not in prompt:
            return "So, the answer is: the French capital"
        asked.append(prompt)
        return '{"score": 1}' if "capital" in prompt else '{"score": 0}'

    monkeypatch.setattr("benchmarks.loopback_endpoint.said_to", said)
    people: list[tuple[str, bool | None]] = [
        ("paris.", None), ("France's capital", None), ("Rome", None), ("a capital, Lima", False), ("Lutetia", True),
    ]  # fmt: skip
    where = tower_study(tmp_path, people)
    assert main(["prepare-splits", *where]) == 0
    assert main(["check-study", where[1]]) == 0
    assert "simulate --judge judges simulated texts too" in capsys.readouterr().out
    place = Workspace(tmp_path / "data", tmp_path / "results")

    def accuracies() -> list[float | Undefined]:
        table = eval_chatbench("u", workspace=place)
        estimates = {row[1]: each.mean for row, each in table.estimates().items() if row[2] == "accuracy"}
        return [estimates[table.simulator], estimates[PEOPLE]]

    assert simulated(tmp_path, server) == 0  # the rule needs no judge
    assert accuracies() == [0.0, pytest.approx(2 / 5)]
    assert judged(tmp_path, server) == 0

    assert accuracies() == [1.0, pytest.approx(3 / 5)]
    assert len(asked) == 4 * len(WORDS) + len(place.split("split_0").question_ids("test"))
    assert all(r"Right answers:\nParis\nVille de Paris\n" in prompt for prompt in asked)
    found = with_verdicts(place.study, place)[1]
    assert found is not None
    assert (found.accuracy, found.answers) == (0.0, 2 * len(WORDS))  # of the two that the study judged itself


def test_texts_without_a_verdict_count_as_the_rule_says_and_are_told(
    tmp_path: Path, server: LoopbackEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Leaving them out left only the answers that match: accuracies near 1 for people and simulators.
    says = {"words": "the French capital"}
    monkeypatch.setattr(
        "benchmarks.loopback_endpoint.said_to",
        lambda prompt: '{"score": 1}' if "You judge" in prompt else f"So, the answer is: {says['words']}",
    )
    assert main(["prepare-splits", *tower_study(tmp_path, [("paris", None), ("France's capital", None)])]) == 0
    place = Workspace(tmp_path / "data", tmp_path / "results")
    assert judged(tmp_path, server) == 0
    says["words"] = "Rome"
    assert simulated(tmp_path, server, "--seed", "1", "--overwrite") == 0  # another simulator, without the judge

    table = eval_chatbench("u", workspace=place)
    means = {row[1]: each.mean for row, each in table.estimates().items() if row[2] == "accuracy"}
    assert (means[table.simulator], means[PEOPLE]) == (0.0, 1.0)
    tested = len(place.split("split_0").question_ids("test"))
    assert any(f"{tested} answers are not judged yet" in note for note in table.notes)
    assert main(["export", "u", "--to", str(tmp_path / "x.csv"), *folders(tmp_path)]) == 0
    assert judged(tmp_path, server, "--seed", "1") == 0
    assert main(["export", "u", "--to", str(tmp_path / "y.csv"), *folders(tmp_path)]) == 0
    right = [
        {row["correct"] for row in csv.DictReader((tmp_path / name).open(encoding="utf-8"))}
        for name in ("x.csv", "y.csv")
    ]
    assert right == [{"False"}, {"True"}]
    assert not any("not judged yet" in note for note in eval_chatbench("u", workspace=place).notes)


def test_a_verdict_is_about_the_question_as_it_was(tmp_path: Path) -> None:
    # A corrected question kept the verdicts on equal answers to the old one.
    asked: list[str] = []

    def checker(question: Question, answer: str) -> float:
        asked.append(f"{question.answer}: {answer}")
        return float("France" in answer and question.answer == "Paris")

    for right in ("Paris", "Berlin"):
        assert main(["prepare-splits", *tower_study(tmp_path, [("France's capital", None)], right)]) == 0
        place = Workspace(tmp_path / "data", tmp_path / "results")
        answers = [(word, "France's capital") for word in WORDS]
        judge_answers(Judge(checker), answers, place.study, place)
        judged, _ = with_verdicts(place.study, place)
        assert {each.correct for each in judged.answers} == {float(right == "Paris")}
    assert len(asked) == 2 * len(WORDS)


@pytest.mark.parametrize("judge", ["later", "model"])
def test_of_several_splits_some_may_have_nothing_to_judge(
    tmp_path: Path, server: LoopbackEndpoint, judge: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.loopback_endpoint.said_to", lambda _prompt: 'So, the answer is: A {"score": 1}')
    place = prepared(tmp_path)
    choice = {"id": "", "subset": "letters", "text": "", "options": ["1", "2"], "answer": "A"}
    rows = [
        {
            "kind": "user-AI", "worker_id": "w", "assistant": "bot", "turns": TURNS, "answer": "A",
            "question": {**choice, "id": word, "text": f"{word} or {word}?"},
        }
        for word in ("red", "green", "blue")
    ]  # fmt: skip
    with place.joinpath("study.jsonl").open("a", encoding="utf-8") as file:
        file.write("".join(json.dumps(row) + "\n" for row in rows))
    assert (
        main(["prepare-splits", "--study", str(place / "study.jsonl"), "--out", str(place / "data"), "--by", "subset"])
        == 0
    )
    named = ["later"] if judge == "later" else [f"openai:m@{server.url}", "--rubric", str(place / "rubric.txt")]

    assert simulated(place, server, "--judge", *named) == 0


def test_a_judge_that_cannot_be_read_is_told_by_its_own_option(
    tmp_path: Path, server: LoopbackEndpoint, capsys: pytest.CaptureFixture[str]
) -> None:
    prepared(tmp_path)
    for more in ([], ["--dry-run"]):
        assert simulated(tmp_path, server, "--judge", "gpt-4o", "--rubric", str(tmp_path / "rubric.txt"), *more) == 2
        assert "--judge 'gpt-4o' cannot be read" in capsys.readouterr().err


def test_chats_about_other_questions_are_not_judged(tmp_path: Path, server: LoopbackEndpoint) -> None:
    # It ended with a traceback, or judged old answers to new questions.
    prepared(tmp_path)
    assert simulated(tmp_path, server, "--judge", "later") == 0
    assert main(["prepare-splits", *tower_study(tmp_path, [("paris", None)])]) == 0

    with pytest.raises(ChatbenchError, match="simulated on other questions"):
        judged_by("u", by_name, data=tmp_path / "data", results=tmp_path / "results")
