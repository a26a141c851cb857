"""The page in a real browser: its views show the stored figures and give them away; it is quiet, and links hold."""

from __future__ import annotations

import csv
import re
import shutil
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.support.browser import OpenPage, Scheme, assert_accessible, sideways_overflow
from tests.support.finished_results import HOSTILE, stored_estimate

from chatbench.core.files import write_json
from chatbench.data.workspace import Workspace
from chatbench.estimation.estimate import CURVE
from chatbench.metrics.names import FINE_TUNED
from chatbench.report.page import PageContent, render
from chatbench.report.report import Shown, gather, report
from chatbench.scoring.score_files import read_score_table

if TYPE_CHECKING:
    from playwright.sync_api import Page


@pytest.fixture(scope="module")
def two_runs(finished: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("views") / "report.html"
    report(Shown(finished, ("tiny", "distilgpt2")), out)
    return out


def at(page: Path, address: str) -> str:
    return f"{page.resolve().as_uri()}{address}"


def written(path: Path, first: dict[str, Any], later: Mapping[str, object], title: str = "page") -> Path:
    """A page of this content."""
    path.write_text(render(PageContent(title, first, later)), "utf-8")
    return path


def row(page: Page, label: str) -> list[str]:
    """The cells of the main table's row of that name."""
    found = page.locator("table.main tbody tr").filter(has=page.get_by_role("rowheader", name=label, exact=True))
    return [cell.inner_text().split("\n")[0] for cell in found.first.locator("td").all()]


def test_the_main_table_shows_the_stored_scores_and_each_split_on_demand(
    finished: Workspace, two_runs: Path, open_page: OpenPage
) -> None:
    table = read_score_table(finished.results / "scores", "tiny")
    stored = table.estimates()
    page = open_page(at(two_runs, "#/overview"), "table.main")

    shown = row(page, "tiny, fine-tuned")
    assert shown[2] == f"{stored['all', FINE_TUNED, 'perplexity'].mean:.2f}"
    assert shown[4] == f"{stored['all', FINE_TUNED, 'bleu'].mean:.3f}"
    assert page.locator(".scored").inner_text() == "8 pairs of question and assistant scored per split"
    assert shown[1] == f"{stored['mean of assistants', FINE_TUNED, 'mae'].mean:.3f}"

    page.get_by_label("Correlation and error of").select_option("gpt-4o")
    page.get_by_label("Each split").check()
    assert row(page, "tiny, fine-tuned")[1] == f"{stored['gpt-4o', FINE_TUNED, 'mae'].mean:.3f}"
    assert page.locator(".scored").inner_text() == "4 questions scored per split"
    by_split = table.values()["gpt-4o", FINE_TUNED, "mae"]
    assert row(page, "split 1")[1] == f"{by_split['split_1']:.3f}"

    page.reload()  # what was chosen is in the address
    page.wait_for_selector("table.main")
    assert row(page, "tiny, fine-tuned")[1] == f"{stored['gpt-4o', FINE_TUNED, 'mae'].mean:.3f}"


def test_on_a_phone_correlation_and_error_are_seen_without_scrolling_the_table(
    two_runs: Path, open_page: OpenPage
) -> None:
    page = open_page(at(two_runs, "#/overview"), "table.main", width=390)
    heads = page.locator("table.main thead th")

    assert heads.all_inner_texts()[:2] == ["Correlation ↑", "Error (MAE) ↓"]
    edges = [cell.bounding_box() for cell in page.locator("table.main tr.ours td:nth-child(3)").all()]
    assert edges
    assert all(box is not None and box["x"] + box["width"] <= 390 - 16 for box in edges)


def test_a_prompted_simulator_is_called_what_it_is_in_every_view(
    prompted: Workspace, tmp_path: Path, open_page: OpenPage
) -> None:
    report(Shown(prompted), tmp_path / "page.html")
    page = open_page(tmp_path / "page.html")

    for view in ("overview", "figures"):
        page.goto(at(tmp_path / "page.html", f"#/{view}"))
        page.get_by_text("simulator gpt-4o-mini (two-step)").first.wait_for()
        assert "fine-tuned" not in page.locator("main").inner_text().lower()


def test_published_rows_are_marked_as_not_computed_here_and_stand_there_only_if_asked_for(
    finished: Workspace, two_runs: Path, tmp_path: Path, open_page: OpenPage
) -> None:
    # Beside a study of one's own they were taken for its results.
    page = open_page(at(two_runs, "#/overview"), "table.main")
    assert "published" not in page.locator("main").inner_text().lower()

    report(Shown(finished, ("tiny",), published=True), tmp_path / "published.html")
    page = open_page(at(tmp_path / "published.html", "#/overview"), "table.main")
    groups = page.locator("table.main tr.group").all_inner_texts()

    assert "not computed here" in groups[-1].lower()
    assert "baselines" in groups[-2].lower()
    after = page.locator("table.main tr.group").last.locator("xpath=following-sibling::tr")
    assert after.count() == page.locator("tr.published").count() == 5


def test_a_figure_is_given_as_svg_that_stands_alone_and_as_csv_with_its_data(
    two_runs: Path, open_page: OpenPage, tmp_path: Path
) -> None:
    # Drawn with the page's variables and dark colours, the file would be black, or white on white, elsewhere.
    page = open_page(at(two_runs, "#/figures"), "svg.opens circle", scheme="dark")
    files = {}
    for kind in ("SVG", "CSV"):
        with page.expect_download() as coming:
            page.locator("figure", has_text="Human and simulated accuracy").first.get_by_text(kind, exact=True).click()
        coming.value.save_as(tmp_path / coming.value.suggested_filename)
        files[kind] = (tmp_path / coming.value.suggested_filename).read_text("utf-8")

    drawing = ElementTree.fromstring(files["SVG"])
    assert drawing.tag.endswith("}svg")
    assert "var(" not in files["SVG"]
    assert "currentColor" not in files["SVG"]
    assert "#0072b2" in files["SVG"]  # the light colour of the simulator
    rows = list(csv.DictReader(files["CSV"].splitlines()))
    marks = page.locator("svg.opens").first.locator('g[aria-label="dot"]').first.locator("circle").count()
    assert len(rows) == marks > 0
    assert {"question_id", "simulated", "people", "people_low"} <= set(rows[0])


def test_every_column_of_a_figure_s_data_has_values(two_runs: Path, open_page: OpenPage) -> None:
    # Calibration had a column of a name that its records lacked.
    page = open_page(at(two_runs, "#/figures"), "figure details")
    page.evaluate("document.querySelectorAll('figure details').forEach(each => { each.open = true })")
    page.locator("figure", has_text="Calibration").locator("tbody tr").first.wait_for()
    empty = page.evaluate(r"""[...document.querySelectorAll('figure table')].flatMap(table =>
        [...table.querySelectorAll('thead th')].map((head, at) => [table.closest('figure').innerText.split('\n')[0],
            head.innerText, [...table.querySelectorAll('tbody tr')].some(row => /\w/.test(row.cells[at].innerText))])
            .filter(each => !each[2]))""")

    assert empty == []


def test_a_control_of_a_figure_changes_what_it_shows_and_keeps_the_focus(two_runs: Path, open_page: OpenPage) -> None:
    page = open_page(at(two_runs, "#/figures"))
    select = page.locator('[data-control="predictor"] select').first
    select.focus()
    select.select_option("base model")

    page.get_by_text("Right in simulated chats (base model)").wait_for()
    assert page.evaluate("document.activeElement.value") == "base model"


def test_a_question_shows_its_text_answer_and_who_was_right_how_often(two_runs: Path, open_page: OpenPage) -> None:
    page = open_page(at(two_runs, "#/questions"))
    page.get_by_label("Search").fill("ducks")
    page.get_by_role("link", name="ducks").click()
    page.wait_for_selector("table.accuracy")

    assert "B" in page.locator("ol.asked li.right").inner_text()
    people = page.get_by_role("row", name="people with the AI")
    assert people.locator("td").all_inner_texts() == ["40 %of 5", "20 %of 5"]  # worker 3: 3 // 2 + 1 and 3 // 2 of 5
    assert page.get_by_role("row", name="tiny, fine-tuned").count() == 1


def test_a_right_answer_and_a_warning_are_seen_before_any_figure(
    finished: Workspace, tmp_path: Path, open_page: OpenPage
) -> None:
    # The warning was a note in a closed box, and a question without options showed no right answer.
    content = gather(Shown(finished, ("tiny",)))
    first: dict[str, Any] = dict(content.first)
    [run] = first["runs"]
    first["runs"] = [{**run, "scores": {**run["scores"], "warning": "tiny: 100% of <b>"}}]
    question = {**first["questions"][0], "options": [], "answer": "Paris", "right": ["Paris", "<b>Lutetia</b>"]}
    first["questions"] = [question, *first["questions"][1:]]
    path = written(tmp_path / "page.html", first, content.later)
    page = open_page(path)

    for view, figure in (("overview", "table.main"), ("figures", "figure")):
        page.goto(at(path, f"#/{view}"))
        page.wait_for_selector(figure)
        assert page.locator(".warning").inner_text() == "tiny: 100% of <b>"
        first_of = "query => document.querySelector(query).getBoundingClientRect()"
        assert page.evaluate(f"({first_of})('.warning').bottom <= ({first_of})('{figure}').top")
        assert_accessible(page)
    page.goto(at(path, f"#/question/{question['id']}"))
    page.get_by_text("Right answer: Paris or <b>Lutetia</b>").wait_for()


def test_the_list_of_questions_shows_a_run_that_was_scored_and_names_it(
    finished: Workspace, tmp_path: Path, open_page: OpenPage
) -> None:
    # The first run's accuracies would be a column of dashes: it has no scores yet.
    results = tmp_path / "results"
    for kind in ("scores", "simulations"):
        shutil.copytree(finished.results / kind, results / kind)
    for path in (results / "scores").glob("distilgpt2.*"):
        path.unlink()
    report(Shown(Workspace(finished.data, results)), tmp_path / "page.html")

    page = open_page(at(tmp_path / "page.html", "#/questions"), "table.scores")

    assert page.locator("thead th").last.inner_text() == "Simulated right (tiny)"
    assert "%" in " ".join(page.locator("tbody td:last-child").all_inner_texts())


def test_two_runs_stand_side_by_side_with_their_difference(
    finished: Workspace, two_runs: Path, open_page: OpenPage
) -> None:
    one, two = (read_score_table(finished.results / "scores", key).estimates() for key in ("tiny", "distilgpt2"))
    mean = [scores["mean of assistants", FINE_TUNED, "mae"].mean for scores in (one, two)]
    page = open_page(at(two_runs, "#/comparison"))
    row = page.get_by_role("row", name="Mean absolute error").first
    row.wait_for()
    cells = row.locator("td").all_inner_texts()

    shown = [float(cell.replace("\u2212", "-")) for cell in cells[1:4]]
    assert shown == pytest.approx([*mean, mean[0] - mean[1]], abs=0.0006)  # type: ignore[operator]


def test_hostile_names_are_shown_as_text_everywhere(finished: Workspace, tmp_path: Path, open_page: OpenPage) -> None:
    # Questions, assistants and models have names too: text that is only escaped in chats is the likely mistake.
    content = gather(Shown(finished, ("tiny",)))
    first = dict(content.first)
    first["questions"] = [{**q, "text": HOSTILE, "subset": HOSTILE} for q in first["questions"]]  # type: ignore[attr-defined]
    first["accuracies"] = [{**c, "assistant": [HOSTILE for _ in c["assistant"]]} for c in first["accuracies"]]  # type: ignore[attr-defined]
    [run] = first["runs"]  # type: ignore[misc]
    first["runs"] = [
        {**run, "name": HOSTILE, "terminations": [{**t, "assistant": HOSTILE} for t in run["terminations"]]}
    ]
    path = written(tmp_path / "hostile.html", {**first, "title": HOSTILE}, content.later, HOSTILE)
    page = open_page(path)

    question = first["questions"][0]["id"]  # type: ignore[index]
    for view in ("overview", "figures", "questions", f"question/{question}"):
        page.goto(at(path, f"#/{view}"))
        page.wait_for_selector("#content h1")
        page.locator("#top").get_by_text("<script>").first.wait_for()
        assert page.locator("img").count() == 0
        assert page.title() != "taken"
        assert "\u202e" not in page.locator("body").inner_text()
    assert page.locator(".unseen", has_text="U+202E").first.is_visible()


def test_the_estimate_tab_shows_what_the_file_holds(finished: Workspace, tmp_path: Path, open_page: OpenPage) -> None:
    assert gather(Shown(finished, ("tiny",))).first["estimates"] == []
    shutil.copytree(finished.results / "simulations" / "tiny", tmp_path / "results" / "simulations" / "tiny")
    place = Workspace(finished.data, tmp_path / "results")
    write_json(place.estimate("tiny"), {"new <b>": stored_estimate("tiny", "new <b>")})
    page_file = tmp_path / "report.html"
    report(Shown(place), page_file)
    page = open_page(at(page_file, "#/estimate"), "h1:has-text('Estimate')")
    text = page.locator("#content").inner_text()

    for part in (
        "33.3 % (10.0 to 60.0)", "200 count like 241", "25.0 %", "+10.0", "s, minus a: too few", "Half-width",
        "new <b>: openai, vendor/m, http://localhost:1/v1, temperature 0.7", "Questions\tAnswers",
    ):  # fmt: skip
        assert part in text
    assert page.locator("#content .legend li").all_inner_texts() == ["people alone", "with the simulator"]
    ticks = page.locator('#content svg g[aria-label="x-axis tick label"] text').all_text_contents()
    assert ticks == [str(people) for people in CURVE]


def test_on_a_phone_a_table_shows_its_results_and_says_where_more_columns_are(
    finished: Workspace, tmp_path: Path, open_page: OpenPage
) -> None:
    # The column of the result began at the right edge, and nothing told that the table scrolls.
    found = gather(Shown(finished, ("tiny",)))
    one = {**stored_estimate("tiny"), "assistant_line": "", "undefined_parts": []}
    path = written(tmp_path / "page.html", {**found.first, "estimates": [one]}, found.later)
    page = open_page(at(path, "#/estimate"), width=375)
    cell = page.get_by_role("cell", name="33.3 % (10.0 to 60.0)")
    cell.wait_for()
    box = cell.bounding_box()

    assert box is not None
    assert box["x"] + box["width"] <= 375 - 16
    assert sideways_overflow(page) == 0
    page.goto(at(path, "#/overview"))
    page.get_by_text("More columns: scroll the table").wait_for()
    assert_accessible(page)
    page.set_viewport_size({"width": 1280, "height": 800})
    page.get_by_text("More columns: scroll the table").wait_for(state="hidden")


def test_on_paper_the_choice_behind_the_columns_is_stated_and_no_column_is_cut_off(
    two_runs: Path, open_page: OpenPage
) -> None:
    page = open_page(at(two_runs, "#/overview?assistant=gpt-4o"), "table.main", width=720)
    page.emulate_media(media="print")

    assert "Correlation and error of" in page.locator("main").inner_text()
    assert page.get_by_label("Correlation and error of").is_visible()
    assert page.get_by_label("Correlation and error of").input_value() == "gpt-4o"
    assert not page.get_by_label("Each split").is_visible()
    assert sideways_overflow(page) == 0


# The page as a whole: quiet, with links that hold, by keyboard, on a phone, in light and dark

VIEWS = ("overview", "figures", "questions", "chats", "comparison")


def go(page: Page, address: str) -> None:
    """Follows an address within the page, and waits until it is shown."""
    page.evaluate("address => { location.hash = address }", address)
    page.wait_for_function(
        "view => document.querySelector('#top a[aria-current=page]')?.getAttribute('href').startsWith(`#/${view}`)",
        arg=address.strip("#/").split("/")[0].split("?")[0],
    )
    page.wait_for_selector("#content h1")


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 375)])
def test_every_view_is_quiet_accessible_and_no_wider_than_its_window(
    scheme: Scheme, width: int, two_runs: Path, open_page: OpenPage
) -> None:
    page = open_page(two_runs, scheme=scheme, width=width)
    for view in VIEWS:
        go(page, f"#/{view}")

        assert sideways_overflow(page) == 0, view
        assert_accessible(page)


def test_pointing_at_a_mark_names_its_question_and_clicking_opens_it(two_runs: Path, open_page: OpenPage) -> None:
    page = open_page(two_runs)
    go(page, "#/figures")
    mark = page.locator('svg.opens g[aria-label="dot"] circle').first
    mark.scroll_into_view_if_needed()
    mark.hover(force=True)

    tip = page.locator('svg.opens g[aria-label="tip"] text').first
    tip.wait_for(state="attached")
    named = tip.text_content() or ""
    mark.click(force=True)
    page.wait_for_url("**/report.html#/question/*")
    page.wait_for_selector("#content h1")

    assert "people: " in named
    assert "#/question/elementary_mathematics-redux-" in page.url
    assert re.findall(r"near the \w+", named)[0] in page.locator("#content").inner_text()


def test_an_address_opens_what_it_names_and_the_way_back_works(two_runs: Path, open_page: OpenPage) -> None:
    # The likely mistake: views that are only reached by clicking, so that a link in a mail opens the overview.
    page = open_page(at(two_runs, "#/question/elementary_mathematics-redux-3"))
    page.get_by_text("ducks").first.wait_for()

    page.goto(at(two_runs, "#/questions?search=ducks"))
    page.locator("tbody tr").first.wait_for()
    assert page.locator("tbody tr").count() == 1
    page.go_back()
    page.locator("h1", has_text="ducks").or_(page.locator("h1", has_text="redux-3")).first.wait_for()


def test_an_address_that_names_nothing_says_so_and_breaks_nothing(two_runs: Path, open_page: OpenPage) -> None:
    for address in ("nothing", "question/none", "chat/%E0%A4%A", "questions?order=x&subset=y", "figures?run=z"):
        open_page(at(two_runs, f"#/{address}"), "#content h1")


def test_the_filter_by_user_names_the_base_model_and_keeps_its_chats(two_runs: Path, open_page: OpenPage) -> None:
    # "base model" is two words: cut at the first blank, its chats would be those of a model called "model tiny".
    page = open_page(at(two_runs, "#/chats"))
    page.locator(".chat-row").first.wait_for()
    names = page.locator("select[name=by] option").all_inner_texts()

    page.select_option("select[name=by]", label="tiny, base model")

    assert set(names) == {"User: all", "people", "tiny", "distilgpt2", "tiny, base model", "distilgpt2, base model"}
    page.locator(".status", has_text="16 of 252 chats").wait_for()
    assert set(page.locator(".chat-row .chip").all_inner_texts()) == {"tiny, base model"}


def test_the_keyboard_reaches_the_content_and_every_view(two_runs: Path, open_page: OpenPage) -> None:
    page = open_page(two_runs)
    page.wait_for_selector("#content h1")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "content"

    page.reload()
    page.wait_for_selector("#content h1")
    for _ in range(4):  # skip link, name of the page, overview, figures
        page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Figures"
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"
    page.keyboard.press("Enter")
    page.locator("h1", has_text="Figures").wait_for()


def test_a_page_of_a_run_that_has_only_begun_says_what_to_do_next(
    finished: Workspace, tmp_path: Path, open_page: OpenPage
) -> None:
    shutil.copytree(finished.results / "models" / "tiny", tmp_path / "results" / "models" / "tiny")
    report(Shown(Workspace(finished.data, tmp_path / "results")), tmp_path / "report.html")
    page = open_page(tmp_path / "report.html")

    for view in ("overview", "figures"):
        go(page, f"#/{view}")
        page.get_by_text("chatbench simulate tiny").first.wait_for()
        assert_accessible(page)
