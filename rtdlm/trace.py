"""`python -m rtdlm.trace`: shows what a compute controller does with a text.

python -m rtdlm.trace --checkpoint runs/core --text "To be, or not to be"
"""

import json
import sys
from collections.abc import Sequence

from rtdlm.config.command_line import (
    add_checkpoint_flag,
    add_strategy_flag,
    leave,
    make_parser,
    path,
    run,
    tell,
)
from rtdlm.config.effect import require

DESCRIPTION = """Shows what a compute controller does with a text: how many steps every token takes,
why no more, and what is spent.

  python -m rtdlm.trace --checkpoint runs/core --text "To be, or not to be"
  python -m rtdlm.trace --checkpoint runs/core --text "To be" --strategy fast --picture trace.png
  python -m rtdlm.trace --checkpoint runs/core --text "To be" --json"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Parses the arguments and traces; returns the exit status."""
    return run(_main, sys.argv[1:] if arguments is None else arguments)


def _main(arguments: Sequence[str]) -> None:
    parser = make_parser("trace", DESCRIPTION)
    add_checkpoint_flag(parser, foreign=False)
    parser.add_argument("--text", required=True, help="what is read, as one document")
    add_strategy_flag(parser)
    parser.add_argument("--picture", type=path, metavar="FILE", help="write a PNG")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    flags = parser.parse_args(arguments)
    from rtdlm.disk import replace_file
    from rtdlm.evaluation.trace import trace_text
    from rtdlm.models.load import load_model
    from rtdlm.models.tms import with_strategy

    loaded = load_model(flags.checkpoint, notice=tell)
    require(
        loaded.tokenizer is not None,
        f"checkpoint {flags.checkpoint} brings no tokenizer; train on shards with one beside them",
    )
    assert loaded.tokenizer is not None
    model = loaded.model
    if flags.strategy is not None:
        model = with_strategy(model, flags.strategy)
    trace = trace_text(model, loaded.params, loaded.tokenizer, flags.text)
    print(json.dumps(trace.to_dict()) if flags.json else trace.table())
    if flags.picture is not None:
        replace_file(flags.picture, trace.picture())


if __name__ == "__main__":
    leave(main())
