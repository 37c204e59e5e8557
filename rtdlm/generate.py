"""`python -m rtdlm.generate`: continues prompts with a checkpoint.

python -m rtdlm.generate --checkpoint runs/tiny --prompt "def read(path):"
"""

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path

from rtdlm.config.command_line import make_parser, run
from rtdlm.config.sampling import SAMPLING_PRESETS, SamplingConfig

DESCRIPTION = """Continues prompts with a checkpoint, streaming to the terminal.

  python -m rtdlm.generate --checkpoint runs/tiny --prompt "def read(path):"
  python -m rtdlm.generate --checkpoint runs/tiny --prompt "Once" "Twice" --preset creative --seed 3"""
