"""What makes simulated people answer as people do: experiments on HALIE that never see split_0's held-out questions.

    python benchmarks/halie_experiments.py --study studies/halie
    python benchmarks/halie_experiments.py --study studies/halie --variants as-recipe answer-weight-4 --max-steps 25
    python benchmarks/halie_experiments.py --study studies/halie --variants practice --mmlu MMLU_FOLDER

The inner study is HALIE without split_0's held-out questions (five splits, seed 0, as run_halie.sh makes them), split
again by question, twice. A variant changes one thing of the recipe. On the held-out questions of an inner split:

    bits per byte    of each kind of turn
    answers          after people's own chats: nats of the letter that the person chose, and the probability of the
                     right letter against people's accuracy over (question, assistant) pairs: correlation, MAE.
                     Nothing is drawn, so small differences show. By the letter that the model writes, and by an
                     answer model (simulation/answer_model.py), also one that sees ln p of each letter and of each
                     option's text
    chats            with --conversations N: simulated with the replayed assistants and scored

`practice` adds chats to those that are trained on: about questions of MMLU, with a reply that names the text of an
option drawn at random, and the letter of that option as the answer. `share-0.8` averages the weights of `as-recipe`
and its base (`chatbench merge --share`); `base` is not fine-tuned.

`--features` measures, instead, the answer model by each of its features alone, by an option's place, with a weight of
its own on the right option for each subset of questions or assistant, and as a mixture of kinds of people: no language
model, half a minute, a table on the screen.

`--temperatures 1 0.7` measures, instead, chats with an answer model and expected answers at each of these sampling
temperatures, --conversations per pair: OUT/temperatures.jsonl.

Each result is a line of OUT/experiments.jsonl as soon as it is there. What is there is not measured again, and
fine-tuning continues from its checkpoint: the same command goes on after a kill. Decide by these lines alone; the
held-out questions of split_0 are for the one run of run_halie.sh that follows.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from scipy.special import log_softmax

from chatbench.core.answer_kinds import LETTERS
from chatbench.core.files import json_line, read_jsonl, write_jsonl
from chatbench.core.records import FOUR_LETTERS, Conversation, Message, Part, Question, Turn
from chatbench.data.examples import ExampleRow, example_rows
from chatbench.data.workspace import Workspace
from chatbench.metrics.text import TokenLoss
from chatbench.models.encoding import TextForm, encode_rows, form_of
from chatbench.models.loading import Loaded, context_length, load
from chatbench.models.loss import score_encoded, score_rows
from chatbench.models.run_record import read_record
from chatbench.protocol.prompts import ANSWER_PREFIX, completion_text
from chatbench.simulation.answer_model import FEATURES, AnswerModel, fit, option_features, options_of

PARTS: tuple[Part, ...] = ("train", "test")
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
VARIANTS: dict[str, dict[str, Any]] = {
    "base": {},  # not fine-tuned
    "as-recipe": {},
    "answer-weight-4": {"answer_weight": 4},
    "answer-weight-16": {"answer_weight": 16},
    "rank-64": {"lora_r": 64},
    "learning-rate-1e-3": {"learning_rate": 1e-3},
    "learning-rate-1e-4": {"learning_rate": 1e-4},
    "two-epochs": {"num_train_epochs": 2, "learning_rate": 1e-3},
    "attention-only": {"lora_targets": LINEAR[:4], "learning_rate": 1e-3},
    "chat-template": {"template": "chat", "learning_rate": 1e-3},
    "full-5e-5": {"method": "full", "learning_rate": 5e-5},
    "full-2e-4": {"method": "full", "learning_rate": 2e-4},
    "seed-1": {"seed": 1},  # how far a difference means nothing
    "practice": {},
    "share-0.8": {},
    "share-0.5": {},
}
COMMON = {"learning_rate": 3e-4, "validation_examples": 0}
"""Of all variants that name no other learning rate: the recipe's when they were first run, which the results changed.

The held-out side is measured here, after fine-tuning."""
PRACTICE = 300
"""Made-up chats; the training side of an inner split has about 390 of people."""
REPLIES = ("The answer is {}.", "{}", "It is {}.", "I think that {} is right.", "The correct option is: {}")


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options(arguments)
    out: Path = options.out
    inner = inner_splits(options.study, out)
    if options.features:
        print_features(inner)
        return
    if options.temperatures:
        compare_temperatures(inner, options)
        return
    results = out / "experiments.jsonl"
    done = {
        (row["variant"], row["split"], row["max_steps"])
        for _, row in (read_jsonl(results) if results.is_file() else ())
    }
    for split in inner.manifest.split_ids:
        for name in options.variants:
            if (name, split, options.max_steps) in done:
                continue
            began = time.monotonic()
            workspace = inner if name == "base" else trained(name, split, inner, options)
            source = options.model if name == "base" else str(workspace.model_folder(options.model, split))
            row: dict[str, object] = {
                "variant": name, "split": split, "max_steps": options.max_steps, "settings": VARIANTS[name],
                "chats": options.chats, **measures(workspace, source, split, options.chats),
            }  # fmt: skip
            if options.conversations and name != "base":
                row["scores"] = json.loads(workspace.scores(options.model).read_text())
            row["seconds"] = round(time.monotonic() - began)
            with results.open("a") as file:
                file.write(json_line(row))
            print(json_line({**row, "scores": "..."}), end="", flush=True)


def compare_temperatures(inner: Workspace, options: argparse.Namespace) -> None:
    """Chats of each variant at each temperature, with an answer model, scored: a line each."""
    results = options.out / "temperatures.jsonl"
    keys = ("variant", "split", "max_steps", "temperature", "conversations", "dtype")
    done = {tuple(row[key] for key in keys) for _, row in (read_jsonl(results) if results.is_file() else ())}
    for split in inner.manifest.split_ids:
        for name in options.variants:
            workspace = trained(name, split, inner, options)
            model = str(workspace.model_folder(options.model, split))
            for temperature in options.temperatures:
                found = (name, split, options.max_steps, temperature, options.conversations, options.dtype)
                if found in done:
                    continue
                run = f"answer-model-{temperature:g}-{options.conversations}-{options.dtype}"
                folders = ("--data", str(inner.data), "--results", str(workspace.results))
                chatbench(
                    "simulate", run, "--simulator", f"two-step:local:{model}", "--answer-model", "--expected-answers",
                    "--split", split, "--assistant", "replay:all", "--max-tokens", "60", "--dtype", options.dtype,
                    "--simulator-temperature", str(temperature), "--conversations", str(options.conversations),
                    *folders,
                )  # fmt: skip
                chatbench("eval-chatbench", run, "--split", split, *folders)
                figures = json.loads(workspace.scores(run).read_text())["figures"]
                scores = {
                    f"{'expected ' if 'expected' in each['source'] else ''}{each['metric']}": each["per_split"][split]
                    for assistant in ("all", "mean of assistants")
                    for each in figures
                    if each["assistant"] == assistant and split in each["per_split"]
                    if each["source"].startswith("simulator") and "dropped" not in each["source"]
                }
                with results.open("a") as file:
                    file.write(json_line({**scores, **dict(zip(keys, found, strict=True))}))  # both name conversations


def trained(name: str, split: str, inner: Workspace, options: argparse.Namespace) -> Workspace:
    """Where the model of a variant lies, once it is trained, averaged or, with --conversations, has chatted."""
    out, length = options.out, options.max_steps or "epochs"
    workspace = Workspace(inner.data, out / "runs" / f"{name}-{length}")
    config = out / "configs" / f"{name}.json"
    config.parent.mkdir(parents=True, exist_ok=True)
    config.write_text(
        json.dumps({**({"max_steps": options.max_steps} if options.max_steps else {}), **COMMON, **VARIANTS[name]})
    )
    results = ["--results", str(workspace.results)]
    if share := name.partition("share-")[2]:
        tuned = Workspace(inner.data, out / "runs" / f"as-recipe-{length}").model_folder(options.model, split)
        averaged = workspace.model_folder(options.model, split)
        if not averaged.exists():
            chatbench("merge", str(tuned), str(averaged), "--share", share)
    else:
        data = with_practice(inner, options.mmlu, out / "practice") if name == "practice" else inner.data
        chatbench(
            "finetune", options.model, "--split", split, "--config", str(config), "--data", str(data), *results
        )  # fmt: skip
    if options.conversations and not options.temperatures:
        chatbench(
            "simulate", options.model, "--split", split, "--assistant", "replay:all", "--max-tokens", "60",
            "--expected-answers", "--conversations", str(options.conversations), "--data", str(inner.data), *results,
        )  # fmt: skip
        chatbench("eval-chatbench", options.model, "--data", str(inner.data), *results)
    return workspace


def with_practice(inner: Workspace, mmlu: Path, out: Path) -> Path:
    """The inner splits with made-up chats among those to train on: splits made by hand, so without ids.

    The reply names the text of an option drawn at random, and the person gives its letter: right or wrong, what is
    practised is to look up which letter the text has. No question of HALIE is among them.
    """
    if (out / "split_0").is_dir():
        return out
    people, chance = {question.text for question in inner.study.questions.values()}, Random(0)
    questions = []
    for path in sorted(mmlu.rglob("*.csv")):
        with path.open(encoding="utf-8", newline="") as file:
            questions += [row for row in csv.reader(file) if len(row) == 6 and row[0] not in people]
    if len(questions) < PRACTICE:
        raise SystemExit(f"--mmlu {mmlu}: {len(questions)} questions, {PRACTICE} are wanted")
    made = []
    for number, (text, *options, _) in enumerate(chance.sample(questions, PRACTICE)):
        question = Question(f"practice-{number}", "practice", text, tuple(options), "A")
        letter = chance.choice(FOUR_LETTERS)
        reply = chance.choice(REPLIES).format(options[FOUR_LETTERS.index(letter)])
        turns = Turn("user", text), Turn("assistant", reply)
        chat = Conversation(question.id, question.id, "made up", "made up", "direct-to-AI", turns, letter)
        made.append(example_rows(chat, question)[-1])
    for split in inner.manifest.split_ids:
        for part in PARTS:
            rows = [row for _, row in read_jsonl(inner.split_file(split, f"{part}.jsonl"))]
            rows = chance.sample([*rows, *made], len(rows) + len(made)) if part == "train" else rows
            write_jsonl(out / split / f"{part}.jsonl", ({"messages": row["messages"]} for row in rows))
    return out


def inner_splits(study: Path, out: Path) -> Workspace:
    """Two splits by question of HALIE without split_0's held-out questions."""
    outer, inner = Workspace(out / "outer"), Workspace(out / "inner")
    if not inner.is_prepared:
        chatbench("prepare-splits", "--study", str(study), "--splits", "5", "--out", str(outer.data))
        trained = outer.split("split_0").question_ids("train")
        table = study / "event_blocks.csv" if study.is_dir() else study
        with table.open(encoding="utf-8", newline="") as file:
            rows = csv.DictReader(file)
            kept = [row for row in rows if any(each.endswith(f"-halie-{row['question_id']}") for each in trained)]
            names = list(rows.fieldnames or [])
        (out / "study").mkdir(parents=True, exist_ok=True)
        with (out / "study" / "event_blocks.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, names)
            writer.writeheader()
            writer.writerows(kept)
        chatbench("prepare-splits", "--study", str(out / "study"), "--splits", "2", "--out", str(inner.data))
    held_out = set(outer.split("split_0").question_ids("test"))
    if seen := held_out & set(inner.study.questions):
        raise SystemExit(f"held-out questions of split_0 among the inner ones: {', '.join(sorted(seen))}")
    return inner


def measures(workspace: Workspace, model: str, split: str, most_chats: int) -> dict[str, object]:
    """Bits per byte of each kind of turn; letters after people's own chats, as written and by answer models.

    `model` is a folder, a recipe, a hub id or a GGUF file.
    """
    loaded, form = load(model), form_of(read_record(Path(model)) or {})
    rows = {part: some(workspace.examples(split, part), most_chats) for part in PARTS}
    held_out = encode_rows(loaded.tokenizer, rows["test"], context_length(loaded.model), form)
    losses: dict[str, list[TokenLoss]] = defaultdict(list)
    for row, loss in zip(held_out.rows, score_rows(loaded.model, held_out), strict=True):
        losses[row.kind].append(loss)
        losses["all"].append(loss)
    bits = {
        kind: sum(each.nats for each in of) / sum(each.utf8_bytes for each in of) / np.log(2)
        for kind, of in losses.items()
    }
    print(bits, flush=True)
    people, chosen, right, pairs = of_people(workspace, rows)
    text = {part: [_features(workspace, row) for row in people[part]] for part in PARTS}
    read = {part: option_probabilities(loaded, form, people[part]) for part in PARTS}
    found = {"letter": measured(np.exp(read["test"][:, :, 0]), chosen["test"], right, pairs)}
    both = {part: [np.hstack(each) for each in zip(read[part], text[part], strict=True)] for part in PARTS}
    found["answer model with ln p of the model"] = _fitted(both, chosen, right, pairs)
    found["answer model"] = _fitted(text, chosen, right, pairs)
    return {"bits_per_byte": bits, "answers": found}


def print_features(workspace: Workspace) -> None:
    """The answer model by each feature alone, after people's own chats: a row each, the splits beside each other."""
    columns = {
        "place (A, B, C, D)": None,
        **{name: [at] for at, name in enumerate(FEATURES)},
        "all but right": slice(-1),
        "all": slice(None),
        "all, right by subset": slice(None),
        "all, right by assistant": slice(None),
    }
    print("| features | nats | correlation | MAE | MAE of a constant |\n|---|---|---|---|---|")
    for name, kept in columns.items():
        found = []
        for split in workspace.manifest.split_ids:
            people, chosen, right, pairs = of_people(workspace, {p: workspace.examples(split, p) for p in PARTS})
            features = {
                part: [
                    np.eye(len(FOUR_LETTERS))[:, 1:] if kept is None else _features(workspace, row)[:, kept]
                    for row in people[part]
                ]
                for part in PARTS
            }
            if " by " in name:
                features = _right_by(name.rpartition(" ")[2], workspace, people, features)
            found.append(_fitted(features, chosen, right, pairs))
        _print_row(name, found)
    for kinds in (2, 3):
        found = []
        for split in workspace.manifest.split_ids:
            people, chosen, right, pairs = of_people(workspace, {p: workspace.examples(split, p) for p in PARTS})
            features = {part: [_features(workspace, row) for row in people[part]] for part in PARTS}
            chats = {chat.id: chat for chat in workspace.study.conversations}
            persons = [chats[row.conversation_id].worker_id for row in people["train"]]
            mixture = kinds_of_people(kinds, features["train"], chosen["train"], persons)
            expected = sum(
                share * np.array([model.probabilities(x) for x in features["test"]]) for share, model in mixture
            )
            found.append(measured(expected, chosen["test"], right, pairs))
        _print_row(f"all, {kinds} kinds of people", found)


def kinds_of_people(
    kinds: int, features: Sequence[np.ndarray], chosen: Sequence[int], persons: Sequence[str]
) -> list[tuple[float, AnswerModel]]:
    """An answer model for each kind of people, with the kind's share: each person is of the kind that fits best.

    The best of five random starts, each improved for at most 30 rounds (classification EM).
    """
    everyone = sorted(set(persons))
    of = np.array([everyone.index(person) for person in persons])
    best: tuple[float, list[tuple[float, AnswerModel]]] = (-np.inf, [])
    for start in range(5):
        kind = np.random.default_rng(start).integers(kinds, size=len(everyone))
        for _ in range(30):
            rows = [np.flatnonzero(kind[of] == k) for k in range(kinds)]
            if not all(map(len, rows)):
                break
            models = [fit([features[i] for i in own], [chosen[i] for i in own]) for own in rows]
            shares = np.bincount(kind, minlength=kinds) / len(everyone)
            fits = np.tile(np.log(shares), (len(everyone), 1))
            for k, model in enumerate(models):
                each = [np.log(model.probabilities(x)[c]) for x, c in zip(features, chosen, strict=True)]
                np.add.at(fits[:, k], of, each)
            if fits.max(axis=1).sum() > best[0]:
                best = fits.max(axis=1).sum(), list(zip(shares.tolist(), models, strict=True))
            if (kind == fits.argmax(axis=1)).all():
                break
            kind = fits.argmax(axis=1)
    return best[1]


def _right_by(
    what: str, workspace: Workspace, people: dict[Part, list[ExampleRow]], features: dict[Part, list[np.ndarray]]
) -> dict[Part, list[np.ndarray]]:
    """The features, and one more for each subset or assistant: 1 for the right option of its chats."""
    chats = {chat.id: chat for chat in workspace.study.conversations}
    questions = workspace.study.questions
    groups = {
        part: [
            questions[row.question_id].subset if what == "subset" else chats[row.conversation_id].assistant
            for row in people[part]
        ]
        for part in PARTS
    }
    known = sorted(set(groups["train"]))
    return {
        part: [
            np.hstack([own, np.outer(own[:, -1], [float(group == each) for each in known])])
            for own, group in zip(features[part], groups[part], strict=True)
        ]
        for part in PARTS
    }


def _print_row(name: str, found: Sequence[dict[str, float]]) -> None:
    cells = (
        " / ".join(f"{one[measure]:.3f}" for one in found)
        for measure in ("nats", "correlation", "mae", "mae_of_constant")
    )
    print(f"| {name} | {' | '.join(cells)} |", flush=True)


def _features(workspace: Workspace, row: ExampleRow) -> np.ndarray:
    assert row.messages is not None
    return option_features(row.messages[0], row.messages[1], workspace.study.questions[row.question_id].answer)


def of_people(
    workspace: Workspace, rows: Mapping[Part, Sequence[ExampleRow]]
) -> tuple[dict[Part, list[ExampleRow]], dict[Part, list[int]], list[int], list[tuple[str, str]]]:
    """Answer examples by part, the letters that people chose; of the held-out ones the right letters and the pairs."""
    chats = {chat.id: chat for chat in workspace.study.conversations}
    people = {part: [row for row in rows[part] if row.kind == "answer" and row.messages] for part in PARTS}
    chosen = {part: [LETTERS.index(_target(row).removeprefix(ANSWER_PREFIX)) for row in people[part]] for part in PARTS}
    right = [LETTERS.index(workspace.study.questions[row.question_id].answer) for row in people["test"]]
    return people, chosen, right, [(row.question_id, chats[row.conversation_id].assistant) for row in people["test"]]


def _fitted(
    features: dict[Part, list[np.ndarray]],
    chosen: dict[Part, list[int]],
    right: list[int],
    pairs: list[tuple[str, str]],
) -> dict[str, float]:
    model = fit(features["train"], chosen["train"])
    return measured(np.array([model.probabilities(each) for each in features["test"]]), chosen["test"], right, pairs)


def option_probabilities(loaded: Loaded, form: TextForm, rows: Sequence[ExampleRow]) -> np.ndarray:
    """ln p of each letter among the four, and mean ln p per token of each option's text: shape (chats, 4, 2)."""
    asked = [
        replace(row, completion=completion_text(each), messages=(*row.messages[:2], Message("assistant", each)))
        for row in rows
        if row.messages
        for each in (*(ANSWER_PREFIX + letter for letter in FOUR_LETTERS), *options_of(row.messages[0]))
    ]
    encoded = encode_rows(
        loaded.tokenizer, asked, context_length(loaded.model), replace(form, long_examples="drop_oldest_turns")
    )
    losses = score_encoded(loaded.model, encoded.examples)
    nats = np.array([(total, total / tokens) for total, tokens in losses]).reshape(len(rows), 2, len(FOUR_LETTERS), 2)
    return np.stack([log_softmax(-nats[:, 0, :, 0], axis=1), -nats[:, 1, :, 1]], axis=2)


def _target(row: ExampleRow) -> str:
    return row.messages[2].content if row.messages else ""


def some(rows: Sequence[ExampleRow], most_chats: int) -> list[ExampleRow]:
    """The rows of so many chats, evenly spread over the file; 0 for all."""
    chats = list(dict.fromkeys(row.conversation_id for row in rows))
    kept = (
        chats if not 0 < most_chats < len(chats) else [chats[i * len(chats) // most_chats] for i in range(most_chats)]
    )
    return [row for row in rows if row.conversation_id in set(kept)]


def measured(
    probabilities: np.ndarray, chosen: Sequence[int], right: Sequence[int], pairs: Sequence[tuple[str, str]]
) -> dict[str, float]:
    """Nats of the choice, how often it is the likeliest, and agreement over pairs of people's and expected accuracy."""
    rows = np.arange(len(chosen))
    expected, people = defaultdict(list), defaultdict(list)
    for row, pair in enumerate(pairs):
        expected[pair].append(probabilities[row, right[row]])
        people[pair].append(float(chosen[row] == right[row]))
    ours, theirs = (np.array([np.mean(by[pair]) for pair in people]) for by in (expected, people))
    return {
        "chats": len(chosen),
        "nats": float(-np.log(probabilities[rows, chosen]).mean()),
        "likeliest": float((probabilities.argmax(1) == np.array(chosen)).mean()),
        "pairs": len(ours),
        "correlation": float(np.corrcoef(ours, theirs)[0, 1]),
        "mae": float(np.abs(ours - theirs).mean()),
        "mae_of_constant": float(np.abs(theirs.mean() - theirs).mean()),
    }


def chatbench(*arguments: str) -> None:
    subprocess.run([sys.executable, "-c", "from chatbench.cli import entry; entry()", *arguments], check=True)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", type=Path, required=True, help="event_blocks.csv or its folder")
    parser.add_argument("--model", default="smollm2-135m", help="recipe, hub id, folder or GGUF file")
    parser.add_argument("--out", type=Path, default=Path("results/halie-experiments"))
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--features", action="store_true", help="the answer model's features, one by one")
    parser.add_argument("--mmlu", type=Path, default=Path("mmlu"), help="folder of MMLU's CSV files, for practice")
    parser.add_argument("--max-steps", type=int, default=0, help="in place of the recipe's epochs: for a trial")
    parser.add_argument("--chats", type=int, default=0, help="of people, on each side of a split; 0: all")
    parser.add_argument("--conversations", type=int, default=0, help="simulated per pair; 0: none")
    parser.add_argument("--temperatures", type=float, nargs="+", help="of chats with an answer model")
    parser.add_argument("--dtype", default="auto", help="of the simulator's weights in chats at --temperatures")
    options = parser.parse_args(arguments)
    if options.temperatures and (not options.conversations or "base" in options.variants):
        parser.error("--temperatures needs --conversations, and --variants that are fine-tuned")
    if options.max_steps and "two-epochs" in options.variants:
        parser.error("--max-steps replaces epochs: name --variants without two-epochs")
    return options


if __name__ == "__main__":
    main()
