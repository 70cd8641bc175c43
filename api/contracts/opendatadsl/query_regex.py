"""Parse users' regular expressions and write them in the syntax of Postgres.

No user input reaches the regex engine unparsed. Refused as slow or not portable: a quantifier
within a quantified group, back-references, lookaround.
"""

import re
from functools import partial
from typing import NamedTuple

from lark import Lark, Token, Transformer, UnexpectedInput, v_args

from api.contracts.opendatadsl.errors import invalid

MAX_LENGTH = 200  # characters
MAX_GROUPS = 20  # in a pattern
_MAX_REPEATS = 100  # repeats in { }

_GRAMMAR = r"""
    start: alternatives
    alternatives: sequence ("|" sequence)*
    sequence: piece*
    piece: atom QUANTIFIER?
    ?atom: CHAR -> char
        | ESCAPE -> escape
        | ANCHOR -> anchor
        | "." -> anything
        | CLASS -> members
        | OPEN alternatives ")" -> group
    OPEN: "(?:" | /\((?!\?)/
    ANCHOR: "^" | "$"
    ESCAPE: /\\./s
    CLASS: /\[\^?\]?(?:[^\]\\]|\\.)*\]/s
    QUANTIFIER: /(?:[*+?]|\{\d{1,4}(?:,\d{0,4})?\})\??/
    CHAR: /[^\\^$.|?*+()\[\]{}]/s
"""
_CLASSES = {"d": "0-9", "w": "[:alnum:]_", "s": "[:space:]"}
_CONTROL = {"n": "\n", "t": "\t", "r": "\r", "f": "\f", "v": "\v"}
_BOUNDARIES = {"b": r"\y", "B": r"\Y"}
_MEMBER = re.compile(r"\\.|[^\\]", re.DOTALL)
_invalid = partial(invalid, subject="pattern")


class _Piece(NamedTuple):
    text: str
    repeats: bool = False


def translate(pattern: str, pointer: str) -> str:
    """The pattern in Postgres syntax. Raises Invalid for unsupported syntax."""
    if len(pattern) > MAX_LENGTH:
        raise _invalid(pointer, f"a pattern has at most {MAX_LENGTH} characters")
    if pattern.count("(") > MAX_GROUPS:
        raise _invalid(pointer, f"a pattern has at most {MAX_GROUPS} groups")
    try:
        return str(_PARSER.parse(pattern))
    except ValueError as error:
        raise _invalid(pointer, str(error)) from None
    except UnexpectedInput as error:
        at = error.pos_in_stream or 0
        if pattern[at : at + 2] == "(?":
            raise _invalid(pointer, "lookaround and flags in a pattern are not taken") from None
        raise _invalid(pointer, f"not a regular expression from character {at + 1} on") from None


@v_args(inline=True)
class _Writer(Transformer[Token, str]):
    """Writes each part in Postgres syntax."""

    def start(self, alternatives: _Piece) -> str:
        return alternatives.text

    def alternatives(self, *sequences: _Piece) -> _Piece:
        return _Piece(
            "|".join(each.text for each in sequences), any(each.repeats for each in sequences)
        )

    def sequence(self, *pieces: _Piece) -> _Piece:
        return _Piece("".join(each.text for each in pieces), any(each.repeats for each in pieces))

    def piece(self, atom: _Piece, quantifier: Token | None = None) -> _Piece:
        if quantifier is None:
            return atom
        if atom.repeats:
            raise ValueError("a quantifier within a group that has one itself is not taken")
        greedy = quantifier[:-1] if len(quantifier) > 1 and quantifier[-1] == "?" else quantifier
        bounds = [int(number) for number in re.findall(r"\d+", greedy)]
        if any(bound > _MAX_REPEATS for bound in bounds) or bounds != sorted(bounds):
            raise ValueError(f"the bounds of {greedy} must rise and be at most {_MAX_REPEATS}")
        return _Piece(f"{atom.text}{greedy}", repeats=True)

    def char(self, char: Token) -> _Piece:
        return _Piece(_escape(char))

    def anything(self) -> _Piece:
        return _Piece(".")

    def anchor(self, sign: Token) -> _Piece:
        return _Piece(str(sign))

    def group(self, _: Token, inner: _Piece) -> _Piece:
        return _Piece(f"(?:{inner.text})", inner.repeats)

    def escape(self, token: Token) -> _Piece:
        char = token[1]
        if char in _BOUNDARIES:
            return _Piece(_BOUNDARIES[char])
        if char.lower() in _CLASSES:
            return _Piece(f"[{'^' if char.isupper() else ''}{_CLASSES[char.lower()]}]")
        return _Piece(_escape(_unescape(char)))

    def members(self, token: Token) -> _Piece:
        inner = token[1:-1]
        negative, inner = ("^", inner[1:]) if inner.startswith("^") else ("", inner)
        return _Piece(f"[{negative}{_members(_MEMBER.findall(inner))}]")


def _members(signs: list[str]) -> str:
    """The inside of a bracket expression: characters, ranges, and classes such as \\d."""
    parts, at = [], 0
    while at < len(signs):
        sign = signs[at]
        if sign[0] == "\\" and sign[1:] in _CLASSES:
            parts.append(_CLASSES[sign[1]])
        elif at + 2 < len(signs) and signs[at + 1] == "-":
            low, high = _literal(sign), _literal(signs[at + 2])
            if low > high:
                raise ValueError(f"the range {low}-{high} has no characters")
            parts.append(f"{_escape(low)}-{_escape(high)}")
            at += 2
        else:
            parts.append(_escape(_literal(sign)))
        at += 1
    if not parts:
        raise ValueError("brackets need a character in them")
    return "".join(parts)


def _literal(sign: str) -> str:
    return _unescape(sign[1]) if sign[0] == "\\" else sign


def _unescape(char: str) -> str:
    """The character that a backslash followed by this one stands for."""
    if char in _CONTROL:
        return _CONTROL[char]
    if char.isdigit():
        raise ValueError(f"\\{char}: references to groups are not taken")
    if char.isalpha():
        raise ValueError(f"\\{char} is not taken")
    return char


def _escape(char: str) -> str:
    return char if char.isalnum() or char in " _" or ord(char) > 127 else f"\\{char}"


_PARSER = Lark(_GRAMMAR, parser="lalr", transformer=_Writer())
