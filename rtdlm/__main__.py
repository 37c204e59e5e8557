"""`rtdlm COMMAND ...`: the same as `python -m rtdlm.COMMAND ...`."""

import sys
from importlib import import_module

from rtdlm.config.command_line import leave

COMMANDS = {
    "prepare": "turn text into shards of tokens",
    "plan": "tell what a run needs on given devices, and whether it fits",
    "train": "train a model, or resume training one",
    "evaluate": "measure a checkpoint on held-out text",
    "generate": "continue a prompt with a checkpoint",
    "trace": "show what a compute controller does with a text",
    "memory": "look into what a model remembers, and make it forget",
    "export": "write a trained model in a form that others read",
}


def main() -> int:
    """Runs the command that the first argument names."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: rtdlm COMMAND ...\n")
        for name, purpose in COMMANDS.items():
            print(f"  {name:10} {purpose}")
        print("\n`rtdlm COMMAND --help` tells more.")
        return 0
    if arguments[0] not in COMMANDS:
        print(
            f"error: unknown command {arguments[0]!r}; commands are {', '.join(COMMANDS)}",
            file=sys.stderr,
        )
        return 2
    leave(import_module(f"rtdlm.{arguments[0]}").main(arguments[1:]))


if __name__ == "__main__":
    sys.exit(main())
