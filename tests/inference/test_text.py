"""Text as it becomes certain: whole characters, and stop strings that span tokens."""

import pytest

from rtdlm.data import byte_tokenizer
from rtdlm.inference.completion import Row
from rtdlm.inference.decode import NO_TOKEN
from rtdlm.inference.text import TextStream

TOKENIZER = byte_tokenizer()


def pieces(text: str, *stop: str) -> list[str]:
    """What each byte makes certain, then what is left at the end."""
    stream = TextStream(TOKENIZER, stop)
    out = []
    for token in text.encode():
        out.append(stream.feed(token))
        if stream.stopped:
            return out
    return [*out, stream.finish()]


@pytest.mark.parametrize(
    ("text", "stop", "expected"),
    [
        ("abc", (), ["a", "b", "c", ""]),
        ("aé€", (), ["a", "", "é", "", "", "€", ""]),
        # "X", then "XY" might begin "XYZ"; "q" settles it.
        ("aXYq", ("XYZ",), ["a", "", "", "XYq", ""]),
        ("aXYZ", ("XYZ",), ["a", "", "", ""]),
        ("XXYZ", ("XYZ",), ["", "X", "", ""]),
        ("aX", ("XYZ",), ["a", "", "X"]),
        # The first to be complete ends the text, and the longest beginning is held back.
        ("abcd", ("cd", "bc"), ["a", "", ""]),
        # Where several are complete at once, the one that begins first.
        ("abcd", ("cd", "abcd"), ["", "", "", ""]),
        ("ab12", ("b13", "12"), ["a", "", "", "b"]),
        ("né!", ("é",), ["n", "", ""]),
    ],
)
def test_certain_text(text: str, stop: tuple[str, ...], expected: list[str]) -> None:
    assert pieces(text, *stop) == expected


def test_bytes_that_are_no_character_come_out_at_the_end() -> None:
    stream = TextStream(TOKENIZER, ())
    assert [stream.feed(ord("a")), stream.feed(0xC3), stream.finish()] == ["a", "", "�"]


def test_a_stop_string_may_complete_at_the_end() -> None:
    stream = TextStream(TOKENIZER, ("�",))
    assert [stream.feed(ord("a")), stream.feed(0xC3), stream.finish()] == ["a", "", ""]
    assert stream.stopped


def row(*, left: int, stop: tuple[str, ...] = ()) -> Row:
    prompt = TOKENIZER.encode("?")
    stream = TextStream(TOKENIZER, stop)
    return Row(prompt, left=left, stream=stream, end_ids=(TOKENIZER.document_id,))


@pytest.mark.parametrize(
    ("left", "stop", "tokens", "expected"),
    [
        (3, (), "abcdef", ("abc", "length")),
        (3, (), "abc", ("abc", "length")),
        (9, (), "ab|cd", ("ab", "document")),
        (3, (), "ab|", ("ab", "document")),
        (9, ("cd",), "abcdef", ("ab", "stop")),
        (4, ("cd",), "abcd", ("ab", "stop")),
        (3, ("cd",), "abcd", ("abc", "length")),
        (9, ("cd",), "abc|", ("abc", "document")),
        (9, ("cd",), "abc", None),
    ],
)
def test_how_a_row_ends(
    left: int, stop: tuple[str, ...], tokens: str, expected: tuple[str, str] | None
) -> None:
    """`|` is the document token; the tokens come in one call, then one by one."""
    ids = [TOKENIZER.document_id if character == "|" else ord(character) for character in tokens]
    for calls in ([[*ids, NO_TOKEN, NO_TOKEN]], [[token] for token in ids]):
        taken = row(left=left, stop=stop)
        text = "".join(taken.take([call]) for call in calls)
        if expected is None:
            assert (text, taken.completion, taken.left) == ("ab", None, left - len(ids))
            continue
        assert taken.completion is not None
        assert (taken.completion.text, taken.completion.finish_reason) == expected
        assert text == expected[0]
        assert taken.left == 0


def test_tokens_are_those_sampled_up_to_the_end() -> None:
    taken = row(left=9, stop=("cd",))
    taken.take([[*b"abcdef"]])
    assert taken.completion is not None
    assert taken.completion.tokens == tuple(b"abcd")
    taken = row(left=9)
    taken.take([[*b"ab", TOKENIZER.document_id]])
    assert taken.completion is not None
    assert taken.completion.tokens == tuple(b"ab")
    assert taken.completion.prompt_tokens == 1
