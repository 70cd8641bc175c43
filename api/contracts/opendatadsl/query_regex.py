"""Parse users' regular expressions and write them in the syntax of Postgres.

No user input reaches the regex engine unparsed. Refused as slow or not portable: a quantifier
within a quantified group, back-references, lookaround.
"""

import re
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

from lark import Lark, Token, Transformer, UnexpectedInput, v_args

from api.contracts.opendatadsl.errors import invalid

MAX_LENGTH = 200  # characters
MAX_GROUPS = 20  # in a pattern
_MAX_REPEATS = 100  # repeats in { }

_GRAMMAR = r"""
    ?start: alternatives
    alternatives: sequence ("|" sequence)*
    sequence: piece*
    piece: atom QUANTIFIER?
    ?atom: CHAR -> char
        | ESCAPE -> escape
        | VERBATIM -> verbatim
        | CLASS -> members
        | _OPEN alternatives ")" -> group
    _OPEN: "(?:" | /\((?!\?)/
    VERBATIM: "^" | "$" | "."
    ESCAPE: /\\./s
    CLASS: /\[\^?\]?(?:[^\]\\]|\\.)*\]/s
    QUANTIFIER: /(?:[*+?]|\{\d{1,4}(?:,\d{0,4})?\})\??/
    CHAR: /[^\\^$.|?*+()\[\]{}]/s
"""
_CLASSES = {"d": "0-9", "w": "[:alnum:]_", "s": "[:space:]"}
_CONTROL = {"n": "\n", "t": "\t", "r": "\r", "f": "\f", "v": "\v"}
_BOUNDARIES = {"b": r"\y", "B": r"\Y"}
# A class, or a character and, if it begins a range, the one that ends it.
_MEMBERS = re.compile(r"\\(?P<class>[dws])|(\\.|[^\\])(?:-(\\.|[^\\]))?", re.DOTALL)
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
        piece: Any = _PARSER.parse(pattern)
    except ValueError as error:
        raise _invalid(pointer, str(error)) from None
    except UnexpectedInput as error:
        at = error.pos_in_stream or 0
        if pattern[at : at + 2] == "(?":
            raise _invalid(pointer, "lookaround and flags in a pattern are not taken") from None
        raise _invalid(pointer, f"not a regular expression from character {at + 1} on") from None
    return str(piece.text)


@v_args(inline=True)
class _Writer(Transformer[Token, _Piece]):
    """Writes each part in Postgres syntax."""

    verbatim = _Piece

    def alternatives(self, *sequences: _Piece) -> _Piece:
        return _joined("|", sequences)

    def sequence(self, *pieces: _Piece) -> _Piece:
        return _joined("", pieces)

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

    def group(self, inner: _Piece) -> _Piece:
        return _Piece(f"(?:{inner.text})", inner.repeats)

    def escape(self, token: Token) -> _Piece:
        char = token[1]
        if char in _BOUNDARIES:
            return _Piece(_BOUNDARIES[char])
        if char.lower() in _CLASSES:
            return _Piece(f"[{'^' if char.isupper() else ''}{_CLASSES[char.lower()]}]")
        return _Piece(_escape(_literal(token)))

    def members(self, token: Token) -> _Piece:
        inner = token[1:-1].removeprefix("^")
        if not inner:
            raise ValueError("brackets need a character in them")
        return _Piece(f"{token.removesuffix(inner + ']')}{_MEMBERS.sub(_members, inner)}]")


def _joined(sign: str, pieces: Sequence[_Piece]) -> _Piece:
    return _Piece(sign.join(each.text for each in pieces), any(each.repeats for each in pieces))


def _members(match: re.Match[str]) -> str:
    """A class, a range or a character in brackets."""
    if match["class"]:
        return _CLASSES[match["class"]]
    signs = [_literal(sign) for sign in match.group(2, 3) if sign]
    if signs != sorted(signs):
        raise ValueError(f"the range {'-'.join(signs)} has no characters")
    return "-".join(map(_escape, signs))


def _literal(sign: str) -> str:
    """The character that a sign stands for: itself, or one after a backslash."""
    if len(sign) == 1:
        return sign
    char = sign[1]
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
