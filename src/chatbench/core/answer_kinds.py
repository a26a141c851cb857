r"""The kinds of answers that questions have: how each is asked for, parsed and scored.

    choice    one of 2 to 26 options, by its letter; ordered options are levels
    number    a number, right within a tolerance
    text      a short text, right if it is one of several, ignoring case, white space, surrounding punctuation and
              equivalent characters of Unicode (`normalised`)
    outcome   the study recorded whether it was right (code that passes its tests), not what was answered
    none      no answer: just a chat

A simulated answer is parsed from the text after `Answer: ` in a simulator's output. A choice is its first character
(the published rule), a number the first number in it, a text its first line; an outcome's answer is kept as it is, and
a chat without an answer ends with `done`. If nothing is found, the answer is invalid, which counts as wrong.

Number parsing: a comma, space (also thin or narrow) or apostrophe between groups of three digits is ignored
(`1,234,567`, `12,34,567`), unless the first group begins with 0; so are points if there are several or a comma follows
(`1.234.567`, `1.000,50`); any other point is decimal, and so is any other comma (`3,5`, `0,125`, `10 000,5`). `2/3`,
`1 1/2` and `1½` are fractions, `5e-3`, `5x10^-3` and `10^-3` powers of ten; `minus 5` and a dash for a minus are read;
a date is no number; digits and marks may be those of any script; `%` divides by 100 unless the question's unit names
percent (`%`, `% of voters`, `percentage points`); any other unit is ignored, never converted.
"""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal, localcontext
from fractions import Fraction
from typing import Literal
from unicodedata import category, normalize

LETTERS = tuple(string.ascii_uppercase)
"""The option letters, in order."""
KindName = Literal["choice", "number", "text", "outcome", "none"]
FEWEST_OPTIONS, MOST_OPTIONS = 2, len(LETTERS)

LONGEST_NUMBER = 60
"""Characters; anything longer is the endless output of a broken simulator."""

_COMMAS = r"(?:[1-9]\d?(?:,\d{2})+,\d{3}|[1-9]\d{0,2}(?:,\d{3})+)(?!\d)(?:\.\d+)?"
_POINTS = r"[1-9]\d{0,2}(?:(?:\.\d{3})+,\d+|(?:\.\d{3}){2,})(?![.,]?\d)"
_SPACES = r"[1-9]\d{0,2}(?:[\u0020\u00a0\u2009\u202f'\u2019]\d{3}(?!\d))+(?:[.,]\d+)?"
_POWER = r"\s?[{{(]?(?P<{}>[-+\u2212]?\d{{1,3}})(?!\d)"
_TIMES_TEN = r"\s?(?:[x*\u00d7\u22c5\u00b7]|\\times|\\cdot)\s?10\s?(?:\^|\*\*)" + _POWER.format("ten")
_SIGN = r"(?P<{}>(?<![\w.])(?:[-+\u2212\u2013]|minus\s))?[$\u20ac\u00a3]?"
_NUMBER = re.compile(
    rf"{_SIGN.format('sign')}\s?(?:(?P<mixed>\d+) {{1,2}})?(?P<top>\d+)\s?/\s?(?P<bottom>\d+)"
    rf"|{_SIGN.format('plain_sign')}(?:10(?:\^|\*\*){_POWER.format('bare')}"
    rf"|(?:(?P<commas>{_COMMAS})|(?P<points>{_POINTS})|(?P<plain>{_SPACES}|\d+(?:[.,]\d+)?|\.\d+))"
    rf"(?:[eE](?P<power>[-+]?\d{{1,3}})|{_TIMES_TEN})?)",
    re.IGNORECASE,
)
_DATE = re.compile(r"[-+\u2212\u2013 ]*(?:\d{4}-\d\d?-\d\d?|\d\d?([/.])\d\d?\1(?:\d\d){1,2})(?!\d)")
_RAISED = re.compile("(?<=10)[\u2070\u00b9\u00b2\u00b3\u2074-\u2079\u207a\u207b]+")
_ASCII = {
    0x66A: "%", 0x66B: ".", 0x66C: ",", 0x2044: "/",
    **{full: chr(full - 0xFEE0) for full in range(0xFF01, 0xFF5F)},
    **{ord(each): " " + normalize("NFKC", each).replace("\u2044", "/") for each in "¼½¾⅐⅑⅒⅓⅔⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞"},
}  # fmt: skip
"""Full-width characters, Arabic marks and fractions; NFKC would make 102 of 10²."""
_PERCENT = re.compile(r"\s*(?:%|per ?cent\b)", re.IGNORECASE)
_OF_PERCENT = re.compile(r"%|\b(?:per[ -]?cent(?:age)?s?|pct|pro[zc]ent\w*)\b", re.IGNORECASE)
_MARKS = " .,:;!?\"'*`$()[]-\u2014"
_TYPESET = str.maketrans("\u2018\u2019\u201a\u201c\u201d\u201e\u2010\u2012\u2013\u2212", "'''\"\"\"----")
_OTHER_MARKS = "«»\u2039\u203a¿¡。、「」『』"
_POWERS = re.compile("[⁰¹²³⁴-⁻]+")


@dataclass(frozen=True, slots=True)
class Choice:
    """One of the options; if they are `ordered`, the distance in levels from the right one is measured too."""

    ordered: bool = False
    name: Literal["choice"] = "choice"

    def problem(self, options: Sequence[str], answer: str) -> str:
        """What is wrong with these options and this right answer; "" if nothing is."""
        if not FEWEST_OPTIONS <= len(options) <= MOST_OPTIONS:
            return f"{len(options)} options, expected {FEWEST_OPTIONS} to {MOST_OPTIONS}"
        letters = LETTERS[: len(options)]
        return "" if answer in letters else f"answer {answer!r}, expected one of {', '.join(letters)}"

    def asked_for(self, options: Sequence[str]) -> str:
        """How the prompts describe a valid answer.

        >>> [Choice().asked_for(["?"] * count) for count in (2, 3, 4)]
        ['A or B', 'A, B, or C', 'A, B, C, or D']
        """
        *letters, last = LETTERS[: len(options)]
        return f"{', '.join(letters)}{',' * (len(letters) > 1)} or {last}"

    def read(self, text: str, options: Sequence[str]) -> str | None:
        """Parse the letter that a text starts with; None if it is not an option's.

        >>> Choice().read("B. because 4 is even", ["3", "4"]), Choice().read("C", ["3", "4"])
        ('B', None)
        """
        return text[0] if text.startswith(LETTERS[: len(options)]) else None

    def is_right(self, given: str, answer: str) -> bool:
        return given == answer


@dataclass(frozen=True, slots=True)
class Number:
    """A number; right if within `tolerance` of the right one, absolute or (`relative`) as a fraction of it."""

    tolerance: float = 0.0
    relative: bool = False
    unit: str = ""
    name: Literal["number"] = "number"

    def problem(self, options: Sequence[str], answer: str) -> str:
        if options:
            return "answer_kind number, but it has options"
        if not 0 <= self.tolerance < float("inf"):
            return f"tolerance {self.tolerance}, expected a number of at least 0"
        return "" if self.value(answer) is not None else f"answer {answer!r}, expected a number"

    def asked_for(self, options: Sequence[str]) -> str:
        return f"<number> {self.unit}".rstrip()

    def read(self, text: str, options: Sequence[str] = ()) -> str | None:
        """Parse the first number in a text; the result is in a normal form that parses to the same number.

        >>> [Number().read(text) for text in ("about 1,234.50 km", "1 1/2", "-3,5", "25 %", "1/3", "none")]
        ['1234.5', '1.5', '-3.5', '0.25', '1/3', None]
        """
        value = self.value(text)
        if value is None:
            return None
        with localcontext(prec=LONGEST_NUMBER):
            decimal = Decimal(value.numerator) / Decimal(value.denominator)  # exact, or too long to be taken
        forms = (str(decimal).lower(), f"{decimal.normalize():e}", str(value))
        return next((form for form in forms if self.value(form) == value), None)

    def value(self, text: str) -> Fraction | None:
        """The first number in a text, as an exact fraction; None if there is none."""
        if not text.isascii():
            text = _RAISED.sub(lambda power: f"^{normalize('NFKC', power[0])}", text.translate(_ASCII))
            text = re.sub(r"\d", lambda digit: str(int(digit[0])), text)
        found = _NUMBER.search(text)
        if found is None or len(found[0]) > LONGEST_NUMBER or _DATE.match(text, found.start()):
            return None
        sign = 1 if (found["sign"] or found["plain_sign"] or "+") == "+" else -1
        if found["top"]:
            if not int(found["bottom"]):
                return None
            value = int(found["mixed"] or 0) + Fraction(int(found["top"]), int(found["bottom"]))
        else:
            commas, points = found["commas"], found["points"]
            digits = commas.replace(",", "") if commas else (points or "").replace(".", "") or found["plain"] or "1"
            digits = re.sub(r"[\s'\u2019]", "", digits).replace(",", ".")
            power = (found["power"] or found["ten"] or found["bare"] or "0").replace("\u2212", "-")
            value = Fraction(digits) * Fraction(10) ** int(power)
        percent = _PERCENT.match(text, found.end()) and not _OF_PERCENT.search(self.unit.translate(_ASCII))
        return sign * value / (100 if percent else 1)

    def is_right(self, given: str, answer: str) -> bool:
        """Whether a number is within tolerance of the right one.

        >>> Number(tolerance=0.01, relative=True).is_right("3.16", "3.14159")
        True
        """
        found, right = self.value(given), self.value(answer)
        if found is None or right is None:
            return False
        allowed = Fraction(str(self.tolerance))
        return abs(found - right) <= allowed * (abs(right) if self.relative else 1)


@dataclass(frozen=True, slots=True)
class Text:
    """A short text; `also` lists further right answers."""

    also: tuple[str, ...] = ()
    name: Literal["text"] = "text"

    def problem(self, options: Sequence[str], answer: str) -> str:
        if options:
            return "answer_kind text, but it has options"
        blank = not all(map(normalised, (answer, *self.also)))
        return f"answer {answer!r}, expected more than punctuation" if blank else ""

    def asked_for(self, options: Sequence[str]) -> str:
        return "<short text>"

    def read(self, text: str, options: Sequence[str] = ()) -> str | None:
        r"""Parse the first line of a text; None if it holds nothing but punctuation.

        >>> Text().read("Marie Curie.\nShe won twice."), Text().read("...")
        ('Marie Curie.', None)
        """
        line = text.strip().partition("\n")[0].strip()
        return line if normalised(line) else None

    def is_right(self, given: str, answer: str) -> bool:
        """Whether a text is one of the right answers.

        >>> Text(also=("M. Curie",)).is_right(" marie  CURIE. ", "Marie Curie")
        True
        """
        return normalised(given) in {normalised(each) for each in (answer, *self.also)}


@dataclass(frozen=True, slots=True)
class Outcome:
    """The study recorded only whether the answer was right, so only a checker can score a simulated answer."""

    name: Literal["outcome"] = "outcome"

    def problem(self, options: Sequence[str], answer: str) -> str:
        return "answer_kind outcome, but it has options or a right answer" if options or answer else ""

    def asked_for(self, options: Sequence[str]) -> str:
        return "<your answer>"

    def read(self, text: str, options: Sequence[str] = ()) -> str | None:
        return text.strip() or None


@dataclass(frozen=True, slots=True)
class NoAnswer:
    """A chat without an answer; it ends with `Answer: done`, which says that the person is done."""

    name: Literal["none"] = "none"

    def problem(self, options: Sequence[str], answer: str) -> str:
        return "answer_kind none, but it has options or a right answer" if options or answer else ""

    def asked_for(self, options: Sequence[str]) -> str:
        return DONE

    def read(self, text: str, options: Sequence[str] = ()) -> str | None:
        return DONE if normalised(text) == DONE else None


DONE = "done"
CHOICE = Choice()
Kind = Choice | Number | Text | Outcome | NoAnswer


def normalised(text: str, marks: str = _MARKS) -> str:
    r"""Normalise case, white space and Unicode forms of a text, and strip surrounding punctuation.

    Strips `marks` and those that ASCII lacks, but no minus (`-x`, `-$5`; `- x`, `-word` and `\u20145` have none), no
    point before a digit (`.5`), and no hyphen that ends a word (`A-`).

    >>> [normalised(text) for text in ("\u201cCaf\u00e9\u201d\u2026", "- Paris\u3002", "C#", "\u20135", "10\u00b2")]
    ['café', 'paris', 'c#', '-5', '10^2']
    """
    text = _POWERS.sub(lambda power: f"^{power[0]}", text)
    text = " ".join(normalize("NFKC", normalize("NFKC", text).casefold()).translate(_TYPESET).split())
    if not (bare := text.strip(marks + _OTHER_MARKS)):
        return ""
    before, after = text[: text.index(bare)], text[text.index(bare) + len(bare) :]
    word = re.match(r"[^\W\d_]{2}", "".join(each for each in bare if category(each)[0] != "M"))
    minus = not word and bool(re.search(r"(?<!-)-[^\s-]*$", before))
    point = bare[0].isdigit() and bool(re.search(r"(?<!\.)\.$", before))
    return "-" * minus + "." * point + bare.replace("\u2014", "-") + "-" * after.startswith("-")
