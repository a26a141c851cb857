"""The page as a file: nothing in it can act but what we wrote, whatever the chats say."""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from importlib import resources
from itertools import chain
from typing import Any

import pytest
from lxml import html  # type: ignore[import-untyped]
from tests.support.finished_results import HOSTILE

from chatbench.report.page import (
    OWN_SCRIPTS,
    STYLES,
    VENDOR_SCRIPTS,
    PageContent,
    asset,
    content_hash,
    own_script,
    render,
    render_folder,
    script_json,
    style,
)

BREAKING_OUT = "</title></script><script>alert(1)</script>"
NASTY = [BREAKING_OUT, "<!-- <script>", "]]>", "\u2028\u2029\0\ud800\u202e", HOSTILE, "&lt;"]


def elements(page: str, tag: str = "") -> list[Any]:
    """Every element of a page, or those of one tag: `.tag`, `.attrib` and `.text`."""
    return [
        each for each in html.document_fromstring(page).iter() if isinstance(each.tag, str) and tag in ("", each.tag)
    ]


def content(text: str = "x") -> PageContent:
    return PageContent(text, {"title": text, "runs": [], "said": NASTY}, {"chats-0": [text, *NASTY]})


def policies(page: str) -> dict[str, list[str]]:
    [meta] = [each for each in elements(page, "meta") if each.get("http-equiv") == "Content-Security-Policy"]
    return {name: rest for name, *rest in (part.split() for part in meta.get("content").split(";"))}


def test_json_in_a_script_holds_nothing_that_ends_it_and_gives_back_every_character() -> None:
    # json.dumps alone leaves </script> as it is, and HTML escaping would not be undone inside a script.
    text = script_json(NASTY)

    assert not set(text) & set("<>&")
    assert text.isascii()
    assert "\0" not in text
    assert json.loads(text) == NASTY
    with pytest.raises(ValueError, match="not JSON compliant"):
        script_json({"loss": float("nan")})


@pytest.mark.parametrize("text", NASTY)
def test_hostile_text_adds_no_element_to_the_page(text: str) -> None:
    # Titles go through the template, chats through JSON: escaping only one of the two is the likely mistake.
    plain, hostile = ([(e.tag, e.keys()) for e in elements(render(content(each)))] for each in ("x", text))

    assert hostile == plain
    assert render(content(text)).encode("utf-8")


def test_the_policy_allows_our_scripts_and_styles_by_hash_and_no_network() -> None:
    page = render(content())
    running = [each.text for each in elements(page, "script") if each.get("type") != "application/json"]
    allowed = policies(page)

    assert allowed["script-src"] == [content_hash(script) for script in running]
    assert len(running) == len(VENDOR_SCRIPTS) + 1
    assert [content_hash(each.text) for each in elements(page, "style")] == allowed["style-src"][:1]
    for name in ("default-src", "connect-src", "base-uri", "form-action"):
        assert allowed[name] == ["'none'"], name
    assert not [source for source in chain(*allowed.values()) if "unsafe" in source or "http" in source]
    assert allowed["require-trusted-types-for"] == ["'script'"]
    assert policies(render(content(), live=True))["connect-src"] == ["'self'"]  # its own server, and nobody else


def test_the_page_names_no_address_to_load_from() -> None:
    # A style with @import or url(...), or a script with src, would make the page depend on a network.
    page = render(content())

    assert not [each for each in elements(page) if {"src", "srcset", "action", "data"} & set(each.keys())]
    assert [each.get("href") for each in elements(page, "link")] == ["data:,"]
    assert not re.search(r"@import|url\(", style())


def test_a_part_of_a_folder_is_a_call_with_json_and_nothing_more() -> None:
    files = render_folder(content("</script>"))
    assert sorted(files) == ["index.html", "parts/chats-0.js"]

    name, value = re.fullmatch(r'chatbenchPart\("([\w-]+)",(.*)\);\n', files["parts/chats-0.js"]).groups()  # type: ignore[union-attr]
    assert (name, json.loads(value)) == ("chats-0", ["</script>", *NASTY])
    assert "chats-0" in json.loads(elements(files["index.html"], "script")[0].text)["beside"]


@pytest.mark.parametrize("name", ["../x", "a/b", "a b", "", 'x"'])
def test_the_name_of_a_part_cannot_lead_elsewhere(name: str) -> None:
    for make in (render, render_folder):
        with pytest.raises(ValueError, match="letters, digits and hyphens"):
            make(PageContent("t", {}, {name: 1}))


def test_what_others_wrote_is_listed_with_its_licence_and_is_unchanged() -> None:
    files = tomllib.loads(asset("vendor/VENDORED.toml"))["file"]

    assert [each["file"] for each in files] == list(VENDOR_SCRIPTS)
    for each in files:
        assert hashlib.sha256(asset(each["file"]).encode()).hexdigest() == each["sha256"], each["file"]
        assert each["version"] in asset(each["file"])[:200]
        assert "Permission to use, copy, modify" in asset(each["licence_file"])


def test_every_script_and_style_is_in_the_page() -> None:
    # A file that is not listed would be shipped and never run.
    names = [entry.name for entry in resources.files("chatbench.report").joinpath("assets").iterdir()]

    assert set(OWN_SCRIPTS) == {name for name in names if name.endswith(".js")}
    assert set(STYLES) == {name for name in names if name.endswith(".css")}
    assert OWN_SCRIPTS[-1] == "main.js"


def test_no_two_scripts_use_the_same_name() -> None:
    # They share one scope: of two functions with one name the later silently replaces the earlier.
    names = re.findall(r"^(?:(?:async )?function\*?|const|let) (\w+)", own_script(), flags=re.MULTILINE)

    assert len(names) > 100
    assert sorted(name for name in set(names) if names.count(name) > 1) == []


@pytest.mark.parametrize("name", OWN_SCRIPTS)
def test_our_scripts_make_no_markup_of_text_and_run_no_text(name: str) -> None:
    # The policy stops these too, but a page that relies on it breaks instead of showing the text.
    text = asset(name)
    assert "</script" not in text
    assert "<!--" not in text
    for forbidden in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function",
                      'setAttribute("style"', "createContextualFragment"):  # fmt: skip
        assert forbidden not in text, forbidden


# ---- colours


def palettes() -> dict[str, dict[str, str]]:
    """Colours by name: light, dark and print."""
    blocks = re.findall(r":root \{(.*?)\}", asset("page.css"), flags=re.DOTALL)
    light, dark, printed = (dict(re.findall(r"(--[\w-]+):\s*(#[0-9a-fA-F]{3,6})", block)) for block in blocks)
    return {"light": light, "dark": {**light, **dark}, "print": {**light, **printed}}


def luminance(colour: str) -> float:
    """Relative luminance after WCAG 2.2."""
    digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
    channels = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(first: str, second: str) -> float:
    light, dark = sorted((luminance(first), luminance(second)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("mode", ["light", "dark", "print"])
def test_text_and_marks_stand_out_from_every_ground_they_stand_on(mode: str) -> None:
    # axe looks at one page in one state; a colour used for a state that it does not see would go unnoticed.
    colours = palettes()[mode]
    for ground in ("--paper", "--card", "--sunken"):
        for ink in ("--ink", "--muted", "--accent", "--good", "--bad"):
            assert contrast(colours[ink], colours[ground]) >= 4.5, (ink, ground)
    for number in range(1, 7):
        assert contrast(colours[f"--series-{number}"], colours["--card"]) >= 3, number


def test_print_and_downloaded_figures_have_the_light_colours() -> None:
    # In dark mode the page's own colours would come out of the printer, or into the paper, on white.
    palette = palettes()
    named = dict(re.findall(r'"(--[\w-]+)": "(#[0-9a-f]{6})"', asset("figure_card.js")))

    assert {name: palette["light"].get(name, colour) for name, colour in named.items()} == named
    series = [f"--series-{number}" for number in range(1, 7)]
    assert [palette["print"][name] for name in series] == [palette["light"][name] for name in series]
    assert set(series) <= set(named)
