"""The documentation: its commands exist, its links lead somewhere, its files and examples are real."""

from __future__ import annotations

import doctest
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.command_lines import COMMANDS, REPOSITORY, problem_with

PAGES = sorted([*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").rglob("*.md")])
NAMES = [str(page.relative_to(REPOSITORY)) for page in PAGES]
SHELL = ("console", "bash", "sh", "shell")

_FENCE = re.compile(r"^```(?P<language>\S*)[^\n]*\n(?P<content>.*?)^```", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(?<!\!)\[[^\]\n]*\]\((?P<target>[^)\s]+)\)")
_INLINE = re.compile(r"`(?P<code>[^`\n]+)`")
_GONE = re.compile(r"^### (?:Removed|Renamed)\n.*?(?=^##)", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"[\w./-]*[\w-]+/[\w.-]+\.(?:py|sh|ipynb|toml|md)|[\w-]+\.sh")


def blocks(page: Path, languages: tuple[str, ...]) -> Iterator[str]:
    """Content of the fenced blocks of a page that are in one of the languages."""
    for match in _FENCE.finditer(page.read_text(encoding="utf-8")):
        if match["language"] in languages:
            yield match["content"]


def command_lines(block: str) -> Iterator[str]:
    """The commands of a shell block; where some lines begin with `$ `, the others are output."""
    lines = block.replace("\\\n", " ").splitlines()
    prompted = [line[2:] for line in lines if line.startswith("$ ")]
    for line in prompted or lines:
        yield from (part.strip() for part in re.split(r"&&|;|(?<!\w)\|(?!\w)", line))


def prose(page: Path) -> str:
    """A page without its fenced blocks, and without what a changelog says is gone."""
    return _GONE.sub("", _FENCE.sub("", page.read_text(encoding="utf-8")))


def anchors(page: Path) -> set[str]:
    """What `#...` may follow a link to a page: its headings, as they are written in addresses."""
    headings = re.findall(r"^#+ +(.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", NAMES)
def test_every_command_in_a_shell_block_exists_with_its_options(name: str) -> None:
    lines = [line for block in blocks(REPOSITORY / name, SHELL) for line in command_lines(block)]
    problems = [f"{line}: {problem}" for line in lines if (problem := problem_with(_without_brackets(line)))]

    assert problems == []


def _without_brackets(line: str) -> str:
    """`chatbench run M [--splits 3]` with what is optional taken up."""
    return re.sub(r"(?<=\s)\[([^\]]*)\]", r"\1", line)


@pytest.mark.parametrize("name", NAMES)
def test_every_command_in_the_text_exists_with_its_options(name: str) -> None:
    problems = []
    for code in (match["code"] for match in _INLINE.finditer(prose(REPOSITORY / name))):
        words = code.split()
        if len(words) < 2 or words[0] != "chatbench":
            continue
        command = COMMANDS.get(words[1])
        if command is None:
            problems += [] if words[1].startswith(("-", "...")) else [f"{code}: no command {words[1]!r}"]
            continue
        known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
        named = re.findall(r"--[a-z][\w-]*", code)
        problems += [f"{code}: no option {option}" for option in named if option not in known]

    assert problems == []


@pytest.mark.parametrize("name", NAMES)
def test_every_relative_link_leads_to_a_file_and_a_heading(name: str) -> None:
    page = REPOSITORY / name
    broken = []
    for target in (match["target"] for match in _LINK.finditer(prose(page))):
        path, _, anchor = target.partition("#")
        if re.match(r"[a-z]+:", target):
            continue
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (anchor and file.suffix == ".md" and anchor not in anchors(file)):
            broken.append(target)

    assert broken == []


@pytest.mark.parametrize("name", NAMES)
def test_every_source_file_that_the_text_names_is_there(name: str) -> None:
    roots = [REPOSITORY, REPOSITORY / "src" / "chatbench", (REPOSITORY / name).parent]
    codes = [match["code"].removeprefix("./") for match in _INLINE.finditer(prose(REPOSITORY / name))]
    named = {code for code in codes if _FILE.fullmatch(code)}
    # What lies under results/ is made by a run.
    missing = [
        file
        for file in sorted(named)
        if not file.startswith(("results/", "~")) and not any((root / file).exists() for root in roots)
    ]

    assert missing == []


@pytest.mark.parametrize("name", NAMES)
def test_every_python_example_gives_what_it_says(name: str) -> None:
    result = doctest.testfile(str(REPOSITORY / name), module_relative=False, optionflags=doctest.NORMALIZE_WHITESPACE)

    assert result.failed == 0


def test_the_index_names_every_command() -> None:
    index = (REPOSITORY / "docs" / "README.md").read_text(encoding="utf-8")

    assert set(re.findall(r"`chatbench ([a-z-]+)`", index)) == set(COMMANDS)
    assert f"## The {len(COMMANDS)} commands" in index


def test_the_example_of_an_own_study_is_one(tmp_path: Path) -> None:
    from chatbench.data.open_study import open_study

    examples = list(blocks(REPOSITORY / "docs" / "own-study.md", ("jsonl",)))
    (tmp_path / "own.jsonl").write_text(examples[0], encoding="utf-8")
    study = open_study(tmp_path / "own.jsonl")

    assert len(study.answers) == sum("user" in json.loads(line)["kind"] for line in examples[0].splitlines())
    assert study.dropped == {}


def test_the_checks_of_this_file_find_what_is_wrong() -> None:
    # A pattern that matches nothing would let every page pass.
    assert "no command 'finetun'" in (problem_with("SPLIT_ID=split_1 chatbench finetun tiny") or "")
    assert "No such option" in (problem_with("chatbench finetune tiny --epochs 3") or "")
    assert "Missing argument" in (problem_with("python src/eval_ppl.py") or "")
    assert "No such option" in (problem_with("./run_all_chatbench.sh tiny --speed 3") or "")
    assert problem_with("./run_everything.sh tiny") == "no file ./run_everything.sh"
    assert problem_with("make coffee") == "make has no coffee"
    assert problem_with("accelerate launch --num_processes 4 src/finetune.py mistral-7b  # four GPUs") is None
    assert problem_with("./run_all_train_ppl_llama3.sh") is None
    assert list(command_lines("$ make demo && chatbench doctor\nok    torch\n")) == ["make demo", "chatbench doctor"]
