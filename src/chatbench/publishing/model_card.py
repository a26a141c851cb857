"""The README.md of a fine-tuned folder: what it was made of, how good it is, and how to load it again.

A card is made of the run's record (`chatbench.json`) alone. It holds no path of the machine that trained. Names that
others chose (a folder, a study) stand as code, where Markdown and HTML mean nothing. A person may edit a card: later
changes touch one marked section or one line of it, and nothing where these are gone.

Its Python loads the model and lets it say a first turn, and needs nothing of chatbench, except where the base comes
with chatbench. The folder stands alone on a line, so that publishing can put the hub id in its place; a test runs it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, Literal

from chatbench.core.files import write_text
from chatbench.metrics.perplexity import TunedAndBase
from chatbench.protocol.plain_text import END, prompt_text
from chatbench.protocol.prompts import FOUR_OPTIONS, simulator_messages

Kind = Literal["hub", "chatbench", "folder"]


@dataclass(frozen=True, slots=True)
class BaseName:
    """`name` is fit to be published; `revision` is a hub commit, empty where it is unknown or means nothing.

    `chatbench` bases (`package:NAME`, `random:NAME`) come with this package; a `folder` is known to one machine only.
    """

    kind: Kind
    name: str
    revision: str = ""


def base_name(record: Mapping[str, Any]) -> BaseName:
    """The base that a run's record names.

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
    """Whether a text can only be a path of somebody's machine.

    >>> [is_local_path(text) for text in ("/data/x", "~/x", "../x", "C:\\\\x", "org/model", "tiny")]
    [True, True, True, True, False, False]
    """
    return (
        PurePosixPath(text).is_absolute()
        or PureWindowsPath(text).is_absolute()
        or text.startswith(("~", "./", "../", ".\\", "..\\"))
    )


def last_name(path: str) -> str:
    """The last part of a path, whichever system it is of."""
    return PurePosixPath(PureWindowsPath(path).as_posix()).name or "folder"


FOLDER_LINE = 'folder = "."  # the folder of this file; from elsewhere, the path to it'

_QUANTISED = {
    "load_in_8bit": "BitsAndBytesConfig(load_in_8bit=True)",
    "load_in_4bit": (
        'BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, '
        'bnb_4bit_compute_dtype="bfloat16")'
    ),
}
"""The base as it was held while the adapter was trained, by setting."""

QUESTION = "What is 6 x 7?\nA. 36\nB. 42\nC. 48\nD. 67"
"""The question of the example."""

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
"""What a record has once a run has ended, for one that lacks it."""
_BEGIN, _END = "<!-- held-out perplexity -->", "<!-- end of held-out perplexity -->"


def model_card(record: Mapping[str, Any], *, adapter: bool) -> str:
    """The card in Markdown (`model_card.md.j2`), with the metadata header that the hub reads.

    Args:
        record: content of the folder's `chatbench.json`.
        adapter: whether the folder holds an adapter, not a whole model.
    """
    from huggingface_hub import ModelCardData  # late: takes a second
    from jinja2 import Environment, PackageLoader, StrictUndefined

    base, settings = base_name(record), record["settings"]
    dataset = record.get("data", {}).get("hub_dataset")
    # No licence: that of the base is not known here, and the hub shows what is missing.
    metadata = ModelCardData(
        base_model=base.name if base.kind == "hub" else None,
        library_name="peft" if adapter else "transformers",
        pipeline_tag="text-generation",
        tags=["chatbench", "user-simulator", *(["lora"] if adapter else [])],
        datasets=[dataset] if dataset else None,
    ).to_yaml()
    comes = {"hub": "", "chatbench": " (comes with chatbench)", "folder": " (a folder of the machine that trained)"}
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
    """Name, value and origin of each setting, as cells of a table."""
    for name, value in record["settings"].items():
        origin = str(record.get("origins", {})[name])
        if origin.startswith("recipe "):
            set_by = code(origin)
        elif origin.startswith("--"):
            set_by = "command line"
        else:  # without the name of a file of somebody's machine
            set_by = "default" if origin.startswith("default") else "overrides file"
        shown = ", ".join(map(str, value)) or "by architecture" if isinstance(value, list | tuple) else str(value)
        # A bar divides cells even inside code.
        yield tuple(cell.replace("|", "\\|") for cell in (name, code(shown), set_by))


def with_folder(text: str, repo_id: str, revision: str = "main") -> str:
    """A card whose example loads from the hub in place of its own folder; as it was where the line was edited."""
    lines = [f"folder = {repo_id!r}"]
    if revision != "main":
        lines = [
            "from huggingface_hub import snapshot_download",
            f"folder = snapshot_download({repo_id!r}, revision={revision!r})",
        ]
    return text.replace(FOLDER_LINE, "\n".join(lines))


def update_card(folder: Path, measured: Mapping[str, TunedAndBase]) -> bool:
    """Writes held-out perplexities, by kind of turn, into a card in one step; False where it has no place for them."""
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
        "Values per token compare only between models of one tokenizer.",
    ]
    new = "\n".join([before + begin, *lines, end + after])
    if new != old:
        write_text(path, new)
    return True


def code(text: str) -> str:
    """Text as Markdown code, which shows what it says and means nothing.

    >>> code("a`b") + " " + code("two" + chr(10) + "lines")
    '``a`b`` `two lines`'
    """
    flat = "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in " ".join(text.split()))
    ticks = "`" * (1 + max((len(run) for run in re.findall("`+", flat)), default=0))
    pad = " " if not flat or flat.startswith("`") or flat.endswith("`") else ""
    return f"{ticks}{pad}{flat}{pad}{ticks}"
