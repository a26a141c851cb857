"""Renders the page as HTML: one self-contained file, or a small file with its parts in a folder beside it.

Nothing that comes from data or models is markup or script: it is JSON in elements that do not run, and our script shows
it through `textContent`. The Content-Security-Policy allows our own code, by its hash, and nothing else: no network, no
inline handlers, no frames, no forms. Scripts and styles are in `assets/`, third-party ones in `vendor/` below it.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources

VENDOR_SCRIPTS = ("vendor/d3.min.js", "vendor/plot.umd.min.js")
"""In order of dependency."""
OWN_SCRIPTS = (
    "text.js", "numbers.js", "parts.js", "tables.js", "figure_card.js", "accuracies.js", "scores.js", "figures.js",
    "figure_pairs.js", "figure_agreement.js", "figure_chats.js", "figure_training.js", "overview.js", "question.js",
    "comparison.js", "estimate.js", "chat_store.js", "chat_messages.js", "chat_reader.js", "chat_list.js",
    "chat_keys.js", "chats.js", "router.js", "live.js", "main.js",
)  # fmt: skip
"""All run inside one function, so that they share a scope and leak no globals; `main.js` starts the page."""
STYLES = ("page.css", "chats.css")


@cache
def asset(name: str) -> str:
    """Read a text file below `assets/`."""
    return resources.files("chatbench.report").joinpath("assets", *name.split("/")).read_text("utf-8")


@cache
def own_script() -> str:
    """Our scripts, concatenated."""
    return "(() => {\n" + '"use strict";\n' + "\n".join(asset(name) for name in OWN_SCRIPTS) + "\n})();\n"


@cache
def style() -> str:
    """Our styles, concatenated."""
    return "\n".join(asset(name) for name in STYLES)


@dataclass(frozen=True, slots=True)
class PageContent:
    """Content of one page.

    `first` is read as the page opens, so it is kept small: runs, scores, questions, figures. Each of `later` (the
    chats) is read when a view first requests it (`part(NAME)` in `assets/parts.js`). Names consist of letters, digits
    and hyphens, because each becomes an element's id and, in a folder, a file. Values are JSON-compatible.
    """

    title: str
    first: Mapping[str, object]
    later: Mapping[str, object] = field(default_factory=dict)


def packed(value: object) -> str:
    """Compress a value to text of letters, digits, `+`, `/` and `=`; equal values give equal text.

    Raises:
        ValueError: a number is not finite, which JSON cannot express.
    """
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))  # ASCII, which holds even lone surrogates
    return base64.b64encode(gzip.compress(text.encode("ascii"), compresslevel=6, mtime=0)).decode("ascii")


_MEANT_AS_MARKUP = str.maketrans({"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"})


def script_json(value: object) -> str:
    r"""JSON in ASCII without `<`, `>` and `&`: nothing in it can end the element, begin a comment or be an entity.

    ASCII also keeps invalid text (lone surrogates, NUL, U+2028) out of the file, which stays valid UTF-8.

    Raises:
        ValueError: a number is not finite, which JSON cannot express.

    >>> script_json({"said": "</script>\u2028\ud800"})
    '{"said":"\\u003c/script\\u003e\\u2028\\ud800"}'
    """
    return json.dumps(value, allow_nan=False, separators=(",", ":")).translate(_MEANT_AS_MARKUP)


_PART_NAME = re.compile(r"[A-Za-z0-9-]+")
FIGURE_STYLE = (
    ":where(.plot-d6a7b5) {\n"
    "  --plot-background: white;\n  display: block;\n  height: auto;\n  height: intrinsic;\n  max-width: 100%;\n}\n"
    ":where(.plot-d6a7b5 text),\n:where(.plot-d6a7b5 tspan) {\n  white-space: pre;\n}"
)
"""The style that Observable Plot adds to each figure; it is always the same, so its hash can be allowed."""


def content_hash(text: str) -> str:
    """Hash of an inline script or style for the policy: `'sha256-...'`."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode('utf-8')).digest()).decode('ascii')}'"


def render(content: PageContent, *, live: bool = False) -> str:
    """Render the page as one file.

    Args:
        live: for a local server: the page polls the server it came from (and no other) for a newer version.
    """
    parts = {_checked(name): script_json(value) for name, value in content.later.items()}
    return _html(content, parts, beside=(), live=live)


def render_folder(content: PageContent) -> dict[str, str]:
    """Render the page as several files, by path: `parts/NAME.js`, each read when needed, and `index.html`, the last.

    A part is a script that only hands over JSON, because a page opened from disk can read no other kind of file.
    """
    files = {
        f"parts/{_checked(name)}.js": f'chatbenchPart("{name}",{script_json(value)});\n'
        for name, value in content.later.items()
    }
    return {**files, "index.html": _html(content, {}, beside=tuple(content.later), live=False)}


def _checked(name: str) -> str:
    if not _PART_NAME.fullmatch(name):
        raise ValueError(f"part {name!r}: letters, digits and hyphens only")
    return name


def from_template(name: str, **values: object) -> str:
    """Fill in a template; values are escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined  # late: slow to import

    environment = Environment(
        loader=PackageLoader("chatbench.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    return environment.get_template(name).render(values)


def _html(content: PageContent, parts: Mapping[str, str], *, beside: tuple[str, ...], live: bool) -> str:
    scripts = [*map(asset, VENDOR_SCRIPTS), own_script()]
    return from_template(
        "page.html.j2",
        # An HTML file cannot hold NUL and lone surrogates.
        title=content.title.replace("\0", "\ufffd").encode("utf-8", "replace").decode("utf-8"),
        policy=policy(scripts, from_folder=bool(beside), live=live),
        style=style(),
        scripts=scripts,
        first=script_json({**content.first, "beside": list(beside), "live": live}),
        parts=parts,
    )


def policy(scripts: Sequence[str], *, from_folder: bool, live: bool) -> str:
    """Build the Content-Security-Policy of a page with these inline scripts.

    With `trusted-types 'none'` the browser itself refuses to turn text into markup (`innerHTML` and the like). A page
    in a folder goes without it, because it adds script elements to read its parts.
    """
    allowed = [content_hash(script) for script in scripts] + (["'self'", "file:"] if from_folder else [])
    own = "'self'" if live else "'none'"
    text_stays_text = [] if from_folder else ["require-trusted-types-for 'script'", "trusted-types 'none'"]
    return "; ".join(
        [
            "default-src 'none'",
            f"script-src {' '.join(allowed)}",
            f"style-src {content_hash(style())} {content_hash(FIGURE_STYLE)}",
            "img-src data:",
            f"connect-src {own}",
            "base-uri 'none'",
            "form-action 'none'",
            *text_stays_text,
        ]
    )
