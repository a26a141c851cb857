"""Study: get one, inspect it, split it."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import Annotated, Literal

import typer

from chatbench.commands.options import MOST_CHATS, MOST_SPLITS, Maps, Pilots, Seed, SkipBad, names, refuse_given, show
from chatbench.core.errors import ChatbenchError

commands = typer.Typer()


@commands.command()
def download(
    context: typer.Context,
    name: Annotated[Literal["chatbench", "halie"], typer.Argument(help="Study to download.")],
    out: Annotated[Path | None, typer.Option(help="Folder to write; default: studies/NAME.")] = None,
    revision: Annotated[str, typer.Option(help="Commit or branch of the dataset (chatbench only).")] = "main",
    allow_other_checksum: Annotated[
        bool, typer.Option("--allow-other-checksum", help="Accept files that changed since the first download.")
    ] = False,
) -> None:
    """Download a published study (resumes).

    Example: chatbench download chatbench
    """
    from chatbench.data.download import download as step

    if name == "halie":
        refuse_given(context, "with halie, which has one version", "revision")
    show(step(name, out or Path("studies") / name, revision=revision, allow_other_checksum=allow_other_checksum))


@commands.command()
def sample(
    study: Annotated[Path, typer.Argument(help="Folder to write, in the ChatBench layout.")],
    questions: Annotated[int, typer.Option(help="Number of questions.")] = 120,
    chats: Annotated[int, typer.Option(help="Conversations per question and assistant.", max=MOST_CHATS)] = 10,
    assistants: Annotated[
        str, typer.Option(metavar="NAME,NAME...", help="strong, weak, or a strength in 0..1, e.g. 0.5.")
    ] = "strong,weak",
    answer_kinds: Annotated[
        bool, typer.Option("--answer-kinds", help="Numbers and five levels, not four options; STUDY is a .jsonl file.")
    ] = False,
    seed: Seed = 0,
) -> None:
    """Generate the sample study, whose ground truth is known.

    Problems, people and assistants are generated, as docs/sample-study.md describes.

    Example: chatbench sample studies/sample --questions 120
    """
    from chatbench.data.open_study import summary_text
    from chatbench.sample.study import SampleSettings, write_sample

    scripted = tuple(f"scripted-{name}" for name in names(assistants))
    show(summary_text(write_sample(study, SampleSettings(questions, chats, seed, scripted, answer_kinds)).study))


@commands.command("import")
def import_(
    context: typer.Context,
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE", help="OpenAI, ShareGPT or chat-log JSON Lines, JSON or Parquet; or a table."),
    ],
    out: Annotated[Path, typer.Option(help="Study to write, as JSON Lines.")] = Path("study.jsonl"),
    mapping: Annotated[Path | None, typer.Option("--map", help="TOML file that maps columns to fields.")] = None,
    draft: Annotated[
        Path | None, typer.Option(help="Draft that file from the columns of FILE; write no study.")
    ] = None,
) -> None:
    """Convert files of other programs into a study.

    A file beside the study says of every row whether it was kept, changed or dropped, and why.

    Example: chatbench import survey.csv --draft map.toml
    """
    from chatbench.core.files import keep_inputs, write_text
    from chatbench.data import imports

    if draft:
        refuse_given(context, "with --draft, which writes no study", "out", "mapping")
        if len(files) > 1:
            raise ChatbenchError(f"--draft of {len(files)} files", expected="one", fix="draft a file for each")
        keep_inputs([draft], files)
        if draft.is_file() and draft.parent != Path("/dev"):
            found = f"{draft}: is there, and may be corrected by hand"
            raise ChatbenchError(found, expected="a new file", fix="choose another name, or remove it")
        write_text(draft, imports.draft(files[0]))
        then = f"chatbench import {quote(str(files[0]))} --map {quote(str(draft))}"
        show(f"{draft}: review and correct it, then run: {then}")
    else:
        show("\n".join(imports.import_study(files, out, mapping).lines()))


@commands.command("check-study")
def check_study(
    context: typer.Context,
    study: Annotated[
        Path | None, typer.Argument(help="ChatBench folder, HALIE's event_blocks.csv, or chats as JSON Lines.")
    ] = None,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON Schema of a JSON Lines record.")] = False,
    skip_bad_records: SkipBad = False,
    include_pilots: Pilots = False,
    maps: Maps = None,
) -> None:
    """Validate a study and summarise it.

    Example: chatbench check-study my_chats.jsonl
    """
    from chatbench.data.open_study import open_study, summary_text

    if schema:
        from json import dumps

        refuse_given(context, "with --schema", "study", "skip_bad_records", "include_pilots", "maps")
        from chatbench.data.own_chats import schema as own_schema

        show(dumps(own_schema(), indent=2))
        return
    if study is None:
        raise ChatbenchError("no study", fix="name it: chatbench check-study STUDY; or: chatbench check-study --schema")
    opened = open_study(study, skip_bad_records=skip_bad_records, include_pilots=include_pilots, maps=maps or ())
    show(summary_text(opened))


@commands.command()
def study(
    study: Annotated[Path, typer.Argument(help="ChatBench folder, HALIE's event_blocks.csv, or chats as JSON Lines.")],
    json: Annotated[Path | None, typer.Option(help="Also write the report to this JSON file.")] = None,
    skip_bad_records: SkipBad = False,
    include_pilots: Pilots = False,
    maps: Maps = None,
) -> None:
    """Recompute the findings of a study.

    Report accuracies, gaps, correlations, mirror rate, advice and a mixed-effects regression.

    Example: chatbench study studies/sample --json results/study.json
    """
    from chatbench.human_study.report import study as step
    from chatbench.human_study.report import study_footnotes, study_grids
    from chatbench.report.grids import print_grids

    found = step(study, json=json, skip_bad_records=skip_bad_records, include_pilots=include_pilots, maps=maps or ())
    print_grids(study_grids(found), study_footnotes(found))


@commands.command("prepare-splits")
def prepare_splits(
    context: typer.Context,
    study: Annotated[
        Path | None,
        typer.Option(help="Study, or file of examples, to split; default: the one in data/ or studies/."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder to write.")] = Path("data"),
    by: Annotated[
        Literal["question", "assistant", "subset", "person"], typer.Option(help="What each split holds out.")
    ] = "question",
    also_questions: Annotated[
        bool, typer.Option("--also-questions", help="With --by assistant or person: also hold out questions.")
    ] = False,
    splits: Annotated[
        int | None, typer.Option(help="Number of splits; default: 10, or one per assistant or subset.", max=MOST_SPLITS)
    ] = None,
    train_share: Annotated[
        float, typer.Option(help="Share of each subset's questions (or of people) for training, in 0..1.")
    ] = 0.6,
    seed: Seed = 0,
    format_: Annotated[
        Literal["messages", "prompt-completion", "context"], typer.Option("--format", help="Format of the examples.")
    ] = "messages",
    skip_bad_records: SkipBad = False,
    include_pilots: Pilots = False,
    maps: Maps = None,
) -> None:
    """Split a study into training and test examples.

    The published protocol splits by question; chatbench estimate needs splits by assistant.

    Example: chatbench prepare-splits --study studies/sample --by assistant
    """
    from chatbench.data.open_study import find_study
    from chatbench.data.prepare_splits import prepare_splits as step

    if by in ("assistant", "subset") and not also_questions:
        refuse_given(context, f"with --by {by}, which holds out each in turn", "train_share")
    prepared = step(
        study or find_study(Path()), out, by=by, also_questions=also_questions, splits=splits,
        train_share=train_share, seed=seed, format=format_, skip_bad_records=skip_bad_records,
        include_pilots=include_pilots, maps=maps or (),
    )  # fmt: skip
    show(prepared.audit)
