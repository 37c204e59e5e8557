"""`python -m rtdlm.generate` and the console script."""

import subprocess
import sys
from pathlib import Path

import pytest

from rtdlm import generate
from rtdlm.__main__ import COMMANDS
from rtdlm.checkpoint.bank import MemoryBank
from tests.commands.conftest import arguments


def written(checkpoint: Path, capsys: pytest.CaptureFixture[str], *options: str) -> str:
    assert generate.main(["--checkpoint", str(checkpoint), "--max-tokens", "12", *options]) == 0
    return capsys.readouterr().out


def test_the_prompt_is_continued_and_a_seed_repeats(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    once = written(trained, capsys, "--prompt", "The quick", "--seed", "5")
    again = written(trained, capsys, "--prompt", "The quick", "--seed", "5")
    other = written(trained, capsys, "--prompt", "The quick", "--seed", "6")
    assert once.startswith("The quick")
    assert len(once) > len("The quick\n")
    assert once == again != other


def test_several_prompts_are_one_batch(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = written(trained, capsys, "--prompt", "The", "Pack my", "--preset", "deterministic")
    assert told.startswith("--- 1 of 2 ---\nThe")
    assert "--- 2 of 2 ---\nPack my" in told


def test_a_stop_string_ends_the_text(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    greedy = ["--prompt", "The", "--temperature", "0"]
    free = written(trained, capsys, *greedy).removeprefix("The").rstrip("\n")
    stop = free[2:4]
    stopped = written(trained, capsys, *greedy, "--stop", stop).removeprefix("The").rstrip("\n")
    assert stopped == free[: free.index(stop)].rstrip("\n")


def test_a_draft_writes_the_same_greedy_text_and_says_how_much_it_helped(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    greedy = ["--max-tokens", "12", "--prompt", "The", "--temperature", "0"]
    plain = written(trained, capsys, *greedy)
    flags = ["--checkpoint", str(trained), *greedy, "--draft", str(trained), "--draft-tokens", "3"]
    assert generate.main(flags) == 0
    told = capsys.readouterr()
    assert told.out == plain
    assert told.err == "notice: 4.00 tokens a call of the model\n"


def test_a_memory_is_kept_in_a_file_and_read_by_the_next_call(
    remembering: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, greedy = str(tmp_path / "fox.memory"), ("--temperature", "0", "--prompt")
    first = ("--keep-memory", file, *greedy, "The quick brown fox jumps.")
    told = written(remembering, capsys, *first)
    second = ("--memory", file, "--keep-memory", str(tmp_path / "later.memory"))
    more = written(remembering, capsys, *second, *greedy, "How vexingly")
    # A document token and the bytes of the text, twice; the line ends are the command's.
    read = [len(text) for text in (told, more)]
    found = [MemoryBank.load(tmp_path / name) for name in ("fox.memory", "later.memory")]
    assert [bank.clock_L.tolist() for bank in found] == [[read[0]], [sum(read)]]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--draft-tokens", "3"), "draft tokens=3 has no effect without a draft; name a draft"),
        (("--draft", "x", "--draft-layers", "1"), "draft=x and draft layers=1 are two drafts"),
        (("--draft-layers", "2"), "a draft of 2 layers is not a part of the model's 2"),
        (("--preset", "balance"), "unknown sampling preset 'balance'; did you mean 'balanced'?"),
        (("--temperature", "-1"), "temperature=-1.0 must be 0 (greedy) or a positive number"),
        (("--preset", "deterministic", "--top-k", "4"), "top_k=4 has no effect with temperature=0"),
        (("--memory", "x"), "the checkpoint has no episodic memory to read from a file or keep"),
        (("--keep-memory", "x"), "the checkpoint has no episodic memory to read from a file or"),
        (("b", "--keep-memory", "x"), "--keep-memory is of one prompt and its text, found 2"),
    ],
)
def test_bad_options_end_with_one_sentence(
    options: tuple[str, ...], sentence: str, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert generate.main(["--checkpoint", str(trained), "--prompt", "a", *options]) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"error: {sentence}")
    assert told.count("\n") == 1


def test_a_memory_that_cannot_be_kept_is_told_before_anything_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = tmp_path / "nowhere" / "fox.memory"
    given = ["--checkpoint", str(tmp_path / "none"), "--prompt", "a", "--keep-memory", str(kept)]
    assert generate.main(given) != 0
    told = capsys.readouterr()
    assert told.err.startswith(f"error: {kept} could not be written: No such file or directory")
    assert told.out == ""


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_without_loading_jax(command: str) -> None:
    script = (
        "import sys; from rtdlm.__main__ import main\n"
        f"sys.argv = ['rtdlm', {command!r}, '--help']\n"
        "try: main()\n"
        "except SystemExit as stopped: assert stopped.code == 0\n"
        "assert 'jax' not in sys.modules"
    )
    told = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert told.stdout.startswith(f"usage: python -m rtdlm.{command}")


def test_an_unknown_command_is_named() -> None:
    told = subprocess.run(
        [sys.executable, "-m", "rtdlm", "trian"], capture_output=True, text=True, check=False
    )
    assert told.returncode == 2
    assert told.stderr.startswith(
        "error: unknown command 'trian'; commands are prepare, plan, train"
    )


def test_a_reader_that_has_seen_enough_is_no_mistake(trained: Path) -> None:
    command = f"{sys.executable} -m rtdlm generate --checkpoint {trained} --prompt a | true"
    told = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert (told.returncode, told.stderr) == (0, "")


def test_an_interrupt_before_the_first_step_ends_quietly(text: Path, tmp_path: Path) -> None:
    script = (
        "import os, signal, sys\n"
        "from rtdlm import train\n"
        "from rtdlm.config.command_line import leave\n"
        "import rtdlm.training.run as run\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "run.init_state = lambda *args: os.kill(os.getpid(), signal.SIGINT)\n"
        "leave(train.main(sys.argv[1:]))\n"
    )
    given = arguments(text, tmp_path / "out", "--steps", "5")
    told = subprocess.run(
        [sys.executable, "-c", script, *given], capture_output=True, text=True, check=False
    )
    assert (told.returncode, told.stderr) == (130, "interrupted\n")


@pytest.mark.parametrize(("status", "ended"), [(130, (130, "told\n")), (2, (2, "told\nat exit\n"))])
def test_an_interrupt_skips_what_others_do_at_exit(status: int, ended: tuple[int, str]) -> None:
    # jaxlib crashes there when it was interrupted while compiling.
    script = (
        "import atexit\n"
        "from rtdlm.config.command_line import leave\n"
        "atexit.register(print, 'at exit')\n"
        "print('told')\n"
        f"leave({status})\n"
    )
    told = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert (told.returncode, told.stdout) == ended
