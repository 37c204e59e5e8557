"""`python -m rtdlm.plan`: does a run fit on given devices, and what will a step cost there.

python -m rtdlm.plan --preset xxlarge --devices v5p:8x8x8 --set mesh.strategy=fsdp
"""

import json
import sys
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rtdlm.config import AGIConfig
from rtdlm.config.command_line import (
    add_config_flags,
    config_from_flags,
    config_on_model,
    fields_help,
    leave,
    make_parser,
    path,
    run,
    tell,
)
from rtdlm.config.effect import require

DESCRIPTION = """Compiles a run's step for devices that need not be there, and tells what each
will hold, send and compute, how long a step takes at least, and whether it fits.

  python -m rtdlm.plan --preset xxlarge --devices v5p:4x4x4 --set mesh.strategy=fsdp
  python -m rtdlm.plan --preset base --devices h100:8 --batch-size 32 --json
  python -m rtdlm.plan --preset small --devices cpu:8
  python -m rtdlm.plan --from some-llama --devices h100:8 --set max_seq_len=4096
  python -m rtdlm.plan --preset xlarge --devices v5p:4x4x4 --recommend
  python -m rtdlm.plan --profile-collectives --devices cpu:8 --out profile"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Parses the arguments and plans; returns the exit status."""
    return run(_main, sys.argv[1:] if arguments is None else arguments)


def _main(arguments: Sequence[str]) -> None:
    parser = make_parser("plan", DESCRIPTION, epilog=fields_help())
    add_config_flags(parser)
    parser.add_argument(
        "--devices", metavar="KIND:SHAPE",
        help="what the run is planned for: a TPU slice (v4, v5e, v5p, v6e; v5e:4x4), GPUs "
        "(a100, h100, h200, b200; h100:16) or processors (cpu:8)",
    )  # fmt: skip
    parser.add_argument(
        "--from", dest="folder", type=path, metavar="DIR",
        help="plan the further training of the model in DIR, as `train --from DIR` does it",
    )  # fmt: skip
    parser.add_argument(
        "--recommend", action="store_true",
        help="compare arrangements of the devices by estimates, without compiling, and say why one",
    )  # fmt: skip
    parser.add_argument(
        "--profile-collectives", action="store_true",
        help="time collectives on the devices at hand, or on fake ones with --devices cpu:8",
    )  # fmt: skip
    parser.add_argument(
        "--out", type=path, metavar="DIR",
        help="where --profile-collectives leaves collectives.json and collectives.png",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    flags = parser.parse_args(arguments)
    require(
        not (flags.recommend and flags.profile_collectives),
        "--recommend and --profile-collectives are two questions; ask one",
    )
    require(
        flags.out is None or flags.profile_collectives,
        "--out has no effect without --profile-collectives; remove it",
    )
    if flags.profile_collectives:
        require(
            flags.folder is None,
            f"--from {flags.folder} has no effect with --profile-collectives; remove one",
        )
        _profile(flags)
        return
    require(
        flags.devices is not None,
        "--devices is missing: name what the run is planned for, like v5e:4x4, h100:16 or cpu:8",
    )
    from rtdlm.training.memory_use import check_memory

    config = _config(flags)
    check_memory(config, inherits=flags.folder is not None)
    _plan(config, flags)


def _config(flags: Namespace) -> AGIConfig:
    if flags.folder is None:
        return config_from_flags(flags)
    from rtdlm.training.source import find_source

    source = find_source(flags.folder, out=Path(), resume=False, notice=tell)
    return config_on_model(flags, source.config, source.folder)


def _plan(config: AGIConfig, flags: Namespace) -> None:
    from rtdlm.parallel.slices import fake_devices, parse_slice
    from rtdlm.training.planning import (
        make_plan,
        recommend_parallelism,
        recommendation_table,
        render,
        to_dict,
    )

    devices = parse_slice(flags.devices)
    if flags.recommend:
        fake_devices(1)
        found = recommend_parallelism(config, devices)
        print(json.dumps(asdict(found)) if flags.json else recommendation_table(found))
        return
    plan = make_plan(config, devices)
    print(json.dumps(to_dict(plan)) if flags.json else render(plan))


def _profile(flags: Namespace) -> None:
    import jax

    from rtdlm.config import MeshConfig
    from rtdlm.disk import make_directory, replace_file
    from rtdlm.parallel import make_mesh
    from rtdlm.parallel.profile import (
        draw_profile,
        profile_collective_communication,
        profile_table,
    )
    from rtdlm.parallel.slices import parse_slice, slice_devices

    devices = None
    if flags.devices is not None:
        chosen = parse_slice(flags.devices)
        require(
            chosen.accelerator.platform == "cpu",
            f"--profile-collectives runs on devices that are here, and --devices {chosen} names "
            "some that need not be; remove it, or use cpu:8",
        )
        devices = slice_devices(chosen)
    found = profile_collective_communication(
        make_mesh(MeshConfig(), jax.devices() if devices is None else devices)
    )
    text = json.dumps(asdict(found))
    print(text if flags.json else profile_table(found))
    if flags.out is not None:
        make_directory(flags.out)
        replace_file(flags.out / "collectives.json", text.encode())
        replace_file(flags.out / "collectives.png", draw_profile(found))


if __name__ == "__main__":
    leave(main())
