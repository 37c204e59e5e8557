"""A run of several processes on this machine, over loopback: started, watched and ended."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import ROOT

DEVICES = 4
PROCESSES = 2
SILENT_SECONDS = 10
STEP_SECONDS = 25
FIELDS = (
    *("num_layers=2", "d_model=64", "num_heads=2", "num_kv_heads=2", "d_ff=128", "batch_size=8"),
    *("max_seq_len=32", "optimizer.name=adamw", "mesh.strategy=fsdp", "short_conv=0"),
    *("value_residual=false", "precision.compute=float32", "monitoring.sample_tokens=0"),
    *("monitoring.tensorboard=false", "evaluation.num_batches=1", "evaluation.every_steps=50"),
    *("checkpoint.every_steps=2", f"hosts.silent_seconds={SILENT_SECONDS}"),
    f"hosts.step_seconds={STEP_SECONDS}",
)


class End(NamedTuple):
    """How all processes of a session ended."""

    statuses: tuple[int, ...]
    seconds: float
    """From the fault until the last one was gone; those still there at the limit were killed."""
    hung: bool


class Cluster:
    """Sessions of one run, whose output is in `out`."""

    def __init__(self, work: Path, text: Path, *, steps: int, name: str) -> None:
        self.out, self._work = work / name, work
        self._cache, self.text, self.steps = work / "cache", text, steps
        self._processes: list[subprocess.Popen[bytes]] = []
        self._sessions = 0

    @property
    def log(self) -> Path:
        """Of the newest session alone: a process that may not write long files has to speak."""
        return self._work / f"{self.out.name}.{self._sessions}.log"

    def start(
        self,
        *,
        processes: int = PROCESSES,
        only: tuple[int, ...] | None = None,
        faults: Mapping[int, dict[str, Any]] | None = None,
        steps: int | None = None,
        start_seconds: float = 120,
    ) -> None:
        """Starts `only` those of `processes`, with faults inside by number."""
        port = _free_port()
        self._sessions += 1
        fields = (*FIELDS, f"hosts.start_seconds={start_seconds}")
        arguments = ["--preset", "tiny", "--text", str(self.text), "--tokenizer", "byte"]
        arguments += ["--out", str(self.out), "--steps", str(steps or self.steps), "--resume"]
        arguments += ["--set", *fields]
        with self.log.open("wb") as log:
            for number in range(processes) if only is None else only:
                fault = (faults or {}).get(number)
                module = ["rtdlm.train"]
                if fault is not None:
                    module = ["benchmarks.faults.child", json.dumps(fault)]
                self._processes.append(
                    subprocess.Popen(
                        [sys.executable, "-m", *module, *arguments],
                        cwd=ROOT,
                        env=self._environment(number, processes, port),
                        stdout=log,
                        stderr=log,
                    )
                )

    def alive(self) -> bool:
        """Whether every process still runs."""
        return all(process.poll() is None for process in self._processes)

    def signal(self, number: int, kind: signal.Signals) -> None:
        """Sends a signal to one process."""
        self._processes[number].send_signal(kind)

    def wait(self, *, limit: float) -> End:
        """Waits until all processes ended, at most `limit` seconds; then ends them."""
        begun = time.monotonic()
        while any(process.poll() is None for process in self._processes):
            if time.monotonic() - begun > limit:
                for process in self._processes:
                    process.kill()
                break
            time.sleep(0.01)
        seconds = time.monotonic() - begun
        statuses = tuple(process.wait() for process in self._processes)
        self._processes = []
        return End(statuses, seconds, seconds > limit)

    def reach(self, step: int, *, limit: float = 120.0) -> None:
        """Returns when the log has `step`, or all ended.

        Raises:
            RuntimeError: neither happened in time.
        """
        deadline = time.monotonic() + limit
        while self.last_step() < step and self.alive():
            if time.monotonic() > deadline:
                raise RuntimeError(f"no step {step} after {limit} s; see {self.log}")
            time.sleep(0.003)

    def events(self) -> list[dict[str, Any]]:
        """The log; a line that is being written does not count."""
        return [json.loads(line) for line in self._lines()]

    def last_step(self) -> int:
        """The newest step in the log, of whose lines the last few have it."""
        return max((json.loads(line).get("step") or 0 for line in self._lines()[-9:]), default=0)

    def _lines(self) -> list[str]:
        path = self.out / "metrics.jsonl"
        return path.read_text(encoding="utf-8").split("\n")[:-1] if path.exists() else []

    def losses(self) -> dict[int, float]:
        """Loss of every step that was logged."""
        return {e["step"]: e["loss"] for e in self.events() if e["kind"] == "train"}

    def share_cache(self, other: "Cluster") -> None:
        """Compiles nothing that `other` has compiled."""
        self._cache = other._cache

    def said(self) -> str:
        """What the processes said since they were started last."""
        return self.log.read_bytes().decode(errors="replace")

    def _environment(self, number: int, processes: int, port: int) -> dict[str, str]:
        own = {
            "JAX_PLATFORMS": "cpu",
            "JAX_COMPILATION_CACHE_DIR": str(self._cache),
            # All of it: what starts again compiles nothing.
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} --xla_backend_optimization_level=0 "
            f"--xla_force_host_platform_device_count={DEVICES // processes}",
        }
        if processes > 1:
            own["RTDLM_COORDINATOR"] = f"127.0.0.1:{port}"
            own["RTDLM_NUM_PROCESSES"], own["RTDLM_PROCESS_ID"] = str(processes), str(number)
        return os.environ | own


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
