"""The query language as text: functions of one value, `_filter` and `_search`.

Two LALR grammars. Length and nesting are limited before parsing, so parse time is linear.
"""

import re
from collections.abc import Sequence
from functools import partial
from itertools import accumulate
from typing import Any

from lark import Lark, Token, Transformer, UnexpectedInput, v_args
from lark.exceptions import VisitError

from api.contracts.opendatadsl.errors import invalid
from api.contracts.opendatadsl.query_tests import FUNCTIONS, MAX_TESTS, ConditionBuilder
from orchestrator.search.conditions import Condition, all_of, any_of, negated

MAX_LENGTH, MAX_SEARCH_LENGTH = 4000, 1000  # characters
MAX_DEPTH = 20  # of nested groups
_MAX_SIGNS = 4 * MAX_TESTS  # words or `=`: more of them means more than MAX_TESTS tests

_FIELD = r"[A-Za-z_][\w.#:\-]*"
_CALL = re.compile(rf"({'|'.join(FUNCTIONS)})\((.*)\)", re.DOTALL)
# Splits at commas outside of quotes.
_OPERANDS = re.compile(
    r"""(?:^|(?<=,))(?:\s*(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")\s*(?=,|$)|[^,]*)""", re.DOTALL
)
_SEARCH_FIELDS = ("_id", "name", "description")
_FIELD_TERM = re.compile(rf"({_FIELD}?)(==?)(.*)", re.DOTALL)
_FILTER_GRAMMAR = rf"""
    ?start: alternatives
    alternatives: sequence ("or"i sequence)*
    sequence: test ("and"i test)*
    ?test: "(" alternatives ")"
        | FIELD "=" value -> equal
        | FIELD "=" CALL -> call
        | FIELD "=" _REGEX pattern ")" -> regex
    ?value: QUOTED -> quoted | WORD -> word
    pattern: (CHUNK | group)*
    !group: "(" pattern ")"
    FIELD: /{_FIELD}/
    CALL.3: /(?:{"|".join(name for name in FUNCTIONS if name != "regex")})\([^()]*\)/
    _REGEX.3: "regex("
    CHUNK.3: /(?:[^()\\]|\\.)+/s
    QUOTED.2: /'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"/s
    WORD: /[^\s()'"]+/
    %ignore /\s+/
"""
_SEARCH_GRAMMAR = r"""
    ?start: alternatives
    alternatives: sequence ("|" sequence)*
    sequence: item+
    ?item: "(" alternatives ")"
        | _NOT item -> opposite
        | QUOTED -> quoted
        | WORD -> word
    _NOT.2: "-"
    QUOTED.2: /"(?:[^"\\]|\\.)*"/s
    WORD: /[^\s|()"]+/
    %ignore /\s+/
"""


def read_value(builder: ConditionBuilder, name: str, text: str, pointer: str) -> Condition:
    """The condition of `name=text`. Raises Invalid."""
    check_size(text, pointer)
    call = _CALL.fullmatch(text)
    if call is None:
        return builder.build(name, "eq", [_parse_operand(text)], pointer)
    return builder.build(name, call[1], _parse_operands(call[1], call[2]), pointer)


def read_filter(builder: ConditionBuilder, text: str, pointer: str) -> Condition:
    """The condition of a boolean expression. Raises Invalid."""
    return _parse(_FILTER_PARSER, text, _FilterTransformer(builder, pointer), pointer)


def read_search(builder: ConditionBuilder, text: str, pointer: str) -> Condition:
    """The condition of a full-text search. Raises Invalid."""
    check_size(text, pointer, MAX_SEARCH_LENGTH)
    return _parse(_SEARCH_PARSER, text, _SearchTransformer(builder, pointer), pointer)


def _parse(parser: Lark, text: str, transformer: Any, pointer: str) -> Condition:
    check_size(text, pointer)
    if max(text.count("="), len(text.split())) > _MAX_SIGNS:
        raise invalid(pointer, f"a query has at most {MAX_TESTS} tests")
    try:
        condition: Condition = transformer.transform(parser.parse(text))
    except VisitError as error:
        raise error.orig_exc from None
    except UnexpectedInput as error:
        if error.pos_in_stream in (None, -1):
            raise invalid(pointer, "it ends too soon") from None
        message = f"not understood from character {error.pos_in_stream + 1} on"
        raise invalid(pointer, message) from None
    return condition


def check_size(text: str, pointer: str, max_length: int = MAX_LENGTH) -> None:
    """Raises Invalid for a text that is too long or nested too deeply to be parsed."""
    if len(text) > max_length:
        raise invalid(pointer, f"{len(text):,} characters are too long; {max_length:,} are taken")
    depths = accumulate((char == "(") - (char == ")") for char in text)
    if max(depths, default=0) > MAX_DEPTH:
        raise invalid(pointer, f"groups go at most {MAX_DEPTH} deep")


def _parse_operands(function: str, text: str) -> Sequence[str | None]:
    if function == "regex":
        return [text]
    return [_parse_operand(each) for each in _OPERANDS.findall(text)] if text.strip() else []


def _parse_operand(text: str) -> str | None:
    text = text.strip()
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        return _unquote(text)
    return None if text == "null" else text


def _unquote(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text[1:-1], flags=re.DOTALL)


@v_args(inline=True)
class _QueryTransformer(Transformer[Token, Condition]):
    """The rules that both grammars share."""

    def __init__(self, builder: ConditionBuilder, pointer: str) -> None:
        super().__init__()
        self._build = partial(builder.build, pointer=pointer)

    alternatives, sequence = staticmethod(any_of), staticmethod(all_of)


@v_args(inline=True)
class _FilterTransformer(_QueryTransformer):
    """`(status=failed or status=warning) and name=ECB_FX`"""

    quoted, word = staticmethod(_unquote), staticmethod(_parse_operand)

    def equal(self, field: Token, operand: str | None) -> Condition:
        return self._build(field, "eq", [operand])

    def call(self, field: Token, call: Token) -> Condition:
        function, _, inner = call.partition("(")
        return self._build(field, function, _parse_operands(function, inner[:-1]))

    def regex(self, field: Token, pattern: str) -> Condition:
        return self._build(field, "regex", [pattern])

    def pattern(self, *parts: str) -> str:
        return "".join(parts)

    group = pattern


@v_args(inline=True)
class _SearchTransformer(_QueryTransformer):
    """`(europe | usa) potato -germany name=ECB`"""

    opposite = staticmethod(negated)

    def quoted(self, text: Token) -> Condition:
        return self._anywhere(_unquote(text))

    def word(self, text: Token) -> Condition:
        match = _FIELD_TERM.fullmatch(text)
        if match is None:
            return self._anywhere(text)
        field, sign, term = match.groups()
        return self._build(field, "eq" if sign == "==" else "iregex", [term])

    def _anywhere(self, term: str) -> Condition:
        return any_of(*(self._build(field, "iregex", [term]) for field in _SEARCH_FIELDS))


_FILTER_PARSER = Lark(_FILTER_GRAMMAR, parser="lalr")
_SEARCH_PARSER = Lark(_SEARCH_GRAMMAR, parser="lalr")
