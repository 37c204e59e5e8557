"""What `python -m benchmarks` and `python -m studies` have in common: names, flags, a listing."""

import importlib
from argparse import ArgumentParser, ArgumentTypeError, RawDescriptionHelpFormatter
from collections.abc import Mapping
from typing import Any

from rtdlm.config.command_line import Parser, path
from rtdlm.config.errors import UserError


def find(kind: str, name: str, modules: Mapping[str, str]) -> Any:
    """The module behind `name`.

    Raises:
        UserError: there is none.
    """
    if name not in modules:
        raise UserError(f"there is no {kind} {name!r}; there are {', '.join(modules)}")
    return importlib.import_module(modules[name])


def make_parser(program: str, module: Any, *, out: str) -> ArgumentParser:
    """A parser with the flags that all share; `out` says where results go unless told."""
    parser = Parser(
        prog=program,
        description=module.__doc__,
        formatter_class=RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--smoke", action="store_true", help="tiny sizes: only whether it runs")
    parser.add_argument("--out", type=path, metavar="FILE", help=f"where results go ({out})")
    return parser


def count(text: str) -> int:
    """A flag's number, at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise ArgumentTypeError(f"is {text!r}, expected a number of at least 1")
    return int(text)


def listing(usage: str, modules: Mapping[str, str]) -> str:
    """`usage`, and a line for every module."""
    width = max(map(len, modules))
    described = {name: importlib.import_module(m).DESCRIPTION for name, m in modules.items()}
    return "\n".join([usage, *(f"  {name:{width}}  {text}" for name, text in described.items())])
