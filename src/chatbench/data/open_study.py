"""Open a study in any known format, and summarise it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from chatbench.core.errors import ChatbenchError
from chatbench.core.files import read_jsonl
from chatbench.core.records import Study
from chatbench.data import chatbench_format as chatbench
from chatbench.data import halie
from chatbench.data.prepared import Manifest
from chatbench.data.splits import question_set_sha256

_EXPECTED = "a folder with questions.csv (ChatBench layout), event_blocks.csv (HALIE), or a .jsonl of your own chats"


def open_study(
    path: Path, *, skip_bad_records: bool = False, include_pilots: bool = False, maps: Sequence[str] = ()
) -> Study:
    """Open the study at `path`, whose format is detected from its files.

    Args:
        skip_bad_records: leave bad records out and count them by reason in `Study.dropped`, instead of stopping.
        include_pilots: also read the pilots of a ChatBench folder; other formats have none.
        maps: what values mean, as in `answer_type.userAnswer=user-alone`: column, value, meaning.

    Raises:
        ChatbenchError: the path does not exist, is not a study in a known format, or has damaged files.
    """
    if not path.exists():
        fix = "check the path, or make a study with: chatbench sample STUDY"
        raise ChatbenchError(f"{path}: no such file or folder", expected=_EXPECTED, fix=fix)
    if (path / chatbench.QUESTIONS).is_file():
        return chatbench.read_chatbench_folder(
            path, skip_bad_records=skip_bad_records, include_pilots=include_pilots, maps=maps
        )
    if path.name == halie.FILE_NAME or (path / halie.FILE_NAME).is_file():
        return halie.read_halie(path, skip_bad_records=skip_bad_records, maps=maps)
    if holds_examples(path):
        fix = "split them with: chatbench prepare-splits; finetune and eval-ppl need nothing else"
        raise ChatbenchError(f"{path}: holds training examples, not people's answers", expected=_EXPECTED, fix=fix)
    if path.suffix == ".jsonl":
        from chatbench.data.own_chats import read_chat_jsonl  # lazy: imports pydantic

        return read_chat_jsonl(path, skip_bad_records=skip_bad_records, maps=maps)
    fix = "check the path; docs/own-study.md describes your own format"
    raise ChatbenchError(f"{path}: not a study in a known format", expected=_EXPECTED, fix=fix)


def find_study(folder: Path) -> Path:
    """Find the one study in a folder's `data/` or `studies/`: the subfolder itself, or something in it.

    Raises:
        ChatbenchError: there is none, or more than one.
    """
    places = [folder / name for name in ("data", "studies")]
    found = [each for place in places for each in (place, *sorted(place.glob("*"))) if _is_study(each)]
    found = [each for each in found if each.parent not in found]  # not the file that makes its folder a study
    if len(found) == 1:
        return found[0]
    if found:
        shown = ", ".join(str(path) for path in found)
        raise ChatbenchError(f"{len(found)} studies: {shown}", expected="one", fix="name it: --study STUDY")
    raise ChatbenchError(
        f"no study in {places[0]} or {places[1]}",
        expected=_EXPECTED,
        fix="get one: chatbench download chatbench (or: chatbench sample studies/sample); or name yours: --study STUDY",
    )


def _is_study(path: Path) -> bool:
    if path.suffix == ".jsonl" and path.is_file():
        first = next(read_jsonl(path), (0, {}))[1]
        return bool({"messages", "prompt", "kind"} & first.keys())
    return (
        any((path / name).is_file() for name in (chatbench.QUESTIONS, halie.FILE_NAME)) or path.name == halie.FILE_NAME
    )


def holds_examples(path: Path) -> bool:
    """Whether a file holds training examples instead of study records."""
    first = next(read_jsonl(path), (0, {})) if path.suffix == ".jsonl" and path.is_file() else (0, {})
    return bool({"messages", "prompt"} & first[1].keys())


def study_of(manifest: Manifest) -> Study:
    """Open the study that the splits were prepared from.

    Raises:
        ChatbenchError: it cannot be opened, its questions have changed, or the splits were made by hand.
    """
    if manifest.adopted:
        fix = "prepare splits of a study: chatbench prepare-splits --study STUDY"
        raise ChatbenchError(
            f"{manifest.study}: its splits were made by hand", expected="splits prepared from a study", fix=fix
        )
    skip_bad_records, include_pilots = manifest.skip_bad_records, manifest.include_pilots
    path = Path(manifest.study_resolved)
    study = open_study(path, skip_bad_records=skip_bad_records, include_pilots=include_pilots, maps=manifest.maps)
    if question_set_sha256(study.questions.values()) != manifest.questions_sha256:
        raise ChatbenchError(
            f"{path}: its questions have changed since the splits were made",
            fix=f"prepare again: chatbench prepare-splits --study {manifest.study}",
        )
    return study


def summary_text(study: Study) -> str:
    """Summarise a study as a plain-text table, one fact per line."""
    turns = [conversation.user_turns for conversation in study.conversations] or [0]
    chats = (f"{c.assistant}, {c.condition}" if c.condition else c.assistant for c in study.conversations)
    sections: list[tuple[str, Sequence[tuple[str, str]]]] = [
        ("questions", _lines(q.subset for q in study.questions.values())),
        ("conversations", _lines(chats)),
        ("user turns", [("mean", f"{sum(turns) / len(turns):.2f}"), ("max", str(max(turns)))]),
        ("answers", _lines(answer.kind for answer in study.answers)),
        ("AI-alone scores", _lines(score.method for score in study.ai_alone)),
        ("left out", _lines(Counter(study.dropped).elements()) or [("nothing", "0")]),
    ]
    filled = [(title, lines) for title, lines in sections if lines]
    label_width = max(len(label) for _, lines in filled for label, _ in lines)
    value_width = max(len(value) for _, lines in filled for _, value in lines)
    rows = [f"study {study.name}"]
    for title, lines in filled:
        for index, (label, value) in enumerate(lines):
            rows.append(f"  {title if index == 0 else '':<15}  {label:<{label_width}}  {value:>{value_width}}")
    rows += [f"  note: {note}" for note in study.notes]
    return "\n".join(rows)


def _lines(values: Iterable[str]) -> list[tuple[str, str]]:
    """One line per value with its count, after the total if there are several values."""
    counts = dict(sorted(Counter(values).items()))
    total = [("all", str(sum(counts.values())))] if len(counts) > 1 else []
    return [*total, *((label, str(count)) for label, count in counts.items())]
