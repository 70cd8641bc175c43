"""The output file of a child: every piece once and in order, wherever reading stops."""

import os
from datetime import UTC, datetime
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as some

from orchestrator.sdk.masking import Mask
from orchestrator.sdk.recorder import Recorder
from orchestrator.sdk.reports import AttemptRef
from workers.isolation.dead_children import OutputFolder
from workers.isolation.output_file import OutputFile

SOURCE = AttemptRef(
    tenant_id=UUID(int=1), run_id=UUID(int=2), step_id=UUID(int=3), step="s", attempt=4,
    started_at=datetime(2026, 1, 1, tzinfo=UTC),
)  # fmt: skip

# Entries, parts of streams, and bytes that are written to the descriptor directly.
writes = some.lists(
    some.one_of(
        some.tuples(some.just("entry"), some.just(40), some.text(max_size=20)),
        some.tuples(
            some.just("stream"), some.sampled_from([20, 30]), some.text("ab\nü€", max_size=30)
        ),
        some.tuples(some.just("raw"), some.just(20), some.text("ab\nü€", max_size=30)),
    ),
    max_size=20,
)


def lines_of(recorder: Recorder) -> list[tuple[int, str]]:
    return [(line.level, line.text) for line in recorder.lines]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> OutputFolder:
    folder = OutputFolder()
    folder.path = tmp_path_factory.mktemp("output")
    return folder


def write(file: OutputFile, kind: str, level: int, text: str) -> None:
    if kind == "entry":
        file.write_entry(level, text)
    elif kind == "stream":
        for byte in text.encode():  # in pieces, as a wrapper may
            file.write(level, bytes([byte]))
    else:
        os.write(file.descriptor, text.encode())


def by_level(lines: list[tuple[int, str]]) -> dict[int, list[str]]:
    """The texts of each level, in their order."""
    return {each: [text for level, text in lines if level == each] for each in (20, 30, 40)}


def expected_lines(pieces: list[tuple[str, int, str]]) -> list[tuple[int, str]]:
    """The lines of these writes, by a simpler rule."""
    lines, partial = [], {20: "", 30: ""}
    for kind, level, text in pieces:
        if kind == "entry":
            lines.append((level, text.replace("\x00", "\ufffd")))
            continue
        *whole, partial[level] = (partial[level] + text).split("\n")
        lines += [(level, line) for line in whole]
    return lines + sorted((level, rest) for level, rest in partial.items() if rest)


@given(pieces=writes, reads=some.sets(some.integers(0, 20)))
def test_every_line_is_read_once_in_order(
    folder: OutputFolder, pieces: list[tuple[str, int, str]], reads: set[int]
) -> None:
    assert folder.path
    file, recorder = OutputFile(folder.path), Recorder()
    file.begin("task", SOURCE)
    for number, piece in enumerate(pieces):
        write(file, *piece)
        if number in reads:
            file.read_into(recorder)
    file.read_into(recorder, last=True)

    assert by_level(lines_of(recorder)) == by_level(expected_lines(pieces))


@given(pieces=writes, saves=some.sets(some.integers(0, 20)))
def test_the_parent_of_a_dead_child_reads_on_where_it_stopped(
    folder: OutputFolder, pieces: list[tuple[str, int, str]], saves: set[int]
) -> None:
    assert folder.path
    file, recorder = OutputFile(folder.path), Recorder()
    file.begin("task", SOURCE)
    written: list[tuple[int, str]] = []
    for number, piece in enumerate(pieces):
        write(file, *piece)
        if number in saves:
            file.read_into(recorder)
            if batch := recorder.drain():
                written += [(line.level, line.text) for line in batch.lines]
            file.save_position(recorder)

    rest = folder.unread_output(os.getpid(), "task", 10_000)

    assert rest is not None
    source, batch = rest
    assert source == SOURCE
    assert batch.first == len(written)
    written += [(line.level, line.text) for line in batch.lines]
    assert by_level(written) == by_level(expected_lines(pieces))
    assert folder.unread_output(os.getpid(), "another task", 10_000) is None


@pytest.mark.parametrize(
    "text",
    ["", "\n", "null\n", "[]\n", '{"message": "a line of the log"}\n', '{"task_id": "task"}\n'],
)
def test_a_position_that_a_step_overwrote_is_none(folder: OutputFolder, text: str) -> None:
    assert folder.path
    file = OutputFile(folder.path)
    file.begin("task", SOURCE)
    (folder.path / f"{os.getpid()}.state").write_text(text)

    assert folder.unread_output(os.getpid(), "task", 10_000) is None


def test_what_is_written_after_the_end_belongs_to_no_attempt(folder: OutputFolder) -> None:
    assert folder.path
    file, recorder = OutputFile(folder.path), Recorder()
    file.begin("task", SOURCE)
    file.write(20, b"mine\n")
    file.read_into(recorder, last=True)
    file.end()
    file.write(20, b"late\n")

    assert [piece.text for piece in file.late_lines()] == ["late"]
    assert folder.unread_output(os.getpid(), "task", 10_000) is None
    file.begin("next", SOURCE)
    file.write(20, b"next\n")
    file.read_into(recorder, last=True)
    assert lines_of(recorder) == [(20, "mine"), (20, "next")]


def test_bytes_that_look_like_a_frame_are_output(folder: OutputFolder) -> None:
    assert folder.path
    file, recorder = OutputFile(folder.path), Recorder()
    file.begin("task", SOURCE)
    os.write(file.descriptor, b"\x00\x1e\x02\x1f" + b"\xff" * 13 + b" text\n" + b"x" * 40_000)
    file.read_into(recorder, last=True)

    assert [len(text) for _, text in lines_of(recorder)][1:] == [8_001, 8_001, 8_000]
    assert lines_of(recorder)[0][1].endswith(" text")


def test_a_descriptor_that_a_step_closed_is_opened_again(folder: OutputFolder) -> None:
    assert folder.path
    file, recorder = OutputFile(folder.path), Recorder()
    outputs = [os.dup(number) for number in (1, 2)]
    try:
        file.begin("task", SOURCE)
        file.write(20, b"before\n")
        os.close(file.descriptor)
        os.close(1)
        file.redirect()
        os.write(1, b"after\n")
        file.read_into(recorder, last=True)
    finally:
        for number, output in zip((1, 2), outputs, strict=True):
            os.dup2(output, number)

    assert lines_of(recorder) == [(20, "before"), (20, "after")]


def test_the_parent_hides_what_a_dead_child_has_hidden(folder: OutputFolder) -> None:
    assert folder.path
    file, recorder, secret = OutputFile(folder.path), Recorder(), "hush-token-of-acme"
    file.begin("task", SOURCE)
    recorder.mask = Mask([secret])
    file.hide(recorder.mask)
    os.write(file.descriptor, b"a line\nwith hush-tok")
    file.read_into(recorder)
    assert recorder.drain()
    file.save_position(recorder)
    os.write(file.descriptor, b"en-of-acme" + b"." * 15_980 + secret.encode())
    file.write_entry(40, f"an entry of {secret}")
    files = [path.read_bytes() for path in folder.path.glob("*.state")]

    rest = folder.unread_output(os.getpid(), "task", 10_000)

    assert not any(b"of-acme" in each for each in files)
    assert rest is not None
    texts = [line.text for line in rest[1].lines]
    assert texts[0] == "an entry of ***"
    assert "hush" not in str(texts)
    assert "acme" not in str(texts)


def test_nothing_of_a_secret_stays_in_the_file(folder: OutputFolder) -> None:
    assert folder.path
    file, recorder = OutputFile(folder.path), Recorder()
    file.begin("task", SOURCE)
    file.hide(Mask(["hush-token"]))
    os.write(file.descriptor, b"printed hush-token\n")
    file.read_into(recorder, last=True)
    file.end()

    assert b"hush" not in (folder.path / f"{os.getpid()}.out").read_bytes()
    assert list(file.late_lines()) == []
