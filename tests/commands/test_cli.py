"""The command line: help, one whole small pipeline, run twice, and what bad input does to it."""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from benchmarks.loopback_endpoint import Answer, LoopbackEndpoint, running
from tests.support.command_lines import COMMANDS, problem_with
from tests.support.study_files import tiny_folder
from tests.support.tiny_models import save_tiny_model

from chatbench import __version__
from chatbench.cli import main
from chatbench.commands.options import NO_ANSWERS
from chatbench.core.settings import model_key
from chatbench.data.prepare_splits import prepare_splits

TOKEN, KEY = "hf_SecretOfThisTest0123456789", "sk-SecretOfThisTest9876543210"


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str


def chatbench(line: str) -> Ended:
    """Runs `chatbench LINE` in this process."""
    out, err = StringIO(), StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main(line.split())
    return Ended(code, out.getvalue(), err.getvalue())


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


# Help


def test_telemetry_is_off_whatever_is_imported() -> None:
    # Set where only the command line passed, a notebook would report to the hub.
    code = "import os, chatbench; print(os.environ)"
    clean = {name: value for name, value in os.environ.items() if "TELEMETRY" not in name and name != "DO_NOT_TRACK"}
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=clean)

    assert "'HF_HUB_DISABLE_TELEMETRY': '1'" in ended.stdout
    assert "'DO_NOT_TRACK': '1'" in ended.stdout


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from chatbench.cli import main; main(['--help']); main(['finetune', '--help']);"
        "heavy = {'torch', 'transformers', 'peft', 'datasets', 'openai', 'matplotlib', 'scipy', 'numpy'};"
        "sys.exit(' '.join(sorted(heavy & set(sys.modules))) or 0)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert ended.returncode == 0, f"imported: {ended.stderr}"
    assert "Usage: chatbench finetune" in ended.stdout


def test_help_groups_every_command_once_and_the_version_is_the_package_s(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    listed = [line.split()[0] for line in capsys.readouterr().out.split("Study:")[1].splitlines() if line[:3].strip()]
    grouped = [name for name in listed if not name.endswith(":")]

    assert sorted(grouped) == sorted(COMMANDS)
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"chatbench {__version__}\n"


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_explains_itself_with_an_example_that_is_a_command(name: str) -> None:
    ended = chatbench(f"{name} --help")
    example = re.search(r"Example: ((?:[A-Z_]+=\S+ )?chatbench .*(?:\n +\S.*)*)", ended.out)

    assert ended.code == 0
    assert example, f"chatbench {name} --help shows no example"
    line = " ".join(example.group(1).split())
    assert f"chatbench {name}" in line
    assert problem_with(line) is None


def test_every_option_says_what_it_is() -> None:
    silent = [
        f"{name} {parameter.name}"
        for name, command in COMMANDS.items()
        for parameter in command.params
        if not getattr(parameter, "help", None)
    ]

    assert silent == []


# One small pipeline

PIPELINE = (
    "sample study --questions 8 --chats 1",
    "check-study study",
    "prepare-splits --study study --splits 1",
    "show-mask data/split_0/train.jsonl --row 2 --model tiny-random",
    "finetune tiny-random --max-steps 2 --per-device-train-batch-size 2 --config training_args.json",
    "eval-ppl tiny-random",
    "simulate tiny-random --assistant scripted:all --conversations 2 --max-user-turns 2 --max-tokens 6",
    "simulate tiny-random --assistant scripted:all --conversations 1 --max-user-turns 2 --max-tokens 6 --base",
    "eval-chatbench tiny-random",
    "realism tiny-random --termination",
    "study study --json report.json",
    "show tiny-random --details --published",
    "show tiny-random --published",
    "doctor",
)


@dataclass(frozen=True, slots=True)
class Pipeline:
    """A folder in which every command ran, and how each ended."""

    folder: Path
    ended: dict[str, Ended]


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    """Runs the pipeline once, with secrets in the environment; stays in its folder until the last test of this file."""
    folder = tmp_path_factory.mktemp("pipeline")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("HF_TOKEN", TOKEN)
        patch.setenv("OPENAI_API_KEY", KEY)
        patch.delenv("SPLIT_ID", raising=False)
        Path("training_args.json").write_text('{"validation_examples": 2, "logging_steps": 1}')
        yield Pipeline(folder, {line: chatbench(line) for line in PIPELINE})


@pytest.mark.parametrize("line", PIPELINE)
def test_each_step_of_the_pipeline_ends_well(pipeline: Pipeline, line: str) -> None:
    ended = pipeline.ended[line]

    assert ended.code == (NO_ANSWERS if line.startswith("eval-chatbench") else 0), ended.err
    assert ended.out.strip()


@pytest.mark.parametrize(
    ("line", "meant"),
    [
        ("finetune tiny --batch-size 4", "--per-device-train-batch-size"),
        ("finetune tiny --output_dir x", "--results"),
        ("run tiny --epochs 3", "--config"),  # --steps was the nearest
        ("simulate tiny --limit 3", "--conversations"),
        ("finetune tiny --learnin-rate 3", "--learning-rate"),
    ],
)
def test_an_option_that_other_programs_have_is_answered_with_the_one_meant(line: str, meant: str) -> None:
    ended = chatbench(line)

    assert (ended.code, ended.err.count(f"(Possible options: {meant})")) == (2, 1), ended.err


@pytest.mark.usefixtures("pipeline")
@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("run tiny-random --steps scores", NO_ANSWERS, "100% of the chats of fine-tuned have no valid answer"),
        ("sanity tiny-random", 1, "^warning +(losses|chats|scores)"),  # two steps from random weights teach nothing
    ],
)
def test_chats_without_answers_and_a_warning_have_exit_codes(line: str, code: int, said: str) -> None:
    ended = chatbench(line)

    assert ended.code == code, ended.err
    assert re.search(said, ended.out, re.MULTILINE)


def test_the_pipeline_run_again_continues_and_changes_no_byte(pipeline: Pipeline) -> None:
    before = contents(pipeline.folder)
    again = {line: chatbench(line) for line in PIPELINE}

    assert contents(pipeline.folder) == before
    assert {line: ended.code for line, ended in again.items()} == {
        line: ended.code for line, ended in pipeline.ended.items()
    }
    assert "already trained" in again[PIPELINE[4]].out
    assert "(as before)" in again[PIPELINE[5]].out
    assert "0 new in" in again[PIPELINE[6]].out


def test_a_simulation_cut_off_in_the_middle_of_a_line_is_completed_to_the_same_bytes(pipeline: Pipeline) -> None:
    log = pipeline.folder / "results/simulations/tiny-random/split_0/conversations.jsonl"
    whole = log.read_bytes()
    log.write_bytes(whole[: len(whole) * 2 // 3])

    ended = chatbench(PIPELINE[6])

    assert ended.code == 0
    assert log.read_bytes() == whole


def test_no_output_and_no_file_holds_a_secret(pipeline: Pipeline) -> None:
    refused = chatbench("simulate tiny-random --base --assistant openai:x@http://127.0.0.1:1/v1#OPENAI_API_KEY")
    texts = contents(pipeline.folder)
    for line, ended in {**pipeline.ended, "refused": refused}.items():
        texts[line] = (ended.out + ended.err).encode()

    assert [name for name, text in texts.items() if TOKEN.encode() in text or KEY.encode() in text] == []


# Bad input

QUESTION = {"id": "q1", "subset": "s", "text": "What is 1 + 1?", "options": ["1", "2", "3", "4"], "answer": "B"}
TURNS = [{"role": "user", "text": "hi"}, {"role": "assistant", "text": "2"}]
GOOD = {"kind": "user-AI", "question": QUESTION, "worker_id": "w", "assistant": "bot", "turns": TURNS, "answer": "B"}


def own_study(folder: Path, *records: dict[str, object]) -> str:
    path = folder / "own.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return f"check-study {path}"


def record_with(**changes: object) -> Callable[[Path], str]:
    return lambda folder: own_study(folder, {**GOOD, **changes})


def damaged(file: str, change: Callable[[str], str]) -> Callable[[Path], str]:
    """Splits a generated study one of whose files was changed."""

    def line(folder: Path) -> str:
        chatbench(f"sample {folder / 'study'} --questions 4 --chats 1")
        path = folder / "study" / file
        path.write_text(change(path.read_text()))
        return f"prepare-splits --study {folder / 'study'}"

    return line


def without_tokenizer(folder: Path) -> str:
    save_tiny_model(folder / "bare")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / "bare" / name).unlink()
    return f"finetune {folder / 'bare'} --max-steps 1"


def endpoint(spec: str) -> Callable[[Path], str]:
    return lambda _: f"simulate tiny-random --base --split split_0 --results elsewhere --assistant {spec}"


BAD: dict[str, tuple[Callable[[Path], str], str]] = {
    "a study that is not there": (lambda _: "prepare-splits --study nowhere", "nowhere: no such file or folder"),
    "a file that is not there": (lambda _: "show-mask data/split_0/valid.jsonl", "valid.jsonl: no such file"),
    "no prepared data": (lambda _: "eval-ppl tiny-random --data empty", "empty/manifest.json: no such file"),
    "no such split": (lambda _: "finetune tiny-random --split split_9", "no such split: split_9; data has split_0"),
    "a split without a model": (lambda _: "simulate distilgpt2 --assistant scripted:all", "not fine-tuned yet"),
    "no such model": (lambda _: "finetune ./nothing", "./nothing: no such folder"),
    "a model folder without a tokenizer": (without_tokenizer, "a model folder without a tokenizer"),
    "no such row": (lambda _: "show-mask data/split_0/train.jsonl --row 999 --model tiny-random", "no row 999"),
    "another training over a finished one": (lambda _: "finetune tiny-random --max-steps 1", "max_steps: 2 -> 1"),
    "other settings for the same chats": (
        lambda _: "simulate tiny-random --assistant scripted:all --conversations 5",
        "made with",
    ),
    "nobody at the endpoint": (endpoint("openai:x@http://127.0.0.1:1/v1#OPENAI_API_KEY"), "cannot connect"),
    "a key in place of its name": (endpoint(f"openai:x@http://127.0.0.1:1/v1#{KEY}"), "never the key itself"),
    "no key for the endpoint": (endpoint("openai:x@http://127.0.0.1:1/v1#UNSET_KEY_NAME"), "UNSET_KEY_NAME is not set"),
    "no such kind of assistant": (endpoint("oracle:x"), "'oracle:x' cannot be read"),
    "wrong columns": (damaged("questions.csv", lambda text: text.replace("answer", "solution", 1)), "questions.csv"),
    "half a file": (damaged("full_study/conversations.json", lambda text: text[:1000]), "conversations.json"),
    "duplicated question ids": (damaged("questions.csv", lambda text: text + text.split("\n", 1)[1]), "again"),
    "an id with two questions": (
        lambda folder: own_study(folder, GOOD, {**GOOD, "worker_id": "v", "question": {**QUESTION, "text": "What?"}}),
        "'q1' with different content",
    ),
    "an unknown role": (
        record_with(turns=[{"role": "moderator", "text": "x"}]),
        "line 1, key 'turns.0.role': role 'moderator'",
    ),
    "an empty conversation": (record_with(turns=[]), "line 1, key 'turns': no message"),
    "a letter outside A-D": (record_with(answer="E"), "line 1, key 'answer': 'E'"),
    "an unknown setting": (lambda _: "finetune tiny-random --config wrong.json", "unknown setting 'learning_rat'"),
    "other splits than those that are there": (
        lambda _: "run tiny-random --study study --splits 1 --seed 3",
        "holds splits with seed 0",
    ),
    "a timeout for the endpoint that reads replies": (
        lambda _: "ai-alone --study gone --assistant local:m --method free-text --extractor openai:m --timeout 5",
        "gone: no such file or folder",
    ),
    "too few splits": (lambda _: "prepare-splits --study study --splits 0", "0 splits"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_ends_with_2_says_what_to_do_and_harms_nothing(pipeline: Pipeline, tmp_path: Path, case: str) -> None:
    make, found = BAD[case]
    (tmp_path / "wrong.json").write_text('{"learning_rat": 1}')
    line = make(tmp_path).replace("wrong.json", str(tmp_path / "wrong.json"))
    before = contents(pipeline.folder)

    ended = chatbench(line)

    assert ended.code == 2
    assert ended.err.startswith("chatbench: ")
    assert found in ended.err
    assert KEY not in ended.err + ended.out
    assert re.search(r"^  (expected|fix): ", ended.err, re.MULTILINE)
    assert "Traceback" not in ended.err
    assert contents(pipeline.folder) == before


IGNORED = {
    "run tiny --splits 3": "--splits without --study",
    "plan tiny --train-share 0.9": "--train-share without --study",
    "run-unit tiny/split_0/finetune tiny --map a=b": "--map without --study",
    "plan tiny --json --slurm jobs": "--slurm with --json",
    "run tiny --gpus 1": "--gpus 1 without --on",
    "run x --simulator two-step:openai:m --config c.json": "--config with --simulator two-step:openai",
    "prepare-splits --study s --by assistant --train-share 0.9": "--train-share with --by assistant",
    "prepare-splits --study examples.jsonl --also-questions": "--also-questions: examples.jsonl holds examples",
    "prepare-splits --study examples.jsonl --by person": "--by: examples.jsonl holds examples",
    "check-study s --schema": "STUDY with --schema",
    "download halie --revision x": "--revision with halie",
    "import a.csv --draft map.toml --out b": "--out with --draft",
    "import a.csv b.csv --draft map.toml": "--draft of 2 files",
    "chat tiny --question q --assistant-temperature 0": "--assistant-temperature without --assistant",
    "simulate tiny --assistant scripted:all --rubric r": "--rubric r without a judge",
    "simulate tiny --assistant scripted:all --timeout 5": "--timeout without an endpoint among",
    "run tiny --concurrency 2": "--concurrency without an endpoint among",
    "estimate tiny --assistant new=local:m --patience 1": "--patience without an endpoint among",
    "chat tiny --question q --reasoning-effort low": "--reasoning-effort without an endpoint among",
    "ai-alone --study s --assistant local:m --method free-text --timeout 5": "--timeout without an endpoint",
    "simulate tiny --assistant scripted:all --judge later --rubric r": "--rubric r without a judge",
}


@pytest.mark.parametrize("line", IGNORED)
def test_an_option_that_would_do_nothing_is_refused(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("examples.jsonl").write_text('{"prompt": "Question: 1 + 1?", "completion": "2"}\n')

    ended = chatbench(line)

    assert ended.code == 2
    assert ended.err.startswith(f"chatbench: {IGNORED[line]}"), ended.err


BEYOND = str(2**63)
COUNTED = (
    "prepare-splits --study s --splits", "run tiny --splits", "demo --splits", "eval-chatbench tiny --bootstrap",
    "realism tiny --seed", "simulate tiny --assistant scripted:all --conversations", "sample s --chats",
    "make-scratch-base gpt2 b --train t --width", "finetune tiny --seed",
)  # fmt: skip


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("simulate tiny --assistant scripted:all --simulator-temperature inf", "simulator_temperature is inf"),
        ("simulate tiny --assistant scripted:all --assistant-temperature 1e-320", r"0 \(greedy\), or 0\.001 to 100"),
        ("simulate tiny --assistant scripted:all --cache-gib inf", "--cache-gib inf"),
        ("simulate tiny --assistant openai:m@http://localhost:1 --timeout inf", "--timeout is inf"),
        ("plan tiny --gpus inf", "--gpus"),
        ("plan-study --components 0.04,0.01,0.17 --half-width 1e-300", "--half-width 1e-300"),
        ("plan-study --components 0.04,0.01,0.17 --difference 1e-320", "--difference"),
        ("make-scratch-base gpt2 b --train t --layers 0", "--layers"),
        # A list of 2**63 splits never ends, and a generator of random numbers raises in the middle of a run.
        *((f"{line} {BEYOND}", "Invalid value for .*than or equal to") for line in COUNTED),
        ("eval-chatbench tiny --seed -1", "Invalid value for .*than or equal to"),
        *((line, "Usage: chatbench") for line in ("finetuning", "finetune", "finetune tiny --splits 3")),
        ("simulate tiny --conversations many", "Usage: chatbench"),
    ],
)
def test_wrong_usage_and_numbers_that_overflow_are_refused(line: str, said: str) -> None:
    ended = chatbench(line)

    assert ended.code == 2
    assert re.search(said, ended.err), ended.err


@pytest.mark.parametrize("count", ["", "abc"])
def test_an_error_is_told_whatever_the_launcher_left_in_the_environment(
    count: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", count)

    ended = chatbench("show nope")
    assert ended.code == 2
    assert ended.err.startswith("chatbench: "), ended.err


def test_a_terminal_without_a_width_still_gets_the_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "0")

    assert "693" in chatbench("plan-study --components 0.04,0.01,0.17").out


def test_a_closed_pipe_is_not_a_failed_check(tmp_path: Path) -> None:
    own_study(tmp_path, GOOD)
    for line in ("recipes", f"check-study {tmp_path}/own.jsonl"):
        command = f"set -o pipefail; {sys.executable} -m chatbench.cli {line} | true"
        assert subprocess.run(["bash", "-c", command], check=False, capture_output=True).returncode == 141, line


def test_no_output_replaces_what_is_read(tmp_path: Path) -> None:
    own_study(tmp_path, GOOD)
    study = tmp_path / "own.jsonl"
    before = study.read_bytes()

    scores = tmp_path / "results" / "scores" / "tiny.json"
    scores.parent.mkdir(parents=True)
    scores.write_text("{}")
    for command in (f"study {study} --json {study}", f"compare a b --results {tmp_path}/results --out {scores}"):
        ended = chatbench(command)
        assert "is read, and would be overwritten" in ended.err, ended.err
    assert study.read_bytes() == before
    assert scores.read_text() == "{}"


def test_nothing_that_is_printed_steers_the_terminal(tmp_path: Path) -> None:
    evil = "\x1b]0;taken\x07\x9b2J\u202e"
    lines = (
        own_study(tmp_path, {**GOOD, "assistant": f"bot{evil}"}),
        f"check-study {evil}", f"show --{evil}", f"chatbench{evil}",
    )  # fmt: skip
    for line in lines:
        ended = chatbench(line)
        assert ended.out + ended.err
        assert not set(ended.out + ended.err) & set("\x1b\x07\x9b\u202e"), line


def test_chats_damaged_in_the_middle_are_named_and_left_as_they_are(pipeline: Pipeline) -> None:
    log = pipeline.folder / "results/simulations/tiny-random/split_0/conversations.jsonl"
    whole = log.read_bytes()
    first, rest = whole.split(b"\n", 1)
    damaged = first[:40] + b"\n" + rest
    log.write_bytes(damaged)
    try:
        for line in (PIPELINE[6], "eval-chatbench tiny-random"):
            ended = chatbench(line)

            assert ended.code == 2
            assert "conversations.jsonl, line 1: no checksum at its end" in ended.err
            assert log.read_bytes() == damaged
    finally:
        log.write_bytes(whole)


def test_a_terminal_without_a_character_shows_a_question_mark_and_no_traceback() -> None:
    # An ASCII terminal (a log of a cluster job) met the dashes of every table with a UnicodeEncodeError.
    code = "from chatbench import cli; cli.main = lambda _: print('0.3 \\N{EN DASH} 0.5') or 0; cli.entry()"
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)

    assert (ended.returncode, ended.stdout) == (0, "0.3 ? 0.5\n")


def test_an_empty_variable_does_not_hide_the_key_in_env_and_one_that_is_set_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(".env").write_text("ONE_KEY=file\nOTHER_KEY=file\nLAST_KEY=file\n")
    for name, value in (("ONE_KEY", ""), ("OTHER_KEY", "shell")):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("LAST_KEY", "")
    monkeypatch.delenv("LAST_KEY")
    chatbench("--version")

    assert [os.environ[name] for name in ("ONE_KEY", "OTHER_KEY", "LAST_KEY")] == ["file", "shell", "file"]


def test_the_results_of_a_folder_lie_under_a_name_that_can_be_typed(tmp_path: Path) -> None:
    folder = tmp_path / "my model (2)"
    folder.mkdir()

    key = model_key(str(folder))
    assert key.startswith("my_model_2_-")  # and not that of a folder my_model_2_
    assert model_key(key) == key


@pytest.mark.parametrize(
    ("command", "kept"),
    [
        ("simulate u --simulator two-step:openai:m@URL --conversations 2", "of 8 conversations are kept"),
        ("ai-alone --study STUDY --method letter-only-zero-shot --samples 3", "of 30 replies are kept"),
    ],
)
def test_ctrl_c_inside_a_command_says_what_is_kept_and_the_same_command_continues(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str, kept: str
) -> None:
    # typer makes an exit code of it, and drops what it says.
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    study, server, asked = tiny_folder(tmp_path / "study"), LoopbackEndpoint(), itertools.count()
    prepare_splits(study, tmp_path / "data", splits=1)
    plain = server._answer

    def answer(verb: str, path: str, headers: Any, body: bytes) -> Answer:
        if next(asked) == 12:
            os.kill(os.getpid(), signal.SIGINT)
        return plain(verb, path, headers, body)

    monkeypatch.setattr(server, "_answer", answer)
    with running(server):
        line = command.replace("STUDY", str(study)).replace("URL", server.url).split()
        line += ["--assistant", f"b=openai:m@{server.url}", "--concurrency", "1", "--max-tokens", "50"]
        line += ["--data", str(tmp_path / "data"), "--results", str(tmp_path / "results")]
        assert main(line) == 130
        assert re.search(rf"interrupted; \d+ {kept} in .*; the same command continues", capsys.readouterr().err)
        assert main(line) == 0
