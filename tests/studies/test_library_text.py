import string

from studies.library_text import library_text


def test_the_text_is_the_same_every_time_and_printable() -> None:
    text = library_text(characters=300_000)
    assert len(text) == 300_000
    assert library_text(characters=300_000) == text
    assert library_text(characters=1_000) == text[:1_000]
    assert set(text) <= set(string.printable) - set("\t\r\x0b\x0c")
    assert {"\n", " ", "(", "e"} <= set(text)
    assert "def __init__(self" in text
