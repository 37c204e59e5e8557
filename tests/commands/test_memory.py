"""`rtdlm memory`: what it prints, what it leaves, and what it refuses."""

from pathlib import Path

import pytest

from rtdlm.checkpoint.bank import MemoryBank
from rtdlm.data import byte_tokenizer, train_bpe
from rtdlm.memory import main
from tests.checkpoint.test_bank import saying

BYTE = ("--tokenizer", "byte")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    saying("Ada lives in Paris.").save(tmp_path / "ada.memory")
    return tmp_path / "ada.memory"


def test_list_and_show(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", str(file)]) == 0
    assert capsys.readouterr().out.splitlines()[2].split()[:4] == ["0", "19", "30%", "9"]
    assert main(["show", str(file), *BYTE, "--text", "Paris"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == ["slot", "document", "age", "read", "surprise", "token", "text"]
    assert [(line[0], line[-1]) for line in lines[1:]] == [
        (str(13 + place), repr(letter)) for place, letter in enumerate("Paris")
    ]
    assert main(["show", str(file)]) == 0  # ids need no tokenizer
    assert len(capsys.readouterr().out.splitlines()) == 20


def test_forget_saves(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["forget", str(file), *BYTE, "--text", "Paris"]) == 0
    assert capsys.readouterr().out == f"{file}: 5 of 19 filled slots forgotten\n"
    assert (MemoryBank.load(file).label_LM > 0).sum() == 14
    before = file.read_bytes()
    assert main(["forget", str(file), *BYTE, "--text", "Paris"]) == 0
    assert file.read_bytes() == before
    assert main(["forget", str(file), "--older-than", "10"]) == 0
    assert main(["forget", str(file), "--layer", "0", "--slots", "9", "10"]) == 0
    assert [slot.slot for slot in MemoryBank.load(file).rows(0)] == [8, 11, 12, 18]


def test_the_checkpoint_brings_its_tokenizer(
    file: Path, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["show", str(file), "--checkpoint", str(trained), "--text", "Ada"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 4


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("forget",), "forget was not told what"),
        (("forget", "--slots", "3"), "--slots needs --layer"),
        (("forget", "--layer", "0", "--slots", "64"), "slot 64 is not there: slots are 0 to 63"),
        (("forget", "--older-than", "-2"), "an age of -2 tokens"),
        (("forget", "--text", "Paris"), "cannot be looked for without a tokenizer"),
        (("forget", *BYTE, "--text", ""), "an empty text is everywhere"),
        (("show", "--layer", "1"), "--layer 1 is not there: the memory has layers 0 to 0"),
        (("show", *BYTE, "--checkpoint", "x"), "both name a tokenizer"),
        (("show", "--checkpoint", "nowhere"), "checkpoint nowhere does not exist"),
        (("show", "--tokenizer", "nowhere.json"), "tokenizer nowhere.json cannot be read"),
    ],
)
def test_mistakes_are_told_in_one_line_and_nothing_is_lost(
    file: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], words: str
) -> None:
    before = file.read_bytes()
    action, *rest = arguments
    assert main([action, str(file), *rest]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    assert file.read_bytes() == before


def test_another_tokenizer_is_refused(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = train_bpe(["some other words"], 300).save(tmp_path)
    assert main(["show", str(file), "--tokenizer", str(other)]) == 2
    assert f"tokens are of tokenizer {byte_tokenizer().hash[:12]}" in capsys.readouterr().err


DEEP = (10**5).to_bytes(8, "little") + b"[" * 10**5


@pytest.mark.parametrize(
    "content",
    [None, b"", bytes(range(256)) * 40, b"plain text\n" * 99, pytest.param(DEEP, id="deep")],
)
@pytest.mark.parametrize("action", ["list", "show", "forget"])
def test_junk_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], action: str, content: bytes | None
) -> None:
    path = tmp_path / "junk"
    if content is not None:
        path.write_bytes(content)
    more = ["--older-than", "1"] if action == "forget" else []
    assert main([action, str(path), *more]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert str(path) in error
    assert error.count("\n") == 1
