r"""The kinds of answers that questions have: how each is asked for, how it is read, and when it is right.

    choice    one of 2 to 26 options, by its letter; ordered options are levels
    number    a number, right within a tolerance
    text      a short text, right where it is one of several, letter case, white space and marks around it aside
    outcome   the study recorded whether it was right (code that passes its tests), not what was answered
    none      no answer: a chat by itself

A simulated answer is what follows `Answer: ` in a simulator's output. A choice is its first character (the published
rule); a number the first number in it; a text its first line. Without such a thing the answer is invalid, which counts
as wrong. An outcome's answer and that of a chat without one are kept as they are.

Numbers are read with these rules: a comma or a thin, narrow or usual space between groups of three digits is left out
(`1,234,567`); a point is decimal, and so is a comma elsewhere (`3,5`); `2/3` and `1 1/2` are fractions, `5e-3` is a
power of ten; `%` divides by 100 unless percent is the question's unit; any other unit is passed over, never converted.
"""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

LETTERS = tuple(string.ascii_uppercase)
"""The letters of options, in their order."""
KindName = Literal["choice", "number", "text", "outcome", "none"]
FEWEST_OPTIONS, MOST_OPTIONS = 2, len(LETTERS)

LONGEST_NUMBER = 60
"""Characters; what is longer is the endless output of a broken simulator."""

_GROUP = "[,\u0020\u00a0\u2009\u202f]"
_WHOLE = rf"\d{{1,3}}(?:{_GROUP}\d{{3}}(?!\d))+(?:\.\d+)?|\d+(?:[.,]\d+)?|\.\d+"
_NUMBER = re.compile(
    rf"(?P<sign>[-+\u2212])?\s?(?:(?P<mixed>\d+) )?(?P<top>\d+)\s?/\s?(?P<bottom>\d+)"
    rf"|(?P<plain_sign>(?<![\w.])[-+\u2212])?[$\u20ac\u00a3]?(?P<plain>{_WHOLE})(?:[eE](?P<power>[-+]?\d{{1,3}}))?"
)
_PERCENT = re.compile(r"\s*(?:%|per ?cent\b)", re.IGNORECASE)
_MARKS = " .,:;!?\"'*`$()[]"


@dataclass(frozen=True, slots=True)
class Choice:
    """One of the options; where they are `ordered`, how many levels an answer is off is measured too."""

    ordered: bool = False
    name: Literal["choice"] = "choice"

    def problem(self, options: Sequence[str], answer: str) -> str:
        """Why these options and this right answer are none, "" where nothing is wrong."""
        if not FEWEST_OPTIONS <= len(options) <= MOST_OPTIONS:
            return f"{len(options)} options, expected {FEWEST_OPTIONS} to {MOST_OPTIONS}"
        letters = LETTERS[: len(options)]
        return "" if answer in letters else f"answer {answer!r}, expected one of {', '.join(letters)}"

    def asked_for(self, options: Sequence[str]) -> str:
        """What the prompts call a possible answer.

        >>> [Choice().asked_for(["?"] * count) for count in (2, 3, 4)]
        ['A or B', 'A, B, or C', 'A, B, C, or D']
        """
        *letters, last = LETTERS[: len(options)]
        return f"{', '.join(letters)}{',' * (len(letters) > 1)} or {last}"

    def read(self, text: str, options: Sequence[str]) -> str | None:
        """The answer that a text gives, None where it is invalid.

        >>> Choice().read("B. because 4 is even", ["3", "4"]), Choice().read("C", ["3", "4"])
        ('B', None)
        """
        return text[0] if text.startswith(LETTERS[: len(options)]) else None

    def is_right(self, given: str, answer: str) -> bool:
        return given == answer


@dataclass(frozen=True, slots=True)
class Number:
    """A number; right where it differs from the right one by at most `tolerance`, absolute or (`relative`) a share."""

    tolerance: float = 0.0
    relative: bool = False
    unit: str = ""
    name: Literal["number"] = "number"

    def problem(self, options: Sequence[str], answer: str) -> str:
        if options:
            return "a number with options"
        if not 0 <= self.tolerance < float("inf"):
            return f"tolerance {self.tolerance}, expected a number of at least 0"
        return "" if self.value(answer) is not None else f"answer {answer!r}, expected a number"

    def asked_for(self, options: Sequence[str]) -> str:
        return f"<number> {self.unit}".rstrip()

    def read(self, text: str, options: Sequence[str] = ()) -> str | None:
        """The number as a text that reads as the same number.

        >>> [Number().read(text) for text in ("about 1,234.50 km", "1 1/2", "-3,5", "25 %", "none")]
        ['1234.5', '1.5', '-3.5', '0.25', None]
        """
        value = self.value(text)
        if value is None:
            return None
        decimal = format(float(value), ".15g") if value.denominator != 1 else str(value)
        return decimal if Fraction(decimal) == value else str(value)

    def value(self, text: str) -> Fraction | None:
        """The first number in a text, exactly."""
        found = _NUMBER.search(text)
        if found is None or len(found[0]) > LONGEST_NUMBER:
            return None
        sign = -1 if (found["sign"] or found["plain_sign"] or "") in ("-", "\u2212") else 1
        if found["top"]:
            if not int(found["bottom"]):
                return None
            value = int(found["mixed"] or 0) + Fraction(int(found["top"]), int(found["bottom"]))
        else:
            digits = found["plain"]
            grouped = re.fullmatch(rf"\d{{1,3}}(?:{_GROUP}\d{{3}})+(?:\.\d+)?", digits)
            digits = re.sub(_GROUP, "", digits) if grouped else digits.replace(",", ".")
            value = Fraction(digits) * Fraction(10) ** int(found["power"] or 0)
        percent = _PERCENT.match(text, found.end()) and not _PERCENT.fullmatch(self.unit)
        return sign * value / (100 if percent else 1)

    def is_right(self, given: str, answer: str) -> bool:
        """Whether a number is near enough to the right one.

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
    """A short text; `also` are further right ones."""

    also: tuple[str, ...] = ()
    name: Literal["text"] = "text"

    def problem(self, options: Sequence[str], answer: str) -> str:
        if options:
            return "a text with options"
        blank = not all(map(normalised, (answer, *self.also)))
        return f"answer {answer!r}, expected a text that is more than marks" if blank else ""

    def asked_for(self, options: Sequence[str]) -> str:
        return "<short text>"

    def read(self, text: str, options: Sequence[str] = ()) -> str | None:
        r"""The first line, None where nothing but marks is there.

        >>> Text().read("Marie Curie.\nShe won twice."), Text().read("...")
        ('Marie Curie.', None)
        """
        line = text.strip().partition("\n")[0].strip()
        return line if normalised(line) else None

    def is_right(self, given: str, answer: str) -> bool:
        """Whether a text is one of the right ones.

        >>> Text(also=("M. Curie",)).is_right(" marie  CURIE. ", "Marie Curie")
        True
        """
        return normalised(given) in {normalised(each) for each in (answer, *self.also)}


@dataclass(frozen=True, slots=True)
class Outcome:
    """The study says right or wrong; what was answered is not compared, so a simulated answer is right or not by a
    checker alone.
    """

    name: Literal["outcome"] = "outcome"

    def problem(self, options: Sequence[str], answer: str) -> str:
        return "an outcome with options, or with a right answer" if options or answer else ""

    def asked_for(self, options: Sequence[str]) -> str:
        return "<your answer>"

    def read(self, text: str, options: Sequence[str] = ()) -> str | None:
        return text.strip() or None


@dataclass(frozen=True, slots=True)
class NoAnswer:
    """A chat without an outcome; it ends with `Answer: done`, which says that the person was."""

    name: Literal["none"] = "none"

    def problem(self, options: Sequence[str], answer: str) -> str:
        return "no answer, yet options or a right answer" if options or answer else ""

    def asked_for(self, options: Sequence[str]) -> str:
        return DONE

    def read(self, text: str, options: Sequence[str] = ()) -> str | None:
        return DONE if normalised(text) == DONE else None


DONE = "done"
CHOICE = Choice()
Kind = Choice | Number | Text | Outcome | NoAnswer


def normalised(text: str) -> str:
    """A text without letter case, doubled white space, and marks around it."""
    return " ".join(text.casefold().split()).strip(_MARKS)
