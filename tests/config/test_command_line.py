"""Flags, their order of precedence, and how mistakes end a command."""

from collections.abc import Sequence

import pytest

from rtdlm.config import AGIConfig, StorageError, UserError
from rtdlm.config.command_line import (
    add_config_flags,
    config_from_flags,
    fields_help,
    make_parser,
    run,
)
from rtdlm.config.fields import field_docs


def parsed(*arguments: str) -> AGIConfig:
    parser = make_parser("train", "")
    add_config_flags(parser)
    return config_from_flags(parser.parse_args(arguments))


def test_everyday_flags_set_their_fields() -> None:
    config = parsed(
        *["--preset", "small", "--steps", "5", "--batch-size", "2", "--lr", "1e-3", "--seed", "9"],
        *["--text", "a.txt", "b.txt", "--set", "d_ff=64", "optimizer.name=adamw"],
    )
    assert (config.d_model, config.d_ff, config.batch_size, config.seed) == (512, 64, 2, 9)
    assert (config.num_steps, config.data.text) == (5, ("a.txt", "b.txt"))
    assert (config.optimizer.name, config.optimizer.learning_rate) == ("adamw", 1e-3)


def test_tiny_is_the_default() -> None:
    assert parsed() == AGIConfig.from_preset("tiny")


def test_one_field_set_twice_is_refused() -> None:
    with pytest.raises(UserError, match="^num_steps is set by a flag and by --set; keep one$"):
        parsed("--steps", "5", "--set", "num_steps=6")


def test_abbreviated_flags_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        parsed("--step", "5")
    assert stopped.value.code == 2
    assert capsys.readouterr().err == (
        "error: unrecognized arguments: --step 5; see `python -m rtdlm.train --help`\n"
    )


def test_help_lists_every_field_with_its_default() -> None:
    text = fields_help()
    for doc in field_docs():
        assert f"  {doc.name} (" in text
    assert "optimizer.warmup_steps (int, default 50)" in text


@pytest.mark.parametrize(
    ("error", "status", "told"),
    [
        (UserError("mend it"), 2, "error: mend it\n"),
        (StorageError("disk full"), 1, "error: disk full\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
    ],
)
def test_mistakes_become_a_sentence_and_a_status(
    error: BaseException, status: int, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def main(arguments: Sequence[str]) -> None:
        raise error

    assert run(main, []) == status
    assert capsys.readouterr().err == told


def test_a_defect_of_ours_is_not_disguised() -> None:
    def main(arguments: Sequence[str]) -> None:
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        run(main, [])
