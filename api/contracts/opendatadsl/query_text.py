"""The query language in text: functions of one value, `_filter` and `_search`.

Two small grammars, read in one pass. How long a text may be and how deep its groups may go is
looked at before; nothing in here goes back and tries again.
"""

import re
from collections.abc import Sequence
from typing import Any

from lark import Lark, Token, Transformer, UnexpectedInput, v_args
from lark.exceptions import VisitError

from api.contracts.opendatadsl.query_tests import FUNCTIONS, MOST, Comparing
from orchestrator.errors import Invalid, Mistake
from orchestrator.search.conditions import Condition, all_of, any_of, negated

LONGEST, LONGEST_SEARCH = 4000, 1000  # characters
DEEPEST = 20  # groups in groups
_MOST_SIGNS = 4 * MOST  # words or `=`: with more there are too many tests, whatever they are

_FIELD = r"[A-Za-z_][\w.#:\-]*"
_CALL = re.compile(rf"({'|'.join(FUNCTIONS)})\((.*)\)", re.DOTALL)
# What lies between the commas that are not in quotes.
_PARTS = re.compile(
    r"""(?:^|(?<=,))(?:\s*(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")\s*(?=,|$)|[^,]*)""", re.DOTALL
)
_SEARCHED = ("_id", "name", "description")
_NAMED = re.compile(rf"({_FIELD}?)(==?)(.*)", re.DOTALL)
_FILTER = rf"""
    start: either
    either: row ("or"i row)*
    row: test ("and"i test)*
    ?test: "(" either ")"
        | FIELD "=" value -> equal
        | FIELD "=" CALL -> call
        | FIELD "=" _REGEX pattern ")" -> regex
    ?value: QUOTED -> quoted | WORD -> word
    pattern: (CHUNK | group)*
    group: "(" pattern ")"
    FIELD: /{_FIELD}/
    CALL.3: /(?:{"|".join(name for name in FUNCTIONS if name != "regex")})\([^()]*\)/
    _REGEX.3: "regex("
    CHUNK.3: /(?:[^()\\]|\\.)+/s
    QUOTED.2: /'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"/s
    WORD: /[^\s()'"]+/
    %ignore /\s+/
"""
_SEARCH = r"""
    start: either
    either: row ("|" row)*
    row: item+
    ?item: "(" either ")"
        | NOT item -> opposite
        | QUOTED -> quoted
        | WORD -> word
    NOT.2: "-"
    QUOTED.2: /"(?:[^"\\]|\\.)*"/s
    WORD: /[^\s|()"]+/
    %ignore /\s+/
"""


def read_value(tests: Comparing, name: str, written: str, pointer: str) -> Condition:
    """What `name=written` asks for. Raises Invalid."""
    check(written, pointer)
    called = _CALL.fullmatch(written)
    if called is None:
        return tests.of(name, "eq", [_operand(written)], pointer)
    return tests.of(name, called[1], _operands(called[1], called[2]), pointer)


def read_filter(tests: Comparing, written: str, pointer: str) -> Condition:
    """What a boolean expression asks for. Raises Invalid."""
    return _read(_FILTERS, written, _Filter(tests, pointer), pointer)


def read_search(tests: Comparing, written: str, pointer: str) -> Condition:
    """What words to search for ask for. Raises Invalid."""
    check(written, pointer, LONGEST_SEARCH)
    return _read(_SEARCHES, written, _Search(tests, pointer), pointer)


def _read(parser: Lark, written: str, writer: Any, pointer: str) -> Condition:
    check(written, pointer)
    if max(written.count("="), len(written.split())) > _MOST_SIGNS:
        detail = f"a query has at most {MOST} tests"
        raise Invalid("the query cannot be used", Mistake(pointer, detail))
    try:
        found: Condition = writer.transform(parser.parse(written))
    except VisitError as error:
        raise error.orig_exc from None
    except UnexpectedInput as error:
        at = error.pos_in_stream
        where = (
            "it ends too soon" if at in (None, -1) else f"not understood from character {at + 1} on"
        )
        raise Invalid("the query cannot be used", Mistake(pointer, where)) from None
    return found


def check(written: str, pointer: str, longest: int = LONGEST) -> None:
    """Raises Invalid for a text that is too long or too deep to be read."""
    if len(written) > longest:
        detail = f"{len(written):,} characters are too long; {longest:,} are taken"
        raise Invalid("the query cannot be used", Mistake(pointer, detail))
    depth = deepest = 0
    for char in written:
        depth += (char == "(") - (char == ")")
        deepest = max(deepest, depth)
    if deepest > DEEPEST:
        detail = f"groups go at most {DEEPEST} deep"
        raise Invalid("the query cannot be used", Mistake(pointer, detail))


def _operands(function: str, written: str) -> Sequence[str | None]:
    if function == "regex":
        return [written]
    return [_operand(each) for each in _PARTS.findall(written)] if written.strip() else []


def _operand(written: str) -> str | None:
    written = written.strip()
    if len(written) > 1 and written[0] == written[-1] and written[0] in "'\"":
        return _unquoted(written)
    return None if written == "null" else written


def _unquoted(written: str) -> str:
    return re.sub(r"\\(.)", r"\1", written[1:-1], flags=re.DOTALL)


@v_args(inline=True)
class _Writer(Transformer[Token, Condition]):
    """What both languages share."""

    def __init__(self, tests: Comparing, pointer: str) -> None:
        super().__init__()
        self._tests, self._pointer = tests, pointer

    def start(self, either: Condition) -> Condition:
        return either

    def either(self, *rows: Condition) -> Condition:
        return any_of(*rows)

    def row(self, *parts: Condition) -> Condition:
        return all_of(*parts)

    def _test(self, field: str, function: str, *operands: str | None) -> Condition:
        return self._tests.of(field, function, operands, self._pointer)


@v_args(inline=True)
class _Filter(_Writer):
    """`(status=failed or status=warning) and name=ECB_FX`"""

    def equal(self, field: Token, operand: str | None) -> Condition:
        return self._test(field, "eq", operand)

    def call(self, field: Token, call: Token) -> Condition:
        function, _, inner = call.partition("(")
        return self._test(field, function, *_operands(function, inner[:-1]))

    def regex(self, field: Token, pattern: str) -> Condition:
        return self._test(field, "regex", pattern)

    def pattern(self, *parts: str) -> str:
        return "".join(parts)

    def group(self, inner: str) -> str:
        return f"({inner})"

    def quoted(self, written: Token) -> str:
        return _unquoted(written)

    def word(self, written: Token) -> str | None:
        return _operand(written)


@v_args(inline=True)
class _Search(_Writer):
    """`(europe | usa) potato -germany name=ECB`"""

    def opposite(self, _: Token, item: Condition) -> Condition:
        return negated(item)

    def quoted(self, written: Token) -> Condition:
        return self._anywhere(_unquoted(written))

    def word(self, written: Token) -> Condition:
        named = _NAMED.fullmatch(written)
        if named is None:
            return self._anywhere(written)
        field, sign, term = named.groups()
        return self._test(field, "eq" if sign == "==" else "iregex", term)

    def _anywhere(self, term: str) -> Condition:
        return any_of(*(self._test(field, "iregex", term) for field in _SEARCHED))


_FILTERS = Lark(_FILTER, parser="lalr")
_SEARCHES = Lark(_SEARCH, parser="lalr")
