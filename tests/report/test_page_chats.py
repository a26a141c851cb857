"""The chats of a page as values: what the index says of each, where its text is, and what each token cost."""

from __future__ import annotations

import base64
import gzip
import json
import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import pytest
from tests.support.page_of_chats import HELD_OUT, QUESTIONS, chats, person, scored_turn, simulated
from tests.support.simulated_logs import prepared, write_log, write_perplexity

from chatbench.data.workspace import Workspace
from chatbench.report import page_chats as page_chats_module
from chatbench.report.page import packed
from chatbench.report.page_chats import (
    CHATS_PER_PART,
    PageChats,
    RunChats,
    Shades,
    belongs_to,
    held_out_splits,
    in_page_order,
    page_chats,
    report_chats,
    run_chats,
    shade_parts,
)
from chatbench.scoring.eval_ppl import ScoredTurn, scored_turns_path, tokens_origin, write_scored_turns


def unpacked(text: str) -> object:
    """What `packed` was given."""
    value: object = json.loads(gzip.decompress(base64.b64decode(text)))
    return value


def index_of(later: Any) -> dict[str, Any]:
    return cast(dict[str, Any], unpacked(later["chats-index"]))


def test_packed_values_come_back_and_are_plain_letters() -> None:
    value = {"said": "</script>\u2028\x00\ud800é", "number": 0.1}

    assert unpacked(packed(value)) == value
    assert re.fullmatch(r"[A-Za-z0-9+/=]+", packed(value))
    assert packed(value) == packed(value)  # no time of day inside: the same results give the same page
    with pytest.raises(ValueError, match="JSON compliant"):
        packed(float("nan"))


def test_the_text_of_each_chat_lies_where_the_index_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_chats_module, "PART_CHARACTERS", 40)  # several chats a part, and several parts
    rows = chats()

    made = page_chats(rows, QUESTIONS, HELD_OUT)

    index = index_of(made.later)
    starts = [*index["starts"], len(rows)]
    assert len(starts) > 3
    for part, (start, end) in enumerate(pairwise(starts)):
        texts = cast(list[dict[str, Any]], unpacked(made.later[f"chats-{part}"]))
        assert [text["turns"] for text in texts] == [[turn.text for turn in row.turns] for row in rows[start:end]]
    assert f"chats-{len(starts) - 1}" not in made.later
    assert made.first == {"chats": 7, "people": 4, "simulated": 3}


def test_the_index_says_of_each_chat_what_it_is() -> None:
    index = index_of(page_chats(chats(), QUESTIONS, HELD_OUT).later)

    rows = index["rows"]
    place = rows["id"].index("tiny/fine-tuned/split_0/sums-1/gpt-4o/1")
    assert index["questions"][rows["question"][place]] == {
        "id": "sums-1", "subset": "sums", "text": "What is 2 + 2?", "options": ["3", "4", "5", "6"], "answer": "B",
        "kind": "choice", "right": [],
        "splits": ["split_0", "split_1"],
    }  # fmt: skip
    assert index["participants"][rows["participant"][place]] == "fine-tuned"
    assert index["terminations"][rows["termination"][place]] == "no_answer"
    assert [index["failures"][failure] for failure in rows["observed"][place]] == ["role_flip"]
    assert (rows["letter"][place], rows["correct"][place], rows["turns"][place]) == ("", -1, 1)
    assert rows["correct"][rows["id"].index("people/sums-1/gpt-4o/1")] == 0
    assert all(len(column) == 7 for column in rows.values())


def test_the_list_shows_how_a_chat_begins_on_one_line_and_no_more() -> None:
    long = person("sums-1", 0, "B", "one\n\ntwo  three " + "x" * 1_000_000, "Yes.")

    snippet = index_of(page_chats([long], QUESTIONS, HELD_OUT).later)["rows"]["snippet"][0]

    assert snippet.startswith("one two three xxx")
    assert len(snippet) == 90


def test_two_chats_of_one_link_are_refused() -> None:
    with pytest.raises(ValueError, match="people/sums-1/gpt-4o/3"):
        in_page_order([person("sums-1", 3, "B", "a"), simulated("sums-1", 0, "B", "a"), person("sums-1", 3, "C", "a")])


def test_costs_are_told_in_lengths_as_a_browser_counts_and_in_hundredths() -> None:
    # Python counts 🙂 as one character, a browser as two: every later token would be off by one.
    costs = {7: {0: scored_turn(["I ", "🙂", " B"], [0.004, 1.236, 12.0]), 2: scored_turn(["x"], [0.5])}}

    known, parts = shade_parts([Shades("tiny", "split_3", costs)])

    assert known == [{"model": "tiny", "split": "split_3", "first_part": 0, "starts": [7]}]
    assert unpacked(parts["shades-0"]) == {"7": [[[2, 2, 2], [0, 124, 1200]], None, [[1], [50]]]}


def test_costs_of_many_chats_are_read_a_part_at_a_time() -> None:
    costs = {3 * row: {0: scored_turn(["x"], [0.5])} for row in range(CHATS_PER_PART + 1)}

    other = Shades("a", "split_1", {4: {0: scored_turn(["y"], [1])}})
    known, parts = shade_parts([Shades("a", "split_0", costs), other])

    assert [each["starts"] for each in known] == [[0, 3 * CHATS_PER_PART], [4]]
    assert [each["first_part"] for each in known] == [0, 2]
    assert list(cast(dict[str, Any], unpacked(parts["shades-1"]))) == [str(3 * CHATS_PER_PART)]


def test_costs_of_other_words_than_were_said_are_not_shown() -> None:
    chat = person("sums-1", 0, "B", " two and two? ", "Four.")

    assert belongs_to(scored_turn(["two and", " two?", " [END]"], [0, 0, 0]), chat)
    assert belongs_to(scored_turn(["Answer: B", " [END]"], [0, 0], 1), chat)
    assert not belongs_to(scored_turn(["two and", " three?", " [END]"], [0, 0, 0]), chat)
    assert not belongs_to(scored_turn(["anything"], [0], 2), chat)


@pytest.fixture
def place(tmp_path: Path) -> Workspace:
    place = prepared(tmp_path)
    write_log(place, "split_0")
    write_log(place, "split_0", base_model=True, leave_out=3)
    return place


def gathered(place: Workspace) -> PageChats:
    runs = list(run_chats("tiny", place))
    return report_chats(runs, study=place.study, held_out=held_out_splits(place), models=["tiny"], workspace=place)


def test_the_page_holds_peoples_chats_about_held_out_questions_and_all_simulated_ones(place: Workspace) -> None:
    made = gathered(place)

    rows = index_of(made.later)["rows"]
    participants = [index_of(made.later)["participants"][each] for each in rows["participant"]]
    assert [participants.count(each) for each in ("fine-tuned", "base model")] == [40, 37]
    held_out = {each["id"] for each in index_of(made.later)["questions"] if each["splits"]}
    about = [chat for chat in place.study.conversations if chat.question_id in held_out]
    assert participants.count("people") == len(about)
    # Worker ids name people: a page that is mailed must not hold them.
    everything = str([unpacked(part) for part in made.later.values()])
    assert not any(chat.worker_id in everything for chat in about)


def test_what_a_simulator_wrote_is_told_where_it_was_not_just_the_letter(place: Workspace) -> None:
    plain = next(iter(run_chats("tiny", place))).chats[0]
    odd = replace(plain, letter=None, answer_text="(B)", final_output="Answer: (B)", lenient_letter="B")
    told = replace(plain, letter="B", answer_text="B", final_output="Answer: B", index=99)
    runs = [RunChats("tiny", "split_0", "fine-tuned", (odd, told))]

    made = report_chats(runs, study=None, held_out={}, models=[], workspace=place)

    first, second = cast(list[dict[str, Any]], unpacked(made.later["chats-0"]))
    assert (first["written"], first["lenient"]) == ("Answer: (B)", "B")
    assert "written" not in second


def test_results_without_study_and_splits_still_show_what_was_simulated(place: Workspace) -> None:
    runs = list(run_chats("tiny", place))
    made = report_chats(runs, study=None, held_out={}, models=["tiny"], workspace=place)

    assert made.first == {"chats": 77, "people": 0, "simulated": 77, "shades": []}


def write_costs(place: Workspace, origin_weights: str) -> str:
    """Stored perplexity of split_0, and the tokens of one chat; the id of its question."""
    question_id = place.split("split_0").question_ids("test")[0]
    origin = tokens_origin(write_perplexity(place, "split_0", weights="sha256:1") | {"weights": origin_weights})
    chat = next(chat for chat in place.study.conversations if chat.question_id == question_id)
    turn = ScoredTurn(chat.id, 0, (chat.turns[0].text, " [END]"), (1.5, 0.25))
    write_scored_turns(scored_turns_path(place.perplexity("tiny", "split_0")), origin, [turn])
    return question_id


def test_what_tokens_cost_stands_at_the_row_of_its_chat(place: Workspace) -> None:
    question_id = write_costs(place, "sha256:1")

    made = gathered(place)

    (known,) = cast(list[dict[str, Any]], made.first["shades"])
    assert (known["model"], known["split"]) == ("tiny", "split_0")
    costs = cast(dict[str, Any], unpacked(made.later["shades-0"]))
    assert index_of(made.later)["rows"]["id"][int(next(iter(costs)))].startswith(f"people/{question_id}/")
    assert [turn[1] for turn in next(iter(costs.values()))] == [[150, 25]]


def test_token_costs_of_a_model_that_was_trained_again_are_not_shown(place: Workspace) -> None:
    write_costs(place, "sha256:other")

    assert gathered(place).first["shades"] == []
