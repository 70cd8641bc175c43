"""Regular expressions as users write them, read by a grammar and written anew for Postgres.

Nothing that a user wrote reaches an engine as it is. What could make one slow or strange is
refused: a quantifier within a quantified group, references to groups, lookaround.
"""

import re
from typing import NamedTuple

from lark import Lark, Token, Transformer, UnexpectedInput, v_args

from orchestrator.errors import Invalid, Mistake

LONGEST = 200  # characters
DEEPEST = 20  # groups in groups
_MOST = 100  # repeats in { }

_GRAMMAR = r"""
    start: either
    either: row ("|" row)*
    row: piece*
    piece: atom QUANTIFIER?
    ?atom: CHAR -> char
        | ESCAPE -> escape
        | ANCHOR -> anchor
        | "." -> anything
        | CLASS -> members
        | OPEN either ")" -> group
    OPEN: "(?:" | /\((?!\?)/
    ANCHOR: "^" | "$"
    ESCAPE: /\\./s
    CLASS: /\[\^?\]?(?:[^\]\\]|\\.)*\]/s
    QUANTIFIER: /(?:[*+?]|\{\d{1,4}(?:,\d{0,4})?\})\??/
    CHAR: /[^\\^$.|?*+()\[\]{}]/s
"""
_SHORT = {"d": "0-9", "w": "[:alnum:]_", "s": "[:space:]"}
_CONTROL = {"n": "\n", "t": "\t", "r": "\r", "f": "\f", "v": "\v"}
_BORDERS = {"b": r"\y", "B": r"\Y"}
_MEMBER = re.compile(r"\\.|[^\\]", re.DOTALL)


class _Piece(NamedTuple):
    text: str
    repeats: bool = False


def translated(pattern: str, pointer: str) -> str:
    """The pattern for Postgres. Raises Invalid, with what is not taken of it."""
    if len(pattern) > LONGEST:
        raise _refusal(pointer, f"a pattern has at most {LONGEST} characters")
    if pattern.count("(") > DEEPEST:
        raise _refusal(pointer, f"a pattern has at most {DEEPEST} groups")
    try:
        return str(_PARSER.parse(pattern))
    except ValueError as error:
        raise _refusal(pointer, str(error)) from None
    except UnexpectedInput as error:
        at = error.pos_in_stream or 0
        if pattern[at : at + 2] == "(?":
            raise _refusal(pointer, "lookaround and flags in a pattern are not taken") from None
        raise _refusal(pointer, f"not a regular expression from character {at + 1} on") from None


def _refusal(pointer: str, detail: str) -> Invalid:
    return Invalid("the pattern cannot be used", Mistake(pointer, detail))


@v_args(inline=True)
class _Writer(Transformer[Token, str]):
    """Writes each part as Postgres reads it."""

    def start(self, either: _Piece) -> str:
        return either.text

    def either(self, *rows: _Piece) -> _Piece:
        return _Piece("|".join(each.text for each in rows), any(each.repeats for each in rows))

    def row(self, *pieces: _Piece) -> _Piece:
        return _Piece("".join(each.text for each in pieces), any(each.repeats for each in pieces))

    def piece(self, atom: _Piece, quantifier: Token | None = None) -> _Piece:
        if quantifier is None:
            return atom
        if atom.repeats:
            raise ValueError("a quantifier within a group that has one itself is not taken")
        greedy = quantifier[:-1] if len(quantifier) > 1 and quantifier[-1] == "?" else quantifier
        bounds = [int(number) for number in re.findall(r"\d+", greedy)]
        if any(bound > _MOST for bound in bounds) or bounds != sorted(bounds):
            raise ValueError(f"the bounds of {greedy} must rise and be at most {_MOST}")
        return _Piece(f"{atom.text}{greedy}", repeats=True)

    def char(self, char: Token) -> _Piece:
        return _Piece(_escaped(char))

    def anything(self) -> _Piece:
        return _Piece(".")

    def anchor(self, sign: Token) -> _Piece:
        return _Piece(str(sign))

    def group(self, _: Token, inner: _Piece) -> _Piece:
        return _Piece(f"(?:{inner.text})", inner.repeats)

    def escape(self, written: Token) -> _Piece:
        char = written[1]
        if char in _BORDERS:
            return _Piece(_BORDERS[char])
        if char.lower() in _SHORT:
            return _Piece(f"[{'^' if char.isupper() else ''}{_SHORT[char.lower()]}]")
        return _Piece(_escaped(_plain(char)))

    def members(self, written: Token) -> _Piece:
        inner = written[1:-1]
        negative, inner = ("^", inner[1:]) if inner.startswith("^") else ("", inner)
        return _Piece(f"[{negative}{_members(_MEMBER.findall(inner))}]")


def _members(signs: list[str]) -> str:
    """The inside of brackets: characters, ranges of them, and the short names of some."""
    written, at = [], 0
    while at < len(signs):
        sign = signs[at]
        if sign[0] == "\\" and sign[1:] in _SHORT:
            written.append(_SHORT[sign[1]])
        elif at + 2 < len(signs) and signs[at + 1] == "-":
            low, high = _one(sign), _one(signs[at + 2])
            if low > high:
                raise ValueError(f"the range {low}-{high} has no characters")
            written.append(f"{_escaped(low)}-{_escaped(high)}")
            at += 2
        else:
            written.append(_escaped(_one(sign)))
        at += 1
    if not written:
        raise ValueError("brackets need a character in them")
    return "".join(written)


def _one(sign: str) -> str:
    return _plain(sign[1]) if sign[0] == "\\" else sign


def _plain(char: str) -> str:
    """The character that a backslash and this one mean."""
    if char in _CONTROL:
        return _CONTROL[char]
    if char.isdigit():
        raise ValueError(f"\\{char}: references to groups are not taken")
    if char.isalpha():
        raise ValueError(f"\\{char} is not taken")
    return char


def _escaped(char: str) -> str:
    return char if char.isalnum() or char in " _" or ord(char) > 127 else f"\\{char}"


_PARSER = Lark(_GRAMMAR, parser="lalr", transformer=_Writer())
