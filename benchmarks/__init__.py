"""Times RT-DLM side by side with what people would use instead: `python -m benchmarks`."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
"""The checkout."""
