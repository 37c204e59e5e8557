"""`python -m rtdlm.generate`: continues prompts with a checkpoint.

python -m rtdlm.generate --checkpoint runs/tiny --prompt "def read(path):"
"""

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

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
from rtdlm.config.sampling import SAMPLING_PRESETS, SamplingConfig
from rtdlm.disk import require_room

if TYPE_CHECKING:
    from rtdlm.inference import Completion, Generator
    from rtdlm.models.memory import MemoryState

DESCRIPTION = """Continues prompts with a checkpoint, streaming to the terminal.

  python -m rtdlm.generate --checkpoint runs/tiny --prompt "def read(path):"
  python -m rtdlm.generate --checkpoint runs/tiny --prompt "import" "class" --preset creative
  python -m rtdlm.generate --checkpoint runs/tiny --prompt "" --temperature 0 --stop "\\n\\n"
  python -m rtdlm.generate --checkpoint runs/large --draft runs/tiny --prompt "def"
  python -m rtdlm.generate --checkpoint runs/memory --prompt "I am Ada." --keep-memory ada.memory
  python -m rtdlm.generate --checkpoint runs/memory --prompt "Who?" --memory ada.memory"""

# Flag -> the sampling option it sets, its type, what it takes and what it means.
OPTIONS: dict[str, tuple[type, str, str]] = {
    "temperature": (float, "T", "0 takes the likeliest token, 1 is the model's own distribution"),
    "top_k": (int, "K", "keep the K likeliest tokens"),
    "top_p": (float, "P", "keep the likeliest tokens that together have probability P"),
    "min_p": (float, "P", "keep tokens with at least P times the likeliest token's probability"),
    "repetition_penalty": (float, "R", "above 1 avoids tokens that were there before"),
    "max_tokens": (int, "N", "longest output [tokens] (default: 256)"),
    "seed": (int, "S", "the same seed and prompt give the same text (default: 0)"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Parses the arguments and generates; returns the exit status."""
    return run(_main, sys.argv[1:] if arguments is None else arguments)


def _main(arguments: Sequence[str]) -> None:
    flags = _parser().parse_args(arguments)
    sampling = _sampling(flags)
    from rtdlm.inference import Drafting, load_generator

    require(
        flags.keep_memory is None or len(flags.prompt) == 1,
        f"--keep-memory is of one prompt and its text, found {len(flags.prompt)} prompts; give one",
    )
    if flags.keep_memory is not None:
        require_room(Path(flags.keep_memory))
    drafting = Drafting(flags.draft, flags.draft_layers, flags.draft_tokens)
    generator = load_generator(
        flags.checkpoint, drafting=drafting, strategy=flags.strategy, notice=tell
    )
    memory = _memory(generator, flags)
    done: list[Completion] = []
    for piece in _pieces(generator, flags.prompt, sampling, memory, done):
        print(piece, end="", flush=True)
    if flags.keep_memory is not None:
        from rtdlm.inference.remember import keep_memory

        keep_memory(generator, flags.prompt[0] + done[0].text, memory, flags.keep_memory)
    if drafting != Drafting():
        tokens, calls = (
            sum(getattr(found, name) for found in done) for name in ("sampled", "calls")
        )
        tell(f"{tokens / calls:.2f} tokens a call of the model")


def _parser() -> ArgumentParser:
    parser = make_parser("generate", DESCRIPTION)
    add_checkpoint_flag(parser)
    add_strategy_flag(parser)
    parser.add_argument(
        "--prompt", nargs="+", required=True, metavar="TEXT",
        help='texts to continue, together as one batch; "" starts a document',
    )  # fmt: skip
    parser.add_argument(
        "--preset", default="balanced", metavar="NAME",
        help=f"{', '.join(SAMPLING_PRESETS)} (default: balanced); the options below go on top",
    )  # fmt: skip
    for option, (kind, metavar, text) in OPTIONS.items():
        flag = "--" + option.replace("_", "-")
        parser.add_argument(flag, type=kind, metavar=metavar, help=text)
    parser.add_argument(
        "--stop", nargs="+", metavar="TEXT",
        help="texts that end the output, which is trimmed before them; \\n is a line end",
    )  # fmt: skip
    parser.add_argument(
        "--draft", type=path, metavar="DIR",
        help="checkpoint of a smaller model with the same tokenizer, which proposes tokens that "
        "the model checks many at a time; the text's distribution is the same",
    )  # fmt: skip
    parser.add_argument(
        "--draft-layers", type=int, metavar="N", help="or the model's own first N layers"
    )
    parser.add_argument(
        "--draft-tokens", type=int, metavar="K", help="tokens that are proposed (default: 4)"
    )
    parser.add_argument(
        "--memory", type=path, metavar="FILE",
        help="what a model with episodic memory remembers before the prompt; see --keep-memory",
    )  # fmt: skip
    parser.add_argument(
        "--keep-memory", type=path, metavar="FILE",
        help="where to write what it remembers after the text; `rtdlm memory` looks into the file",
    )  # fmt: skip
    return parser


def _memory(generator: "Generator", flags: Namespace) -> "MemoryState | None":
    """What the rows begin with."""
    if flags.memory is None and flags.keep_memory is None:
        return None
    from rtdlm.inference.remember import no_memory, read_memory

    return no_memory(generator) if flags.memory is None else read_memory(generator, flags.memory)


def _sampling(flags: Namespace) -> SamplingConfig:
    given = {name: getattr(flags, name) for name in OPTIONS}
    options = {name: value for name, value in given.items() if value is not None}
    if flags.stop:
        options["stop"] = tuple(text.replace("\\n", "\n") for text in flags.stop)
    return SamplingConfig.from_preset(flags.preset, **options)


def _pieces(
    generator: "Generator",
    prompts: Sequence[str],
    sampling: SamplingConfig,
    memory: "MemoryState | None",
    done: "list[Completion]",
) -> Iterator[str]:
    """What to print: one prompt's text as it comes, several one after the other; fills `done`."""
    if len(prompts) == 1:
        yield prompts[0]
        for chunk in generator.stream(prompts[0], sampling, memory=memory):
            yield chunk.text
            if chunk.completion is not None:
                done.append(chunk.completion)
        yield "\n"
        return
    done += generator.generate(prompts, sampling, memory=memory)
    for number, completion in enumerate(done):
        yield f"--- {number + 1} of {len(prompts)} ---\n{prompts[number]}{completion.text}\n"


if __name__ == "__main__":
    leave(main())
