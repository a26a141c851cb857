"""Compute the ChatBench metrics of one model, comparing simulated with human chats per split and over splits.

Reads the study, the splits and the stored chats, verifies each chat, and writes the scores to `results/scores/`.
Nothing is generated, so it can be rerun at any time. A split whose simulation is unfinished is scored on the complete
pairs, with a note.

A chat is verified if its participants match the run's settings, and parsing its final output again gives the recorded
termination and letters. If parsing differs, the new result is scored and the difference reported. (Checksums, checked
when a log is read, detect changed lines.)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import product
from typing import cast

from chatbench.core.errors import ChatbenchError
from chatbench.core.progress import WorkProgress, tracked
from chatbench.core.records import Question, SimulatedConversation, Study
from chatbench.core.settings import name_in_tables
from chatbench.data.splits import answers_sha256
from chatbench.data.workspace import Workspace
from chatbench.metrics.first_prompts import human_overlap
from chatbench.metrics.names import BASE_MODEL, PEOPLE, WHOLE
from chatbench.metrics.pairs import grouped, human_outcomes, scored_pairs
from chatbench.metrics.resampling import Interval, Resampling
from chatbench.metrics.split_metrics import NO_HUMAN_ACCURACY, SplitMetrics, split_metrics
from chatbench.metrics.text import Overlap, TokenizerName, unread
from chatbench.metrics.uncertainty import score_uncertainty
from chatbench.protocol.answers import FinalAnswer, lenient_letter
from chatbench.protocol.dialogue import expected_correct
from chatbench.protocol.prompt_styles import STYLES, Style
from chatbench.scoring.eval_ppl import is_of_prepared, perplexity_metrics, read_perplexity, refuse_other_weights
from chatbench.scoring.score_files import plain, write_question_files, write_score_table
from chatbench.scoring.score_table import Score, ScoreTable, signature
from chatbench.simulation.ai_alone import with_measured_here
from chatbench.simulation.judge import Agreement, with_verdicts
from chatbench.simulation.log import chat_options, options_text
from chatbench.simulation.participants import not_recorded
from chatbench.simulation.simulate import ChatSettings
from chatbench.simulation.split_chats import SplitChats, read_chats, simulated_splits

READ_AGAIN = ("termination", "answer_text", "letter", "lenient_letter", "forced_text", "expected_correct")
"""Fields of a record that are derived from its texts, its probabilities and the question."""
SHOWN = 10
"""Differences from the record that are printed; the others are counted."""


def reread(chat: SimulatedConversation, style: Style, question: Question) -> SimulatedConversation:
    """Derive the fields in `READ_AGAIN` again from the final output; a failed conversation is returned unchanged."""
    if chat.termination == "failed":
        return chat
    forced = chat.forced_text is not None
    said = style.read(chat.final_output or "", chat.turns, forced=forced)
    answer = said if isinstance(said, FinalAnswer) else None
    message = answer.message if answer else said.text if not isinstance(said, FinalAnswer) else ""
    letter = question.read(answer.text) if answer else None
    last = chat.answer_probabilities[-1] if chat.answer_probabilities else None
    lenient_from = answer.text if answer else message
    return replace(
        chat,
        termination=("forced" if forced else "answered") if answer else "no_answer",
        answer_text=answer.text if answer else None,
        letter=letter,
        lenient_letter=lenient_letter(lenient_from, question.options) if lenient_from and letter is None else None,
        forced_text=message if forced else None,
        expected_correct=expected_correct(question, last) if answer else None,
    )


@dataclass(slots=True)
class Verified:
    """Number of verified chats, and their differences from what was recorded."""

    chats: int = 0
    differences: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """Lines to print."""
        if not self.differences:
            return [f"{self.chats:,} chats verified: all match what was recorded"]
        more = len(self.differences) - SHOWN
        return [
            f"{self.chats:,} chats verified, {len(self.differences)} differences; the values read now are scored:",
            *(f"  {difference}" for difference in self.differences[:SHOWN]),
            *([f"  and {more} more"] if more > 0 else []),
        ]

    def notes(self) -> list[str]:
        """Notes for the score table; empty if everything is as recorded."""
        count = len(self.differences)
        return [f"{count} values differ from what was recorded; eval-chatbench lists them"] if count else []


def verified_chats(chats: SplitChats, questions: Mapping[str, Question], verified: Verified) -> SplitChats:
    """Verify the chats and return them as parsed now; differences from the record are added to `verified`.

    Raises:
        ChatbenchError: a chat's participant, style or prompts differ from its run's settings, or its style is unknown.
    """
    styles = {style.name: style for style in STYLES.values()}
    simulations = []
    for simulation in chats.simulations:
        settings, assistants = chats.settings[simulation.predictor], chats.assistants[simulation.predictor]
        again = []
        for chat in simulation.chats:
            where = f"{chats.split.id}, {simulation.predictor}, chat {chat.id}"
            pairs = {
                "the simulator": (chat.simulator, settings["simulator"]),
                f"the assistant {chat.assistant}": (chat.assistant_identity, assistants.get(chat.assistant)),
                "the style": (chat.style, settings.get("style")),
                "the prompts' hash": (chat.prompts_sha256, settings.get("prompts_sha256")),
            }
            for what, (found, expected) in pairs.items():
                if found != expected:
                    raise ChatbenchError(
                        f"{where}: {what} is {found!r}",
                        expected=f"{expected!r}, as in the run's settings",
                        fix="remove the line from the log, then simulate again to replace the chat",
                    )
            if chat.style not in styles:
                raise ChatbenchError(f"{where}: style {chat.style!r}", expected=f"one of {', '.join(styles)}")
            now = reread(chat, styles[chat.style], questions[chat.question_id])
            verified.differences += [
                f"{where}: {name} recorded as {getattr(chat, name)!r}, now read as {getattr(now, name)!r}"
                for name in READ_AGAIN
                if getattr(chat, name) != getattr(now, name)
            ]
            again.append(now)
        verified.chats += len(again)
        simulations.append(replace(simulation, chats=tuple(again)))
    return replace(chats, simulations=tuple(simulations))


def eval_chatbench(
    model: str,
    *,
    workspace: Workspace,
    splits: Sequence[str] | None = None,
    resampling: Resampling | None = None,
    verified: Verified | None = None,
    tokenizer: TokenizerName = "published",
) -> ScoreTable:
    """Score a model on its simulated splits and write the score files.

    Args:
        model: recipe, hub id or folder.
        splits: ids such as `split_0`; None selects every prepared split that has chats.
        resampling: bootstrap settings; 0 replicates omits intervals.
        verified: collects the number of verified chats and any differences from their records.
        tokenizer: of BLEU and ROUGE: the published ones, or one that reads all scripts.

    Raises:
        ChatbenchError: no chats yet, chats of other data, participants or settings, or a study that changed.
    """
    resampling, model = (resampling or Resampling()).checked(), name_in_tables(model)
    chosen, skipped = simulated_splits(workspace, model, splits)
    verified = verified or Verified()
    questions = workspace.study.questions
    chats = [verified_chats(read_chats(workspace, model, each), questions, verified) for each in chosen]
    simulated = (chat for entry in chats for simulation in entry.simulations for chat in simulation.chats)
    judged, judge = with_verdicts(workspace.study, workspace, simulated)
    study, measured_here = with_measured_here(judged, workspace, workspace.manifest.questions_sha256)
    measures = metrics_of_splits(study, chats, tokenizer)
    table = score_splits(
        workspace, model, study, chats, measures, resampling, tokenizer,
        notes=[*skipped, *measured_here, *verified.notes(), *_not_read(study, tokenizer)], judge=judge,
    )  # fmt: skip
    path = workspace.scores(model)
    write_question_files(path.parent, path.stem, study, measures, table.signature_id)
    write_score_table(path.parent, path.stem, table)
    return table


def metrics_of_splits(
    study: Study, chats: Sequence[SplitChats], tokenizer: TokenizerName = "published"
) -> dict[str, SplitMetrics]:
    """Compute all metrics of each split except perplexity, by split id."""
    by_question = grouped((chat.question_id, chat) for chat in study.conversations)
    overlaps: dict[str, Overlap | None] = {}  # human against human is the same in every split, so computed once
    measures = {}
    whole = study
    for entry in chats:
        train, test = (set(entry.split.question_ids(part)) for part in ("train", "test"))
        study = entry.split.held_out_records(whole)
        if study is not whole:  # held-out records only: none to fit baselines on
            train, overlaps = set(), {}
            by_question = grouped((chat.question_id, chat) for chat in study.conversations)
        lacking = sorted(test - overlaps.keys())
        for question_id in tracked(lacking, f"{entry.split.id}, people's first prompts", "questions"):
            overlaps[question_id] = human_overlap(by_question.get(question_id, []), tokenizer)
        with WorkProgress(f"{entry.split.id}, first prompts", "questions") as progress:
            trained_on = set(whole.assistants) - set(study.assistants)
            simulations = [each.with_assistants(trained_on, others=True) for each in entry.simulations]
            measures[entry.split.id] = split_metrics(study, train, test, simulations, overlaps, tokenizer, progress)
    return measures


def score_splits(
    workspace: Workspace,
    model: str,
    study: Study,
    chats: Sequence[SplitChats],
    measures: Mapping[str, SplitMetrics],
    resampling: Resampling,
    tokenizer: TokenizerName = "published",
    *,
    notes: Sequence[str] = (),
    judge: Agreement | None = None,
) -> ScoreTable:
    """Build the score table of the given splits without writing it; `judge` scored answers that comparison cannot."""
    scores: list[Score] = []
    about = "answers of kind outcome, and texts that match no right answer"
    notes = [*notes, *([f"{about}: {judge.text()}"] if judge else [])]
    for entry in chats:
        metrics = list(measures[entry.split.id].metrics)
        fine_tuned = not entry.simulations[0].predictor.name
        if fine_tuned and (perplexity := read_perplexity(workspace, model, entry.split.id)) is not None:
            refuse_other_weights(model, perplexity, entry.simulator)
            if is_of_prepared(perplexity, workspace):
                metrics += perplexity_metrics(perplexity)
            else:
                found = f"{entry.split.id}: its perplexity is of other held-out examples than the prepared ones"
                notes.append(f"{found}, left out; chatbench eval-ppl {model} --split {entry.split.id}")
        scores += [Score(entry.split.id, f.assistant, f.predictor, f.metric, f.value, f.stratum) for f in metrics]
        notes += _incomplete(model, study, entry, set(entry.split.question_ids("test")))
    left_out = {  # by accuracy metrics: kinds of questions, and why
        "outcome": "there is no right answer to compare with and no judge gave a verdict, so chats are not scored",
        "none": "chats without an outcome have no accuracy; only perplexity, overlap and realism can be measured",
    }
    if judge:
        del left_out["outcome"]
    kinds = Counter[str](question.kind.name for question in study.questions.values())
    notes += [f"{kinds[kind]} questions of kind {kind}: {why}" for kind, why in left_out.items() if kinds[kind]]
    others = {played for entry in chats if (played := entry.simulations[0].predictor).name}  # not from `finetune`
    notes += sorted(f"{each}: it is not known whether it was trained on these questions" for each in others)
    sizes = {part: [len(entry.split.question_ids(part)) for entry in chats] for part in ("train", "test")}
    with WorkProgress("bootstrap", "intervals") as progress:
        uncertainty = score_uncertainty(list(measures.values()), study.answers, resampling, progress)
    table = ScoreTable(
        model=model,
        splits=tuple(entry.split.id for entry in chats),
        train_questions=sum(sizes["train"]) / len(chats),
        test_questions=sum(sizes["test"]) / len(chats),
        scores=tuple(scores),
        signature={
            **signature(model, workspace.manifest, chats, resampling, tokenizer),
            "people_sha256": answers_sha256(workspace.study.answers),
            **({"judge": plain(judge)} if judge else {}),
        },
        uncertainty=uncertainty,
        scored_questions=len({question_id for each in measures.values() for question_id, _ in each.pairs.human}),
    )
    return replace(table, notes=(*notes, *_without_people(table)))


def _not_read(study: Study, tokenizer: TokenizerName) -> list[str]:
    """Note how many questions have no BLEU or ROUGE because of what people wrote; if none has, its row says so."""
    prompts = grouped((chat.question_id, chat.turns[0].text) for chat in study.conversations).values()
    why = [unread(texts) for texts in prompts if tokenizer == "published"]
    lost = Counter(name for each in why for name in each)
    return [
        f"{name.upper()} is of the other {len(why) - count} of {len(why)} questions: its tokenizer cannot read what "
        "people wrote about the rest; eval-chatbench --tokenizer unicode can"
        for name, count in lost.items()
        if count < len(why)
    ]


def _without_people(table: ScoreTable) -> list[str]:
    """Note the simulated accuracy of each assistant that people did not work with."""
    notes, estimates = [], table.estimates()
    for (name, *of), people in estimates.items():
        row = name, table.simulator, "accuracy"
        if of == [PEOPLE, "accuracy"] and people.mean == NO_HUMAN_ACCURACY and row in estimates:
            bound = table.uncertainty.intervals.get(WHOLE, {}).get(row)
            interval = f" (interval {bound.low:.3f} to {bound.high:.3f})" if isinstance(bound, Interval) else ""
            notes.append(
                f"{name}: {NO_HUMAN_ACCURACY.reason}, so there is no human accuracy; simulated accuracy "
                f"{estimates[row].mean:.3f}{interval}; the rows of other assistants do not include it"
            )
    return notes


def _incomplete(model: str, study: Study, entry: SplitChats, test: set[str]) -> list[str]:
    """Note the pairs that the scores of a split leave out: unfinished, without people's answers, or failed."""
    notes, known, recorded = [], set(study.assistants), study
    study = entry.split.held_out_records(study)
    held_out = set(study.assistants)
    for simulation in entry.simulations:
        identities = cast(Mapping[str, Mapping[str, object]], entry.assistants[simulation.predictor])
        asked = set(identities)
        if others := sorted(asked & known - held_out):
            notes.append(f"{entry.split.id}: chats with {', '.join(others)}, not held out there, are left out")
        wanted = set(product(test, asked & held_out))
        left = wanted - scored_pairs(study, test, simulation)
        replayed = {name: str(who["name"]) for name, who in identities.items() if who.get("kind") == "replay"}
        unrecorded = left.intersection(not_recorded(recorded, replayed, test))
        left -= unrecorded
        unfinished = left - simulation.complete_pairs()
        without_people = left - unfinished - human_outcomes(study, test).keys()
        without_score = left - unfinished - without_people
        judged = any(study.questions[question_id].kind.name == "outcome" for question_id, _ in without_score)
        why_without = "have only failed chats" + " or answers that the judge gave no score" * judged
        base_model = " --base" if simulation.predictor == BASE_MODEL else ""
        settings, defaults = entry.settings[simulation.predictor], {**asdict(ChatSettings()), "dtype": None}
        made = {"settings": settings, "assistants": identities}
        style, kind = settings.get("style", "two-step"), settings.get("simulator_kind", "tuned")
        who = f" --simulator {style}:{kind}{':...' * (kind != 'tuned')}" * ((style, kind) != ("two-step", "tuned"))
        command = f"chatbench simulate {model}{who} --assistant SPEC --split {entry.split.id}{base_model}"
        command = f"{command} {options_text(chat_options(made), defaults)}".rstrip()
        for some, why in (
            (unrecorded, "cannot be replayed, as in the study nobody asked this, and are left out"),
            (unfinished, f"are not fully simulated; to continue: {command}"),
            (without_people, "have no answers of people, and are left out"),
            (without_score, f"{why_without}, and are left out"),
        ):
            if some:
                notes.append(
                    f"{entry.split.id}: {len(some)} of {len(wanted)} (question, assistant) pairs of the "
                    f"{simulation.predictor} simulator {why}"
                )
    return notes
