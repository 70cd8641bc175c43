"""The page of rows is what the tests say."""

from tests.contracts import table


def test_the_page_of_rows_is_up_to_date() -> None:
    assert table.PAGE.read_text() == table.page(), "write it anew: make rows"


def test_each_row_names_what_it_is_about_and_a_choice_says_why() -> None:
    for row in table.rows():
        assert row.text.strip(), row.test
        assert row.otherwise is None or len(row.otherwise) > 20, row.test
