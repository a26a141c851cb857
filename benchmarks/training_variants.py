"""The ways to train that are compared, each as a Trainer that is ready to run one epoch over the same examples.

    plain          transformers.Trainer, random batches of four, padded, labels -100, logits for every position
    length-grouped the same with train_sampling_strategy="group_by_length"
    trl            TRL's SFTTrainer with its best packing: best-fit-decreasing into rows as long as the longest example,
                   each row one forward pass without padding; its head takes all logits on a processor, in parts
    none           ours, random padded batches of four, logits for scored tokens only
    conversation   ours, the examples of a conversation share their tokens; about four examples a step
    question       ours, conversations about a question share theirs too; about 20 examples a step

The first three train the stock model, ours get it as the package loads it. All use torch's fused AdamW and clip
gradients at norm 1.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast, get_args

import torch
from transformers import PreTrainedModel, PrinterCallback, Trainer, TrainingArguments

from chatbench.core.settings import Packing, Settings
from chatbench.models.encoding import EncodedRows
from chatbench.models.loading import fuse_activations
from chatbench.models.loss import IGNORED
from chatbench.protocol.prompts import EncodedExample
from our_trainer import our_trainer

Variant = Literal["plain", "length-grouped", "trl", "none", "conversation", "question"]
VARIANTS: tuple[Variant, ...] = get_args(Variant)
OURS = ("none", "conversation", "question")
BATCH = 4


@dataclass(frozen=True, slots=True)
class Options:
    """0 is the package's default."""

    precision: Literal["fp32", "bf16"] = "fp32"
    pack_tokens: int = 0
    examples_per_step: int = 0


def make_trainer(variant: Variant, model: PreTrainedModel, rows: EncodedRows, options: Options) -> Trainer:
    if variant in OURS:
        return _ours(cast(Packing, variant), fuse_activations(model), rows, options)
    folder = Path(tempfile.mkdtemp(prefix="chatbench-benchmark-"))
    trainer = _trl(model, rows, options, folder) if variant == "trl" else _plain(variant, model, rows, options, folder)
    trainer.remove_callback(PrinterCallback)
    return trainer


def _common(options: Options, folder: Path) -> dict[str, Any]:
    return {
        "output_dir": str(folder), "num_train_epochs": 1, "learning_rate": 1e-6, "lr_scheduler_type": "constant",
        "optim": "adamw_torch_fused", "max_grad_norm": 1.0, "bf16": options.precision == "bf16", "use_cpu": True,
        "save_strategy": "no", "report_to": "none", "disable_tqdm": True, "log_level": "error",
    }  # fmt: skip


def _plain(variant: Variant, model: PreTrainedModel, rows: EncodedRows, options: Options, folder: Path) -> Trainer:
    strategy = "group_by_length" if variant == "length-grouped" else "random"
    arguments = TrainingArguments(
        **_common(options, folder), per_device_train_batch_size=BATCH, train_sampling_strategy=strategy
    )
    return Trainer(
        model=model,
        args=arguments,
        train_dataset=cast(Any, [labelled(example) for example in rows.examples]),
        data_collator=padded,
    )


def labelled(example: EncodedExample) -> dict[str, list[int]]:
    """Ids and labels of one example, -100 for what carries no loss."""
    labels = [IGNORED] * len(example.prompt) + example.completion
    return {"input_ids": example.prompt + example.completion, "labels": labels}


def padded(features: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
    """Right padding with an attention mask, as transformers' DataCollatorForSeq2Seq does (which needs a tokenizer)."""
    longest = max(len(each["input_ids"]) for each in features)

    def rectangle(name: str, filling: int) -> torch.Tensor:
        return torch.tensor([each[name] + [filling] * (longest - len(each[name])) for each in features])

    masks = [[1] * len(each["input_ids"]) + [0] * (longest - len(each["input_ids"])) for each in features]
    return {
        "input_ids": rectangle("input_ids", 0),
        "labels": rectangle("labels", IGNORED),
        "attention_mask": torch.tensor(masks),
    }


def _trl(model: PreTrainedModel, rows: EncodedRows, options: Options, folder: Path) -> Trainer:
    """Rows are laid end to end in one sequence, whose attention mask transformers makes from the positions (SDPA).

    One row a forward pass: with more, the mask of two rows is four times that of one. Rows are accumulated so that
    there are about as many optimizer steps as in the plain recipe.
    """
    from datasets import Dataset
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast
    from trl import SFTConfig, SFTTrainer

    # SFTTrainer wants a tokenizer for its padding token; the ids are ready made.
    words = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel({"<end>": 0}, "<end>")), eos_token="<end>"
    )
    longest = max(example.tokens for example in rows.examples)
    packed_rows = -(-sum(example.tokens for example in rows.examples) // longest)
    plain_steps = -(-len(rows.examples) // BATCH)
    arguments = SFTConfig(
        **_common(options, folder),
        per_device_train_batch_size=1,
        gradient_accumulation_steps=max(1, round(packed_rows / plain_steps)),
        packing=True,
        packing_strategy="bfd",
        max_length=longest,
        gradient_checkpointing=False,  # its default is True, which saves memory for time
    )
    dataset = Dataset.from_list([labelled(example) for example in rows.examples])
    return SFTTrainer(model=model, args=arguments, train_dataset=dataset, processing_class=words)


def _ours(packing: Packing, model: PreTrainedModel, rows: EncodedRows, options: Options) -> Trainer:
    settings = Settings(
        packing=packing,
        precision=options.precision,
        learning_rate=1e-6,
        lr_scheduler_type="constant",
        num_train_epochs=1,
        per_device_train_batch_size=BATCH,
        examples_per_step=options.examples_per_step,
        pack_tokens=options.pack_tokens,
    )
    return our_trainer(model, conversations_apart(rows) if packing == "conversation" else rows, settings)


def conversations_apart(rows: EncodedRows) -> EncodedRows:
    """The same with another first token for each conversation, so that no two of them share any.

    In an epoch over many questions, two conversations that happen to be in one step are seldom about the same question;
    in the few questions of a timing they would be, and share what they will not share in practice.
    """
    numbers = {name: 1 + place for place, name in enumerate(dict.fromkeys(row.conversation_id for row in rows.rows))}
    examples = [
        EncodedExample([numbers[row.conversation_id], *example.prompt[1:]], example.completion)
        for row, example in zip(rows.rows, rows.examples, strict=True)
    ]
    return replace(rows, examples=examples)
