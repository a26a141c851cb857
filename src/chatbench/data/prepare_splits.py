"""Prepare training data from a study: splits by question, assistant, subset or person, as files for later steps.

All files are written before the first one is replaced, so a full disk changes nothing. The manifest is replaced last;
if it will change, the old one is removed first. So a run that was stopped leaves either a complete folder or one that
every later step refuses; running it again completes it.
Only what an earlier run wrote is replaced (what its manifest lists, and lines with ids) or removed (what it lists).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from statistics import fmean

from chatbench.core.errors import ChatbenchError
from chatbench.core.files import Row, json_line, json_text, read_jsonl, read_object, sha256_of, written_together
from chatbench.core.progress import tracked
from chatbench.core.records import Conversation, Part, Split, Study, Unit
from chatbench.data.examples import ROW_FORMATS, RowFormat, example_rows, numbered_examples, question_in
from chatbench.data.open_study import NO_ENDS, holds_examples, open_study
from chatbench.data.prepared import MANIFEST, Manifest, kinds_of
from chatbench.data.splits import (
    DEFAULT_SPLITS,
    FEWEST_ASSISTANTS,
    Asked,
    AskedQuestion,
    make_splits,
    near_duplicate_groups,
    question_set_sha256,
    splits_of,
    train_size,
)

_PARTS: tuple[Part, Part] = ("train", "test")
_FILE = re.compile(r"split_\d+/(train|test|split)\.jsonl")
MISSED_SHARE = 0.05
"""By how much the share of training questions may miss what one subset would reach before the audit says so."""


@dataclass(frozen=True, slots=True)
class PreparedSplits:
    """What was written, and the audit to print; `study` is None if a file of examples was split."""

    out: Path
    study: Study | None
    manifest: Manifest
    audit: str


def prepare_splits(
    study_path: Path,
    out: Path,
    *,
    by: Unit = "question",
    also_questions: bool = False,
    splits: int | None = None,
    train_share: float = 0.6,
    seed: int = 0,
    format: RowFormat = "messages",  # noqa: A002  # the name of the option
    skip_bad_records: bool = False,
    include_pilots: bool = False,
    maps: Sequence[str] = (),
) -> PreparedSplits:
    """Write `manifest.json` and `split_i/{train,test,split}.jsonl` into `out`; the options are those of `splits_of`.

    A file of examples (`messages`, or `prompt` and `completion`) is split as it is: its lines keep their format, and
    the questions are taken from their prompts.

    Raises:
        ChatbenchError: the study cannot be read, an option is out of range, the study has no conversations, one side of
            a split has none, or files would be lost: the study itself, or what prepare-splits did not write.
    """
    if format not in ROW_FORMATS:
        expected = f"one of {', '.join(ROW_FORMATS)}"
        raise ChatbenchError(f"format {format!r}", expected=expected, fix="use --format messages")
    study, questions, rows, chats = None, list[Asked](), list[Row](), dict[str, Conversation]()
    if holds_examples(study_path):
        _refuse_for_examples(
            study_path, by=by != "question", format=format != "messages", also_questions=also_questions,
            map=bool(maps), skip_bad_records=skip_bad_records, include_pilots=include_pilots,
        )  # fmt: skip
        questions, rows = _questions_of_examples(study_path)
        sha256 = hashlib.sha256("\n".join(sorted(question.id for question in questions)).encode()).hexdigest()
        count = DEFAULT_SPLITS if splits is None else splits
        made = make_splits(questions, splits=count, train_share=train_share, seed=seed)
    else:
        study = open_study(study_path, skip_bad_records=skip_bad_records, include_pilots=include_pilots, maps=maps)
        if not study.conversations:
            fix = "check the study: chatbench check-study"
            raise ChatbenchError(f"{study_path}: no conversations", expected="chats to train on", fix=fix)
        questions, sha256 = list(study.questions.values()), question_set_sha256(study.questions.values())
        made = splits_of(study, by, splits=splits, train_share=train_share, seed=seed, also_questions=also_questions)
        rows = [
            row
            for chat in tracked(study.conversations, "examples of chats", "chats")
            for row in example_rows(chat, study.questions[chat.question_id], format)
        ]
        chats = {c.id: c for c in study.conversations}
    subsets = {question.id: question.subset for question in questions}
    sides: dict[str, list[Row]] = {f"{split.id}/{part}": [] for split in made for part in _PARTS}
    for split in made:
        part_of = {chat_id: split.part_of(chat) for chat_id, chat in chats.items()}
        for row in rows:
            part = part_of[str(row["conversation_id"])] if chats else split.part[str(row["question_id"])]
            if part is not None:
                sides[f"{split.id}/{part}"].append(row)
    groups = near_duplicate_groups(questions)
    for split in made:
        if not all(sides[f"{split.id}/{part}"] for part in _PARTS):
            names = ", ".join(sorted(split.held_out)[:3] or split.question_ids("test")[:3])
            raise ChatbenchError(
                f"{split.id} holds out {names}: one side has no chats",
                expected="chats on both sides",
                fix="use another --by or --seed, or omit --also-questions",
            )
        _check_leaks(split, sides, groups, chats)
    divisions: dict[str, list[Row]] = {
        f"{split.id}/split": [{"question_id": i, "subset": subsets[i], "part": part} for i, part in split.part.items()]
        for split in made
    }
    files = list({**sides, **divisions}.items())
    texts = {f"{name}.jsonl": "".join(map(json_line, lines)) for name, lines in tracked(files, "splits", "files")}
    manifest = Manifest(
        study=str(study_path),
        study_resolved=str(study_path.resolve()),
        study_name=study.name if study else study_path.stem,
        skip_bad_records=skip_bad_records,
        include_pilots=include_pilots,
        seed=seed,
        splits=len(made),
        train_share=train_share,
        format=format,
        questions_sha256=sha256,
        counts={"questions": len(questions)}
        | ({"conversations": len(study.conversations), "answers": len(study.answers)} if study else {}),
        examples={name: kinds_of(side) for name, side in sides.items()},
        files={name: hashlib.sha256(text.encode()).hexdigest() for name, text in sorted(texts.items())},
        package_version=version("chatbench"),
        by=by,
        also_questions=also_questions,
        held_out={split.id: sorted(split.held_out) for split in made if split.held_out},
        maps=list(maps),
    )
    _write(out, texts, manifest)
    return PreparedSplits(out, study, manifest, _audit(made, sides, groups, train_share, subsets))


def _refuse_for_examples(path: Path, **given: bool) -> None:
    for option in (name for name, value in given.items() if value):
        raise ChatbenchError(
            f"--{option.replace('_', '-')}: {path} holds examples, which are split by question and as they are",
            fix="omit it",
        )


def _questions_of_examples(path: Path) -> tuple[list[Asked], list[Row]]:
    """The questions of a file of examples, and its lines with ids."""
    questions: dict[str, Asked] = {}
    rows = []
    for example, row in numbered_examples(path):
        text = question_in(example) or example.question_id
        questions.setdefault(example.question_id, AskedQuestion(example.question_id, "all", text))
        rows.append(row)
    return list(questions.values()), rows


def _check_leaks(
    split: Split,
    sides: Mapping[str, Sequence[Row]],
    groups: Sequence[tuple[str, ...]],
    chats: Mapping[str, Conversation],
) -> None:
    """Check the rows themselves for leaks between train and test side.

    No conversation may be on both sides and, unless questions are on both by design, no question and no group of near
    duplicates. Chats with a held-out assistant or person may only be on the test side, others only on the train side.

    Raises:
        RuntimeError: there is a leak, which is a bug in chatbench and not a fault of the study.
    """
    train, test = (sides[f"{split.id}/{part}"] for part in _PARTS)
    divides_questions = "both" not in split.part.values()
    for key in ("question_id", "conversation_id") if divides_questions else ("conversation_id",):
        shared = {str(row[key]) for row in train} & {str(row[key]) for row in test}
        if shared:
            raise RuntimeError(f"{split.id}: {key} on both sides: {sorted(shared)[:3]}")
    sides_of_groups = [{split.part[each] for each in group if each in split.part} for group in groups]
    if divided := [group for group, found in zip(groups, sides_of_groups, strict=True) if len(found) > 1]:
        raise RuntimeError(f"{split.id}: near duplicates on both sides: {divided[:3]}")
    if split.by in ("assistant", "person"):
        units = [
            {
                chat.assistant if split.by == "assistant" else chat.worker_id
                for chat in (chats[str(r["conversation_id"])] for r in rows)
            }
            for rows in (train, test)
        ]
        if wrong := (units[0] & split.held_out) | (units[1] - split.held_out):
            raise RuntimeError(f"{split.id}: {split.by} on the wrong side: {sorted(wrong)[:3]}")


def _write(out: Path, texts: Mapping[str, str], manifest: Manifest) -> None:
    """Write the files, and remove those of an earlier run's splits that this one does not have; other files stay."""
    path = out / MANIFEST
    old: Row = {}
    with suppress(ChatbenchError):  # a damaged manifest counts as none
        old = read_object(path) if path.exists() else {}
    files = old.get("files") if "questions_sha256" in old and not old.get("adopted") else None
    listed = {MANIFEST: "", **files} if isinstance(files, dict) else {}
    stale = [name for name in listed if _FILE.fullmatch(name) and name not in texts]
    for name in (*sorted(texts), *stale, *([MANIFEST] if old else [])):
        studied = str((place := out / name).resolve()) == manifest.study_resolved
        if studied or (name not in listed and place.exists() and (name == MANIFEST or not _ours(place))):
            found = f"{place}: {'is to be split' if studied else 'not written by prepare-splits'}, and would be lost"
            fix = "choose another folder for the splits, or move it away"
            raise ChatbenchError(found, expected="splits of an earlier run, or no file", fix=fix)
    with written_together({path: json_text(manifest.as_json()), **{out / name: texts[name] for name in sorted(texts)}}):
        if old != manifest.as_json():
            path.unlink(missing_ok=True)
        for place in (out / name for name in stale if (out / name).is_file() and sha256_of(out / name) == listed[name]):
            place.unlink()
            if not any(place.parent.iterdir()):
                place.parent.rmdir()


def _ours(path: Path) -> bool:
    """Whether lines have the ids that prepare-splits writes; of split.jsonl, those of the train.jsonl beside it."""
    if path.name == "split.jsonl" and (train := path.with_name("train.jsonl")).exists():
        path = train
    key = "question_id" if path.name == "split.jsonl" else "conversation_id"
    with suppress(ChatbenchError):
        return all(key in row for _, row in islice(read_jsonl(path), 1))
    return False


def _audit(
    splits: Sequence[Split],
    sides: Mapping[str, Sequence[Row]],
    groups: Sequence[tuple[str, ...]],
    train_share: float,
    subsets: Mapping[str, str],
) -> str:
    """One line per side of each split, a share that was missed, and the result of the leak check."""
    lines = []
    for split in splits:
        for part in _PARTS:
            rows = sides[f"{split.id}/{part}"]
            kinds = kinds_of(rows)
            chats = len({row["conversation_id"] for row in rows})
            lines.append(
                f"{split.id} {part:<5}  {len(split.question_ids(part))} questions, {chats} conversations, {len(rows)} "
                f"examples: {kinds['first']} first, {kinds['follow_up']} follow-up, {kinds['answer']} answer"
            )
        if split.by in ("assistant", "subset"):
            lines[-1] += f"; held out: {', '.join(sorted(split.held_out))}"
    if not any(kinds_of(rows)["answer"] for rows in sides.values()):
        lines.append(f"note: {NO_ENDS}")
    train = fmean(len(split.question_ids("train")) / len(split.part) for split in splits)
    reached = train_size(len(subsets), train_share) / len(subsets)  # what rounding leaves, were they one subset
    if splits[0].by == "question" and abs(train - reached) > MISSED_SHARE:
        several = len(set(subsets.values())) > 1
        lines.append(
            f"note: a share of {train:.2f} of the questions trains instead of {train_share:g}: "
            + "subsets are split one by one, and " * several
            + "near duplicates stay together"
            + "; give small subsets one name to come nearer" * several
        )
    if splits[0].by == "assistant" and len(splits) < FEWEST_ASSISTANTS:
        lines.append(
            f"note: {len(splits)} assistants; for a new one, chatbench estimate needs {FEWEST_ASSISTANTS}, or real "
            "chats with it (--people)"
        )
    together = sum(len(group) for group in groups if len(group) > 1)
    divides_questions = "both" not in splits[0].part.values()
    checked = ["no question", "no conversation", "no near duplicate"] if divides_questions else ["no conversation"]
    checked += [f"no {splits[0].by}"] * (splits[0].by in ("assistant", "person"))
    lines.append(
        f"leak check: {', '.join(checked[:-1])} and {checked[-1]} on both sides of a split"
        f" ({together} questions have a near duplicate and are kept with it)"
    )
    return "\n".join(lines)
