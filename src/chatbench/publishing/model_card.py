"""Write the model card (README.md) of a fine-tuned model: how it was made, how good it is, and how to load it.

A card is generated from the run's record (`chatbench.json`) alone and contains no path of the training machine. Names
that users chose (a folder, a study) are shown as code, so that Markdown and HTML in them have no effect. Users may edit
a card: later updates change only one marked section or one line, and nothing if these are gone.

The Python example loads the model and generates a first turn. It needs chatbench only if the base comes with chatbench.
The folder is on a line of its own, so that publishing can replace it with the hub id; a test runs the example.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, Literal

from chatbench.core.files import write_text
from chatbench.metrics.text import TunedAndBase
from chatbench.protocol.prompts import END, FOUR_OPTIONS, prompt_text, simulator_messages

Kind = Literal["hub", "chatbench", "folder"]


@dataclass(frozen=True, slots=True)
class BaseName:
    """A base's publishable `name` and its `revision`, a hub commit that is empty if unknown or not applicable.

    `chatbench` bases (`package:NAME`, `random:NAME`) come with this package; a `folder` exists on one machine only.
    """

    kind: Kind
    name: str
    revision: str = ""


def base_name(record: Mapping[str, Any]) -> BaseName:
    """Return the base named in a run's record.

    >>> base_name({"base": "org/model", "base_weights": "org/model@5c1e"})
    BaseName(kind='hub', name='org/model', revision='5c1e')
    >>> base_name({"base": "/home/me/bases/small", "base_weights": "sha256:00"}).name
    'small'
    """
    base, weights = str(record["base"]), str(record.get("base_weights", ""))
    if base.startswith(("package:", "random:")):
        return BaseName("chatbench", base)
    if is_local_path(base):
        return BaseName("folder", last_name(base))
    revision = weights.partition("@")[2]
    return BaseName("hub", base, "" if revision == "unknown" else revision)


def is_local_path(text: str) -> bool:
    """Whether a text can only be a path on a local machine.

    >>> [is_local_path(text) for text in ("/data/x", "~/x", "../x", "C:\\\\x", "org/model", "tiny")]
    [True, True, True, True, False, False]
    """
    return (
        PurePosixPath(text).is_absolute()
        or PureWindowsPath(text).is_absolute()
        or text.startswith(("~", "./", "../", ".\\", "..\\"))
    )


def last_name(path: str) -> str:
    """The last component of a POSIX or Windows path."""
    return PurePosixPath(PureWindowsPath(path).as_posix()).name or "folder"


FOLDER_LINE = 'folder = "."  # the folder of this file; from elsewhere, the path to it'

_QUANTISED = {
    "load_in_8bit": "BitsAndBytesConfig(load_in_8bit=True)",
    "load_in_4bit": (
        'BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, '
        'bnb_4bit_compute_dtype="bfloat16")'
    ),
}
"""Quantisation of the base during training, by setting."""

QUESTION = "What is 6 x 7?\nA. 36\nB. 42\nC. 48\nD. 67"
"""Question in the Python example."""

CARD = "README.md"
_LACKING: Mapping[str, object] = {
    "split": "",
    "data": {},
    "examples": None,
    "outcome": {},
    "merged": None,
    "recipe": None,
    "processes": 1,
}
"""Defaults for fields that a record may lack before its run has ended."""
_BEGIN, _END = "<!-- held-out perplexity -->", "<!-- end of held-out perplexity -->"


def model_card(record: Mapping[str, Any], *, adapter: bool) -> str:
    """Render the card in Markdown (`model_card.md.j2`), with the metadata header that the hub reads.

    Args:
        record: content of the folder's `chatbench.json`.
        adapter: whether the folder holds an adapter rather than a full model.
    """
    from huggingface_hub import ModelCardData  # imported late, as it takes a second
    from jinja2 import Environment, PackageLoader, StrictUndefined

    base, settings = base_name(record), record["settings"]
    dataset = record.get("data", {}).get("hub_dataset")
    # No licence: the base's is not known here, and the hub shows that it is missing.
    metadata = ModelCardData(
        base_model=base.name if base.kind == "hub" else None,
        library_name="peft" if adapter else "transformers",
        pipeline_tag="text-generation",
        tags=["chatbench", "user-simulator", *(["lora"] if adapter else [])],
        datasets=[dataset] if dataset else None,
    ).to_yaml()
    comes = {"hub": "", "chatbench": " (comes with chatbench)", "folder": " (a folder on the training machine)"}
    system, user = simulator_messages(QUESTION, (), asked_for=FOUR_OPTIONS)
    asked = [system.as_dict(), user.as_dict()]
    if record.get("chat_template", {}).get("merges_system"):
        asked = [{"role": "user", "content": f"{system.content}\n\n{user.content}"}]
    model, weights = (
        last_name(text) if is_local_path(text) else text for text in (str(record["model"]), str(record["base_weights"]))
    )
    quantised = next((made for name, made in _QUANTISED.items() if settings.get(name)), "")
    environment = Environment(
        loader=PackageLoader("chatbench.publishing", "."), trim_blocks=True, keep_trailing_newline=True,
        undefined=StrictUndefined, autoescape=False,
    )  # fmt: skip
    return environment.get_template("model_card.md.j2").render(
        {**_LACKING, **record},
        metadata=metadata,
        title=", ".join(code(text) for text in (model, record.get("split", "")) if text),
        base=base,
        base_text=code(base.name) + (f" at revision {code(base.revision)}" if base.revision else "") + comes[base.kind],
        base_weights=weights,
        adapter=adapter,
        bits="8-bit" if settings.get("load_in_8bit") else "4-bit" if settings.get("load_in_4bit") else "",
        quantised=f", quantization_config={quantised}" if quantised else "",
        chat=settings.get("template") == "chat",
        messages=asked,
        prompt=prompt_text([system, user]),
        versions=", ".join(f"{name} {version}" for name, version in record.get("versions", {}).items()),
        setting_rows=list(_setting_rows(record)),
        folder_line=FOLDER_LINE,
        marks=(_BEGIN, _END),
        end=END.strip(),
        code=code,
        repr=repr,
    )


def _setting_rows(record: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """Yield name, value and origin of each setting as table cells."""
    for name, value in record["settings"].items():
        origin = str(record.get("origins", {})[name])
        if origin.startswith("recipe "):
            set_by = code(origin)
        elif origin.startswith("--"):
            set_by = "command line"
        else:  # without the overrides file's name, which is a local path
            set_by = "default" if origin.startswith("default") else "overrides file"
        shown = ", ".join(map(str, value)) or "by architecture" if isinstance(value, list | tuple) else str(value)
        # Markdown splits cells at a bar even inside code.
        yield tuple(cell.replace("|", "\\|") for cell in (name, code(shown), set_by))


def with_folder(text: str, repo_id: str, revision: str = "main") -> str:
    """Make a card's example load from the hub instead of its own folder; unchanged if that line was edited."""
    lines = [f"folder = {repo_id!r}"]
    if revision != "main":
        lines = [
            "from huggingface_hub import snapshot_download",
            f"folder = snapshot_download({repo_id!r}, revision={revision!r})",
        ]
    return text.replace(FOLDER_LINE, "\n".join(lines))


def update_card(folder: Path, measured: Mapping[str, TunedAndBase]) -> bool:
    """Write held-out perplexities by kind of turn into a card atomically; False if the card has no section for them."""
    path = folder / CARD
    old = path.read_text(encoding="utf-8") if path.is_file() else ""
    before, begin, rest = old.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not (begin and end):
        return False
    lines = [
        "| turns | examples | scored tokens | perplexity per token | of the base | bits per byte | of the base |",
        "|---|---|---|---|---|---|---|",
        *(
            f"| {turns} | {each.finetuned.examples:,} | {each.finetuned.tokens:,} | {each.finetuned.perplexity:.3f} "
            f"| {each.base.perplexity:.3f} | {each.finetuned.bits_per_byte:.4f} | {each.base.bits_per_byte:.4f} |"
            for turns, each in measured.items()
        ),
        "",
        "Values per token are comparable only between models with the same tokenizer.",
    ]
    new = "\n".join([before + begin, *lines, end + after])
    if new != old:
        write_text(path, new)
    return True


def code(text: str) -> str:
    """Format text as inline Markdown code, so that it is shown literally.

    >>> code("a`b") + " " + code("two" + chr(10) + "lines")
    '``a`b`` `two lines`'
    """
    flat = "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in " ".join(text.split()))
    ticks = "`" * (1 + max((len(run) for run in re.findall("`+", flat)), default=0))
    pad = " " if not flat or flat.startswith("`") or flat.endswith("`") else ""
    return f"{ticks}{pad}{flat}{pad}{ticks}"
