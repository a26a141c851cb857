"""Who takes part: specs of simulators and assistants, models on this machine, the replay assistant, what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tests.support.chat_templates import CHATML, NO_SYSTEM, chat_tokenizer
from tests.support.finished_folders import run_record
from tests.support.prepared_files import write_prepared
from tests.support.tiny_models import save_tiny_model, tiny_model
from transformers import GPT2LMHeadModel

from chatbench.cli import main
from chatbench.core.errors import ChatbenchError
from chatbench.core.files import sha256_of
from chatbench.core.records import Conversation, Message, Question, Study, Turn
from chatbench.data.workspace import Workspace
from chatbench.models.loading import Loaded
from chatbench.models.local_participants import LocalSimulator, LocalUserLm
from chatbench.models.run_record import write_record
from chatbench.protocol.dialogue import Failure, Reply, Request
from chatbench.protocol.prompt_styles import STYLES, StyleName
from chatbench.protocol.prompts import USERLM_END
from chatbench.simulation.judge import needs_judge, open_judge
from chatbench.simulation.participants import (
    NO_RECORD,
    SIMULATORS,
    TUNED,
    AssistantSpec,
    RecordedQuestion,
    RecordedReply,
    SimulatorSpec,
    load_simulator,
    open_simulator,
    read_simulator_spec,
    read_specs,
    refuse_impossible,
    replay_assistant,
    simulator_lines,
)

QUESTION = Question("q1", "maths", "What is 2+2?", ("3", "4", "5", "6"), "B")
TURNS = (Turn("user", "what is 2+2"), Turn("assistant", "It is 4."))
USERLM_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>{% endfor %}<|im_start|>user"
)
"""As UserLM-8b's: whatever is asked for, it ends with the head of a user message."""


def request(style: StyleName, turns: tuple[Turn, ...] = TURNS, *, forced: bool = False) -> Request:
    messages = STYLES[style].messages(QUESTION.full_text, turns, asked_for=QUESTION.asked_for, forced=forced)
    return Request("simulator", messages, QUESTION.id, 7, "forced" if forced else "turn")


# ---- specs ----


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("tuned", TUNED),
        ("two-step-problem:tuned", SimulatorSpec("two-step-problem", "tuned")),
        ("two-step:openai:gpt-4o", SimulatorSpec("two-step", "openai", "gpt-4o")),
        (
            "iqa-eval:openai:m@http://localhost:8000/v1#MY_KEY",
            SimulatorSpec("iqa-eval", "openai", "m@http://localhost:8000/v1#MY_KEY"),
        ),
        (
            "two-step:completions:tiny-{split}@http://h:1/v1",
            SimulatorSpec("two-step", "completions", "tiny-{split}@http://h:1/v1"),
        ),
        ("userlm:local:microsoft/UserLM-8b", SimulatorSpec("userlm", "local", "microsoft/UserLM-8b")),
    ],
)
def test_a_spec_names_style_kind_and_argument(text: str, spec: SimulatorSpec) -> None:
    assert read_simulator_spec(text) == spec
    assert read_simulator_spec(spec.text()) == spec


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("gpt-4o", "STYLE:KIND:ARGUMENT"),
        ("two-steps:openai:gpt-4o", "one of the styles two-step"),
        ("two-step:azure:gpt-4o", "one of the kinds tuned, local, openai, completions"),
        ("two-step:openai", "two-step:openai:..."),
        ("two-step:openai: ", "two-step:openai:..."),
        ("two-step:tuned:folder", "nothing after tuned"),
        ("userlm:tuned", "its own chat template"),
        ("userlm:completions:m@http://h/v1", "its own chat template"),
    ],
)
def test_a_spec_that_cannot_be_read_says_what_could_be(text: str, said: str) -> None:
    with pytest.raises(ChatbenchError) as caught:
        read_simulator_spec(text)
    assert said in str(caught.value)


WITH_SECRETS = "openai:m@https://me:secret@h/v1?key=secret#sk-secret"
PROMPTED = SimulatorSpec("iqa-eval", "openai", WITH_SECRETS.removeprefix("openai:"))
EMPTY = Study("s", {}, (), ())


@pytest.mark.parametrize(
    "refuse",
    [
        lambda: read_simulator_spec("two-step:opnai:m#sk-secret"),
        lambda: read_specs(["two-step:opnai:m#sk-secret"], []),
        lambda: read_simulator_spec(f"two-step:{WITH_SECRETS}"),
        lambda: read_simulator_spec(f"two-step:completions:{PROMPTED.argument}"),
        lambda: refuse_impossible(PROMPTED, base_model=True, expected_answers=False),
        lambda: refuse_impossible(PROMPTED, base_model=False, expected_answers=True),
        lambda: refuse_impossible(PROMPTED, base_model=False, expected_answers=False, answer_model=True),
        lambda: needs_judge([QUESTION], WITH_SECRETS, EMPTY),
        lambda: open_judge(WITH_SECRETS, None, EMPTY),
        lambda: open_judge(WITH_SECRETS, Path(__file__), EMPTY),
        lambda: open_judge("sk-secret=scripted:strong", Path(__file__), EMPTY),
    ],
)
def test_no_option_that_contradicts_a_spec_shows_what_is_secret_in_it(refuse: Callable[[], object]) -> None:
    with pytest.raises(ChatbenchError) as caught:
        refuse()
    assert "secret" not in str(caught.value)


def test_every_listed_simulator_can_be_named() -> None:
    # A list that drifts from what is accepted is the likely mistake.
    for _, needs, example in SIMULATORS:
        assert read_simulator_spec(example).text() in (example, f"two-step:{example}")
        assert any(example in line and needs in line for line in simulator_lines())


def test_an_assistants_spec_names_kind_argument_and_the_name_in_the_study() -> None:
    texts = ["scripted:all", "replay:gpt-4o", "llama-3.1-8b=local:models/llama", "openai:m@http://h/v1#K"]

    assert read_specs(texts, ["gpt-4o"]) == [
        AssistantSpec("scripted-strong", "scripted", "scripted-strong"),
        AssistantSpec("scripted-weak", "scripted", "scripted-weak"),
        AssistantSpec("gpt-4o", "replay", "gpt-4o"),
        AssistantSpec("llama-3.1-8b", "local", "models/llama"),
        AssistantSpec("m", "openai", "m@http://h/v1#K"),
    ]
    assert [spec.name for spec in read_specs(["replay:all"], ["a", "b"])] == ["a", "b"]
    assert read_specs(["gpt-4o=scripted:weak"], [])[0].name == "gpt-4o"


@pytest.mark.parametrize(
    "texts",
    [[], ["gpt-4o"], ["replay:nobody"], ["x=replay:all"], ["scripted:clever"], ["scripted:weak", "scripted:all"]],
)
def test_an_assistant_that_cannot_be_used_is_refused(texts: list[str]) -> None:
    with pytest.raises(ChatbenchError):
        read_specs(texts, ["gpt-4o"])


def test_the_command_lists_simulators(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", "--list-simulators"]) == 0
    assert "userlm:local:microsoft/UserLM-8b" in capsys.readouterr().out


# ---- models on this machine ----


def test_a_local_model_without_a_template_speaks_in_the_plain_form(tmp_path: Path) -> None:
    save_tiny_model(tmp_path / "mine" / "split_3", context=1024)

    participant = opened("two-step:local:" + str(tmp_path / "mine" / "{split}"), split="split_3", max_tokens=4)

    assert participant.identity["name"] == "mine split_3"
    assert participant.identity["form"] == "plain text"
    assert all(
        isinstance(reply, Reply) for reply in participant.reply_all([request("two-step", ()), request("two-step")])
    )


@pytest.mark.parametrize("template", [CHATML, NO_SYSTEM])
@pytest.mark.parametrize("style", ["two-step", "iqa-eval"])
def test_a_prompted_chat_model_is_asked_through_its_template(tmp_path: Path, template: str, style: StyleName) -> None:
    # A template without a system role takes IQA-EVAL's only message too.
    tokenizer = chat_tokenizer(template)
    tiny_model("gpt2", vocabulary=len(tokenizer), context=1024).save_pretrained(tmp_path / "m")
    tokenizer.save_pretrained(tmp_path / "m")

    participant = opened(f"{style}:local:{tmp_path / 'm'}", max_tokens=4)

    assert str(participant.identity["form"]).startswith("chat template ")
    assert all(isinstance(reply, Reply) for reply in participant.reply_all([request(style, ()), request(style)]))


def opened(spec: str, *, split: str = "split_0", max_tokens: int = 8) -> LocalSimulator | LocalUserLm:
    participant = open_simulator(
        read_simulator_spec(spec), model="tiny", workspace=Workspace(results=Path("none")), split=split,
        temperature=1.0, max_tokens=max_tokens,
    )  # fmt: skip
    assert isinstance(participant, LocalSimulator | LocalUserLm)
    return participant


# ---- UserLM ----


def userlm(always: str, *, template: str = USERLM_TEMPLATE, with_end: bool = True) -> LocalUserLm:
    """A model that writes one token over and over, in the manner of UserLM-8b."""
    tokenizer = chat_tokenizer(template)
    if with_end:
        tokenizer.add_special_tokens({"additional_special_tokens": [USERLM_END]})
    model = tiny_model("gpt2", vocabulary=len(tokenizer), context=512)
    assert isinstance(model, GPT2LMHeadModel)
    token = tokenizer.convert_tokens_to_ids(always)
    with torch.no_grad():  # the last layer norm gives the same hidden state everywhere, which is nearest that token
        model.transformer.ln_f.weight.zero_()
        model.transformer.ln_f.bias.fill_(1.0)
        model.transformer.wte.weight[token] = 10.0
    return LocalUserLm(Loaded(model, tokenizer, "m", "w"), "userlm", temperature=0.0, max_tokens=5)


def said(participant: LocalUserLm, turns: tuple[Turn, ...] = TURNS) -> Reply:
    (reply,) = participant.reply_all([request("userlm", turns)])
    assert isinstance(reply, Reply)
    return reply


def test_the_end_of_conversation_token_is_told_from_the_end_of_a_turn() -> None:
    # Both end the text, and a decoder leaves special tokens out: reading the text alone is the likely mistake.
    ends_chat, ends_turn, talks = said(userlm(USERLM_END)), said(userlm("<|im_end|>")), said(userlm("A"))

    assert (ends_chat.text, ends_chat.finish) == (USERLM_END, "stop")
    assert (ends_turn.text, ends_turn.finish) == ("", "stop")
    assert (talks.text, talks.finish) == ("AAAAA", "length")


def test_a_userlm_is_prompted_with_roles_as_they_are_and_a_user_turn_to_come() -> None:
    participant = userlm("A")
    ids = participant._template.prompt_ids(request("userlm").messages)

    assert participant._template.tokenizer.decode(ids).endswith(
        "D. 6<|im_end|><|im_start|>user\nwhat is 2+2<|im_end|><|im_start|>assistant\nIt is 4.<|im_end|><|im_start|>user"
    )


def test_a_userlm_without_the_token_writes_it_as_text_or_not_at_all() -> None:
    assert said(userlm("A", with_end=False)).text == "AAAAA"


def test_a_long_chat_loses_its_oldest_turns() -> None:
    long = (Turn("user", "word " * 60), Turn("assistant", "word " * 60), *TURNS)

    assert said(userlm("A"), long).turns_dropped == 2
    assert said(userlm("A")).turns_dropped == 0
    (reply,) = userlm("A").reply_all([request("userlm", (Turn("user", "word " * 500), TURNS[1]))])
    assert isinstance(reply, Failure | Reply)


def test_an_assistants_template_is_no_userlms() -> None:
    with pytest.raises(ChatbenchError, match="does not ask for the user's next turn"):
        userlm("A", template=CHATML)


# ---- what is refused ----


@pytest.mark.parametrize(
    ("text", "asked", "found"),
    [
        ("two-step:openai:gpt-4o", "expected_answers", "without --expected-answers"),
        ("iqa-eval:local:FOLDER", "expected_answers", "without --expected-answers"),
        ("two-step:completions:m@http://h/v1", "expected_answers", "without --expected-answers"),
        ("two-step:openai:m", "base_model", "only the tuned simulator has a base model"),
        ("iqa-eval:local:FOLDER", "answer_model", "without --answer-model"),
    ],
)
def test_what_a_simulator_cannot_give_is_refused(text: str, asked: str, found: str) -> None:
    spec, given = read_simulator_spec(text), {asked: True}
    with pytest.raises(ChatbenchError, match=found):
        open_simulator(spec, model="m", workspace=Workspace(), split="split_0", **given)  # type: ignore[arg-type]


def test_the_base_model_simulator_is_the_base_of_the_recipe(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "base")

    simulator = open_simulator(
        TUNED, model=str(folder), workspace=Workspace(results=tmp_path), split="split_0", base_model=True
    )

    assert simulator.identity["name"] == "base base model"


@pytest.fixture
def finetuned(tmp_path: Path) -> Workspace:
    """A workspace with bases/small fine-tuned on split_0."""
    place = Workspace(write_prepared(tmp_path / "data"), tmp_path / "results")
    base = save_tiny_model(tmp_path / "bases/small")
    folder = save_tiny_model(place.model_folder("small", "split_0"), seed=1)
    train_sha256 = sha256_of(place.split_file("split_0", "train.jsonl"))
    write_record(folder, run_record(base) | {"train_sha256": train_sha256})
    return place


@pytest.mark.parametrize("base_model", [False, True])
def test_another_folder_of_the_same_name_is_not_taken_for_the_base_of_the_fine_tuned_model(
    finetuned: Workspace, tmp_path: Path, base_model: bool
) -> None:
    other = save_tiny_model(tmp_path / "other/small", seed=2)
    copy = save_tiny_model(tmp_path / "copy/small")

    with pytest.raises(ChatbenchError, match=r"other/small: its weights .* differ from those") as refused:
        load_simulator(finetuned, str(other), "split_0", base_model=base_model)
    assert f"pass {tmp_path / 'bases/small'}" in refused.value.fix
    loaded, _ = load_simulator(finetuned, str(copy), "split_0", base_model=base_model)

    assert loaded.source == str(copy if base_model else finetuned.model_folder("small", "split_0"))


def test_the_name_of_the_results_is_enough_for_the_base(finetuned: Workspace, tmp_path: Path) -> None:
    # It was looked for on the hub.
    loaded, _ = load_simulator(finetuned, "small", "split_0", base_model=True)

    assert loaded.source == str(tmp_path / "bases/small")


def test_a_random_base_is_drawn_with_the_seed_that_was_fine_tuned(tmp_path: Path) -> None:
    place = Workspace(write_prepared(tmp_path / "data"), tmp_path / "results")
    record = {"base": "random:tiny_base", "base_weights": "random:tiny_base#7", "settings": {"seed": 7}}
    place.model_folder("tiny-random", "split_0").mkdir(parents=True)
    write_record(place.model_folder("tiny-random", "split_0"), record)

    loaded, _ = load_simulator(place, "tiny-random", "split_0", base_model=True)

    assert loaded.weights == "random:tiny_base#7"


# ---- the replay assistant, on a record worked out by hand ----


def recorded(number: int, assistant: str, *texts: str, question: str = "q1") -> Conversation:
    turns = tuple(Turn("user" if place % 2 == 0 else "assistant", text) for place, text in enumerate(texts))
    return Conversation(f"c{number}", question, "w", assistant, "direct", turns, None)


RECORD = [
    recorded(0, "big", "what is 12 plus 30", "It is 42.", "are you sure", "Yes, 42."),
    recorded(1, "big", "what is a plus sign", "A symbol."),
    recorded(2, "small", "what is 12 plus 30", "It is 41."),
]


def ask(
    text: str, *, before: tuple[str, ...] = (), question: str = "q1", assistant: str = "big", seed: int = 0
) -> object:
    roles = ("user", "assistant")
    history = [Message(roles[place % 2], said) for place, said in enumerate((*before, text))]  # type: ignore[arg-type]
    request = Request("assistant", (Message("system", "S"), *history), question, seed, "reply")
    return replay_assistant(RECORD, assistant).reply_all([request])[0]


def test_the_nearest_recorded_prompt_of_the_same_assistant_answers() -> None:
    assert ask("12 plus 30?") == Reply("It is 42.")
    assert ask("what does the plus sign mean") == Reply("A symbol.")
    assert ask("12 plus 30?", assistant="small") == Reply("It is 41.")


def test_a_question_without_a_record_fails_for_good() -> None:
    assert ask("hello", question="q2") == Failure(NO_RECORD)
    assert ask("hello", assistant="nobody") == Failure(NO_RECORD)


def test_words_that_every_prompt_shares_count_little() -> None:
    # Plain counts would choose the first by its three common words: the likely mistake.
    record = RecordedQuestion(
        [RecordedReply("solve this for me now", "common", 0), RecordedReply("solve this for me integral", "rare", 0)]
        + [RecordedReply(f"solve this for me word{number}", "other", 0) for number in range(8)]
    )

    assert record.nearest("integral solve", 0, 0).response == "rare"


def test_depth_decides_only_between_equally_near_prompts() -> None:
    record = RecordedQuestion(
        [
            RecordedReply("and now", "early", 0),
            RecordedReply("and now", "late", 3),
            RecordedReply("what is 7", "seven", 0),
        ]
    )

    assert record.nearest("and now", 2, 0).response == "late"
    assert record.nearest("and now", 0, 0).response == "early"
    assert record.nearest("What is 7", 3, 0).response == "seven"


def test_equal_prompts_share_the_draws_so_that_the_record_keeps_its_accuracy() -> None:
    # Three of four recorded answers to the same prompt are right; always the first would make it all or nothing.
    record = RecordedQuestion([RecordedReply("2+2", answer, 0) for answer in ("4", "4", "5", "4")])

    answers = [record.nearest("2+2", 0, seed).response for seed in range(400)]

    assert answers.count("4") == 300
    assert answers == [record.nearest("2+2", 0, seed).response for seed in range(400)]


def test_without_a_common_word_the_depth_decides() -> None:
    assert ask("xyzzy", before=("hm", "hm")) == Reply("Yes, 42.")
