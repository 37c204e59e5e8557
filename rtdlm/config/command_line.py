"""What the commands share: flags that build a config, and mistakes told in one sentence."""

import os
import sys
from argparse import (
    ArgumentParser,
    ArgumentTypeError,
    Namespace,
    RawDescriptionHelpFormatter,
)
from collections.abc import Callable, Sequence
from pathlib import Path
from textwrap import wrap
from typing import Any, NoReturn

from rtdlm.config.agi import AGIConfig
from rtdlm.config.build import build_config, parse_assignments
from rtdlm.config.controller import STRATEGIES
from rtdlm.config.errors import StorageError, Unfinished, UserError
from rtdlm.config.fields import field_docs
from rtdlm.config.inherit import inherit, preset_refused
from rtdlm.config.presets import PRESETS

USER_MISTAKE, FAILURE, INTERRUPTED = 2, 1, 130
# sysexits.h's EX_TEMPFAIL, "try again". Not 0, or a scheduler that drains a machine would count the
# run as done; not 143, which is also the end of a process that had no time to save.
UNFINISHED = os.EX_TEMPFAIL

# Everyday flag -> the field it sets, its type and what it takes on the command line.
EVERYDAY: dict[str, tuple[str, type, str]] = {
    "--steps": ("num_steps", int, "N"),
    "--epochs": ("num_epochs", float, "N"),
    "--tokens": ("num_tokens", int, "N"),
    "--seconds": ("max_seconds", float, "N"),
    "--batch-size": ("batch_size", int, "ROWS"),
    "--lr": ("optimizer.learning_rate", float, "RATE"),
    "--seed": ("seed", int, "S"),
    "--tokenizer": ("data.tokenizer", str, "KIND"),
}


def run(main: Callable[[Sequence[str]], None], arguments: Sequence[str]) -> int:
    """Runs a command and turns a user's mistake into one sentence and an exit status."""
    try:
        main(arguments)
    except UserError as mistake:
        print(f"error: {mistake}", file=sys.stderr)
        return USER_MISTAKE
    except StorageError as failure:
        print(f"error: {failure}", file=sys.stderr)
        return FAILURE
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except Unfinished:
        return UNFINISHED
    except BrokenPipeError:
        # Whoever read our output has seen enough; nothing more may go there, at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def add_checkpoint_flag(parser: ArgumentParser, *, foreign: bool = True) -> None:
    """Adds `--checkpoint`; `foreign` if other folders with a model are read too."""
    ours = "a run's output directory (its newest complete checkpoint) or one checkpoint"
    theirs = "; or a folder of a Hugging Face model, or of one that was quantized"
    parser.add_argument(
        "--checkpoint", type=path, required=True, metavar="DIR",
        help=ours + theirs if foreign else ours,
    )  # fmt: skip


def add_strategy_flag(parser: ArgumentParser) -> None:
    """Adds `--strategy`, for models with a compute controller."""
    parser.add_argument(
        "--strategy", choices=tuple(STRATEGIES),
        help="how much a compute controller may take (default: the run's own)",
    )  # fmt: skip


def leave(status: int) -> NoReturn:
    """Ends the process; after an interrupt at once, since XLA crashes at exit while it compiles."""
    if status == INTERRUPTED:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def tell(sentence: str) -> None:
    """A notice for the person, on standard error."""
    print(f"notice: {sentence}", file=sys.stderr)


def path(text: str) -> Path:
    """A path on the command line; an unset shell variable does not mean the current directory."""
    if not text:
        raise ArgumentTypeError("is empty, expected a path")
    return Path(text)


class Parser(ArgumentParser):
    """Tells a mistake in one sentence; the usage is a `--help` away."""

    def error(self, message: str) -> NoReturn:
        """Prints and exits."""
        self.exit(USER_MISTAKE, f"error: {message}; see `{self.prog} --help`\n")


def make_parser(command: str, description: str, *, epilog: str | None = None) -> ArgumentParser:
    """A parser that refuses abbreviations, so that a misspelt flag is never taken for another."""
    return Parser(
        prog=f"python -m rtdlm.{command}",
        description=description,
        epilog=epilog,
        formatter_class=RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def add_config_flags(parser: ArgumentParser) -> None:
    """Adds the flags that `config_from_flags` reads."""
    group = parser.add_argument_group("the run")
    group.add_argument(
        "--preset", metavar="NAME", help=f"{', '.join(PRESETS)} (default: tiny, or the file's)"
    )
    group.add_argument("--config", metavar="FILE", help="YAML with any of the fields below")
    group.add_argument(
        "--text",
        nargs="+",
        metavar="PATH",
        help="text to prepare and train on: files, directories, globs, or `python-library`, the "
        "library sources and documentation of the Python that runs this",
    )
    group.add_argument(
        "--data-dir", nargs="+", metavar="DIR", help="directories of prepared shards, mixed"
    )
    docs = {doc.name: doc for doc in field_docs()}
    for flag, (field, kind, metavar) in EVERYDAY.items():
        text = f"{field}: {docs[field].doc}".replace("%", "%%")
        group.add_argument(flag, type=kind, metavar=metavar, help=text)
    group.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="FIELD=VALUE",
        help="any field below, for instance --set optimizer.name=adamw d_model=128",
    )


def config_from_flags(flags: Namespace) -> AGIConfig:
    """The config that the flags describe: preset, then file, then flags.

    Raises:
        UserError: as `build_config`, or two flags for one field.
    """
    preset = flags.preset or (None if flags.config else "tiny")
    return build_config(preset=preset, file=flags.config, overrides=_overrides(flags))


def config_on_model(flags: Namespace, model: AGIConfig, folder: Path) -> AGIConfig:
    """The config of a run that starts from the model in `folder`: that, then file, then flags.

    Raises:
        UserError: as `inherit`, or two flags for one field.
    """
    if flags.preset:
        raise preset_refused(f"--preset {flags.preset} is given", folder)
    return inherit(model, folder=folder, file=flags.config, overrides=_overrides(flags))


def _overrides(flags: Namespace) -> dict[str, Any]:
    """What single flags set, by dotted name."""
    overrides: dict[str, Any] = {}
    for flag, (field, _, _) in EVERYDAY.items():
        value = getattr(flags, flag.strip("-").replace("-", "_"))
        if value is not None:
            overrides[field] = value
    for flag, field in (("text", "data.text"), ("data_dir", "data.shards")):
        if getattr(flags, flag) is not None:
            overrides[field] = getattr(flags, flag)
    assigned = parse_assignments(flags.set)
    twice = sorted(set(overrides) & set(assigned))
    if twice:
        raise UserError(f"{twice[0]} is set by a flag and by --set; keep one")
    return overrides | assigned


def fields_help() -> str:
    """Every field with its type, default and meaning, for the end of `--help`."""
    lines = ["fields of --set and of the YAML file:"]
    for doc in field_docs():
        lines.append(f"  {doc.name} ({doc.type}, default {_shown(doc.default)})")
        lines += wrap(doc.doc, 92, initial_indent=" " * 6, subsequent_indent=" " * 6)
    return "\n".join(lines)


def _shown(value: Any) -> str:
    return "none" if value is None else str(value)
