r"""Each assistant of a study held out in turn: predictions without its people, and with some of them, and the truth.

The truth is the accuracy of all people with it, mean over questions. The prediction takes the other assistants as the
known ones. Real answers are drawn at random from the study's, 100 times for each number.

    python benchmarks/estimate_table.py --data data --results results --model tiny
    python benchmarks/estimate_table.py --study studies/halie       # no model: see below

Without a model the "simulated" accuracy of a question is that of people with the other assistants (as a simulator would
say that knows these people and questions, and of the new assistant nothing): it needs no simulation.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from chatbench.core.records import Answer, Study
from chatbench.data.open_study import open_study
from chatbench.data.workspace import Workspace
from chatbench.estimation.estimate import held_out_assistants, rectified_answers
from chatbench.estimation.new_assistant import HeldOut, Predicted, Rectified, predict, variance_of_people
from chatbench.metrics.pairs import human_outcomes, predictions


def stand_ins(study: Study) -> list[HeldOut]:
    """Of each assistant, with people of the other ones in the simulator's place."""
    human = predictions(human_outcomes(study, set(study.questions)))
    found = []
    for name in study.assistants:
        others = {
            question: [
                human[question, other].accuracy
                for other in study.assistants
                if (question, other) in human and other != name
            ]
            for question in study.questions
        }
        kept = tuple(sorted(q for q in study.questions if (q, name) in human and others[q]))
        answers = with_assistant(study, name)
        found.append(
            HeldOut(
                name, kept, np.array([human[q, name].accuracy for q in kept]),
                np.array([float(np.mean(others[q])) for q in kept]), len(answers), variance_of_people(answers),
            )
        )  # fmt: skip
    return found


def with_assistant(study: Study, name: str) -> list[Answer]:
    """People's answers with one assistant."""
    return [answer for answer in study.answers if (answer.kind, answer.assistant) == ("user-AI", name)]


def print_table(study: Study, held_out: list[HeldOut], draws: int, sizes: list[int]) -> None:
    """Markdown: a row per assistant, and per assistant and number of real answers."""
    rng = np.random.default_rng(0)
    print("| held out | truth | simulated | predicted from the others (95 %) |\n|---|---:|---:|---:|")
    for one in held_out:
        shares = dict(zip(one.questions, one.simulated.tolist(), strict=True))
        found = predict(shares, [other for other in held_out if other is not one])
        said = "undefined"
        if isinstance(found, Predicted):
            e = found.estimate
            said = f"{100 * e.value:.1f} ({100 * e.low:.1f} to {100 * e.high:.1f})"
        print(f"| {one.assistant} | {100 * one.human.mean():.1f} | {100 * one.simulated.mean():.1f} | {said} |")
    columns = ("real answers", "rectified", "covers", "width", "alone covers", "its width", "answers saved", "loses")
    print(f"\n| held out | {' | '.join(columns)} |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|---:|")
    for one in held_out:
        shares, truth = dict(zip(one.questions, one.simulated.tolist(), strict=True)), float(one.human.mean())
        answers = [each for each in with_assistant(study, one.assistant) if each.question_id in shares]
        for size in (size for size in sizes if size <= len(answers)):
            drawn = [[answers[at] for at in rng.choice(len(answers), size, replace=False)] for _ in range(draws)]
            made = [each for each in (rectified_answers(some, shares) for some in drawn) if isinstance(each, Rectified)]
            both, alone = [each.rectified for each in made], [each.alone for each in made]
            held = [100 * np.mean([e.low <= truth <= e.high for e in each]) for each in (both, alone)]
            width = [100 * np.mean([e.high - e.low for e in each]) for each in (both, alone)]
            saved = np.mean([each.effective_answers for each in made]) - size
            value, loses = (100 * np.mean(each) for each in ([e.value for e in both], [each.loses for each in made]))
            print(
                f"| {one.assistant} | {size} | {value:.1f} | {held[0]:.0f} % | {width[0]:.1f} | {held[1]:.0f} % | "
                f"{width[1]:.1f} | {saved:.1f} | {loses:.0f} % |"
            )


def main(arguments: list[str] | None = None) -> None:
    """Prints both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", type=Path)
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--results", type=Path, default=Path("results"))
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--draws", type=int, default=100)
    told = parser.parse_args(arguments)
    if told.study:
        study = open_study(told.study)
        held_out = stand_ins(study)
    else:
        place = Workspace(told.data, told.results)
        study = place.study
        held_out = list(held_out_assistants(place, told.model, place.manifest.split_ids, study, []).values())
    print_table(study, held_out, told.draws, [30, 60, 120])


if __name__ == "__main__":
    main()
