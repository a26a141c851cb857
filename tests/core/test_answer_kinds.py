"""Numbers and texts as people and models write them, in any script; what is read can be read again."""

from __future__ import annotations

from unicodedata import normalize

import pytest

from chatbench.core.answer_kinds import LONGEST_NUMBER, NoAnswer, Number, Text

NUMBERS = {
    # A comma of thousands in "0,125", or half the digits of "10 000,5", are the likely mistakes.
    "0,125": "0.125", "-0,250 kg": "-0.25", "000,500": "0.5", "10 000,5": "10000.5", "1 234,567 m": "1234.567",
    "1,234,567": "1234567", "1,234.5": "1234.5", "12 345 km": "12345", "100,000": "100000", "3,5": "3.5",
    "1.000,50 \u20ac": "1000.5", "1.234.567": "1234567", "1.234": "1.234", "192.168.0.1": "192.168",
    "1.000,5.": "1000.5", "2 x 100": "2", "12,34,567.5": "1234567.5",
    "1'234.5": "1234.5", "1\u2019234\u2019567": "1234567", "5'10": "5", "3x10^8 m/s": "300000000",
    "6.5 \u00d7 10\u207b\u00b3": "0.0065", "$3 \\times 10^{2}$": "300", "2 x 10 = 20": "2",
    "4*10**3": "4000", "1,5 \u00b7 10^(\u22122)": "0.015", "1,234,5678": "1234",
    "10^3": "1000", "10**-2": "0.01", "\u20135": "-5", "minus 5": "-5", "5\u20137": "5", "10 - 2": "10",
    "-10^2": "-100",
    "3,141": "3141", "2019, 300 of them": "2019", "007": "7",
    "\uff13\uff0e\uff15": "3.5", "\uff0d\uff11\uff0c\uff12\uff13\uff14": "-1234",
    "\u0663\u066b\u0665": "3.5", "\u0661\u066c\u0662\u0663\u0664": "1234", "\u0662\u0665\u066a": "0.25",
    "½": "0.5", "2½ cups": "2.5", "2 ½": "2.5", "-1¾": "-1.75", "1\u20443": "1/3", "10² m": "100", "x² = 9": "9",
    # Of a fraction only the signs + and - were read, so "$1/2" was 1 and "minus 1/2" was -1.
    "minus 1/2": "-0.5", "\u20131/2": "-0.5", "\u2013½": "-0.5", "-½": "-0.5", "$1/2": "0.5", "\u20ac1 1/2": "1.5",
    "-$2/3": "-2/3", "- 1/2": "-0.5", "x-1/2": "0.5",
}  # fmt: skip


@pytest.mark.parametrize("text", NUMBERS)
def test_a_number_is_what_its_writer_meant(text: str) -> None:
    assert Number().read(text) == NUMBERS[text]


@pytest.mark.parametrize(
    "text", ["2026-11-02", "on 1/2/2026", "02.11.2026", "1.2.26", "due \u2013 1/2/2026", "no idea", ""]
)
def test_a_date_is_no_number(text: str) -> None:
    assert Number().read(text) is None


@pytest.mark.parametrize(
    "text",
    ["0." + "3" * 32, "1.5e999", "1e-400", "1e-7", "7" * LONGEST_NUMBER, "-2/7", "1,234.50", "12345678901234567.25 %"],
)
def test_what_was_read_is_the_same_number_when_it_is_read_again(text: str) -> None:
    # As a fraction, 0.333... of 32 digits would have 67 characters, and not be taken for a number.
    kind = Number()
    read = kind.read(text)

    assert read is not None
    assert kind.value(read) == kind.value(text)
    assert kind.is_right(read, text)


@pytest.mark.parametrize(
    "unit",
    ["%", "% of voters", "percent of GDP", "Per cent", "percentage points", "pct", "share in %", "Prozent", "\uff05"],
)
def test_percent_does_not_divide_where_the_unit_names_it(unit: str) -> None:
    # Only units that were nothing but percent were known: 25 % of voters was 0.25.
    assert Number(unit=unit).read(f"25 % {unit}") == "25"
    assert Number(unit="N per centimetre").read("25 %") == "0.25"


def test_a_number_that_no_short_text_can_hold_is_no_answer() -> None:
    assert Number().read("15e999") is None


SAME = [
    ("Café", normalize("NFD", "Café")), ("\u201cParis\u201d", "Paris"), ("«Paris»", "Paris"),
    ("\u2039Paris\u203a", "paris"), ("\u201eParis\u2026", "Paris"), ("東京。", "東京"), ("「東京」", "東京"),
    ("『東京』、", "東京"), ("¿Paris?", "Paris"), ("¡Paris\uff01", "Paris"), ("\uff08\uff30\uff41ris\uff09", "paris"),
    ("don\u2019t", "don't"), ("- Paris", "Paris"), ("\u2014 Paris \u2013", "Paris"), ("2010\u20132012", "2010-2012"),
    ("\u22125", "-5"), ("H₂O", "H2O"), ("10²", "10^2"),
    ("**-x**", "\u2212x"), ("-$5", "$-5"), ("- **Paris**", "Paris"), ("--Paris", "Paris"),
    ("\u20265", "5"), ("- 5", "5"), ("$.5$", ".5"),
    # A dash before a word was taken for a minus.
    ("-Yes", "yes"), ("\u2014No", "no"), ("\u2013Paris", "Paris"), ("**-Paris**", "Paris"), ("\u20145", "5"),
    ("\u2014\u201cParis\u201d\u2014", "Paris"), ("-\u0915\u093f\u0924", "\u0915\u093f\u0924"), ("a\u2014b", "a-b"),
]  # fmt: skip
OTHER = [
    ("C#", "C"),
    ("C++", "C"),
    ("-5", "5"),
    ("\u22125", "5"),
    ("-.5", "5"),
    ("A-", "A"),
    ("-x", "x"),
    ("-(a + b)", "a + b"),
    ("-\u221e", "\u221e"),
    ("-\u221a2", "\u221a2"),
    ("-x\u0304", "x\u0304"),
    ("-2x", "2x"),
    ("-$5", "5"),
    (".5", "5"),
    ("10²", "102"),
    ("é", "e"),
]


@pytest.mark.parametrize(("given", "answer"), SAME)
def test_a_text_is_right_however_its_characters_are_written(given: str, answer: str) -> None:
    assert Text().is_right(given, answer)
    assert Text().is_right(answer, given)


@pytest.mark.parametrize(("given", "answer"), OTHER)
def test_a_sign_that_makes_it_another_answer_stays(given: str, answer: str) -> None:
    assert not Text().is_right(given, answer)


@pytest.mark.parametrize("text", ["\u2026", "\u201c\u201d", " \u2014 ", "。", "-"])
def test_a_text_of_nothing_but_marks_is_no_answer(text: str) -> None:
    assert Text().read(text) is None


@pytest.mark.parametrize("text", ["done", "- Done.", "-done", "\u2014done"])
def test_a_chat_without_an_answer_ends_with_done_in_any_form(text: str) -> None:
    assert NoAnswer().read(text) == "done"
