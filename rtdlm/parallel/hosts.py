"""The processes of a run, one a host: who they are, and the start of JAX's runtime between them.

Who starts them says who they are; the first that is found counts:

    RTDLM_COORDINATOR=host:port RTDLM_NUM_PROCESSES=n RTDLM_PROCESS_ID=i     any launcher
    RTDLM_COORDINATOR, RTDLM_NUM_PROCESSES and JOB_COMPLETION_INDEX          Kubernetes, indexed Job
    SLURM_STEP_NUM_TASKS, SLURM_PROCID, SLURM_STEP_NODELIST, SLURM_JOB_ID    srun
    TPU_WORKER_HOSTNAMES, TPU_WORKER_ID                                      TPU slices under GKE

Process 0 is the coordinator, and listens at that port. JAX's runtime does everything else; only the
roll is called before it starts, so that a missing process has a name.
"""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax

from rtdlm.config import HostsConfig, UserError
from rtdlm.parallel.roll_call import answer_roll, call_roll

DEFAULT_PORT = 8476
# Slurm's jobs share nodes: a port a job, out of the range that systems hand out last.
SLURM_PORTS = range(61440, 65536)
COORDINATOR, COUNT, PROCESS = "RTDLM_COORDINATOR", "RTDLM_NUM_PROCESSES", "RTDLM_PROCESS_ID"
INDEX = "JOB_COMPLETION_INDEX"


class Hosts(NamedTuple):
    """This process among the others."""

    process: int
    num: int
    """Processes."""
    coordinator: str
    """host:port of process 0."""
    source: str
    """What said so."""


def find_hosts(environment: Mapping[str, str]) -> Hosts | None:
    """Who `environment` says this process is; None where it is the only one.

    Raises:
        UserError: the variables contradict each other, or one is missing or no number.
    """
    for find in (_plain, _slurm, _tpu):
        found = find(environment)
        if found is None:
            continue
        if not 0 <= found.process < found.num:
            raise UserError(
                f"this is process {found.process} of {found.num} by {found.source}; processes are "
                "numbered from 0 to n - 1"
            )
        return found if found.num > 1 else None
    return None


def join(hosts: Hosts, config: HostsConfig) -> None:
    """Meets the other processes; then `jax.devices()` are those of all.

    Raises:
        UserError: not all came within `start_seconds`; it says who is missing.
    """
    if hosts.process == 0:
        call_roll(hosts.coordinator, count=hosts.num, seconds=config.start_seconds)
    else:
        answer_roll(
            hosts.coordinator,
            process=hosts.process,
            count=hosts.num,
            seconds=config.start_seconds,
        )
    # It would take SIGTERM for itself; a run has its own way to end in good order.
    jax.config.update("jax_enable_preemption_service", False)
    jax.distributed.initialize(
        hosts.coordinator,
        hosts.num,
        hosts.process,
        cluster_detection_method="deactivate",
        initialization_timeout=round(config.start_seconds),
        heartbeat_timeout_seconds=config.silent_seconds,
        shutdown_timeout_seconds=config.silent_seconds,
    )


def _plain(environment: Mapping[str, str]) -> Hosts | None:
    if not {COORDINATOR, COUNT, PROCESS} & set(environment):
        return None
    number = INDEX if PROCESS not in environment and INDEX in environment else PROCESS
    names = (COORDINATOR, COUNT, number)
    missing = [name for name in names if name not in environment]
    if missing:
        given = [name for name in names if name in environment]
        raise UserError(
            f"{_and(given)} set but {_and(missing)} not; set {COORDINATOR}=host:port, {COUNT}=n "
            f"and {PROCESS}=0 to n - 1, or none of them"
        )
    coordinator = environment[COORDINATOR]
    address = coordinator if ":" in coordinator else f"{coordinator}:{DEFAULT_PORT}"
    form = re.fullmatch(r"(?:[^\s:/\[\]]+|\[[\da-fA-F:]+\]):(\d{1,5})", address, re.ASCII)
    if form is None or not 0 < int(form[1]) < 1 << 16:
        raise UserError(f"{COORDINATOR}={coordinator!r} is no host:port")
    process, count = (_number(name, environment) for name in (number, COUNT))
    return Hosts(process, count, address, f"{COUNT} and {number}")


def _slurm(environment: Mapping[str, str]) -> Hosts | None:
    # The batch script itself has no step; only what srun starts is one of several tasks.
    names = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_JOB_ID")
    nodes = environment.get("SLURM_STEP_NODELIST")
    if nodes is None or any(name not in environment for name in names):
        return None
    process, count, job = (_number(name, environment) for name in names)
    port = SLURM_PORTS[job % len(SLURM_PORTS)]
    return Hosts(process, count, f"{first_node(nodes)}:{port}", "Slurm")


def _tpu(environment: Mapping[str, str]) -> Hosts | None:
    names = environment.get("TPU_WORKER_HOSTNAMES", "").split(",")
    if len(names) < 2:
        return None
    if "TPU_WORKER_ID" not in environment:
        raise UserError("TPU_WORKER_HOSTNAMES names several hosts but TPU_WORKER_ID is not set")
    number = _number("TPU_WORKER_ID", environment)
    return Hosts(number, len(names), f"{names[0].strip()}:{DEFAULT_PORT}", "the TPU slice")


def first_node(nodes: str) -> str:
    """The first host of Slurm's list: of `gpu[007-010,20],cpu3` it is `gpu007`."""
    prefix, bracket, rest = re.split(r"(,|\[|$)", nodes, maxsplit=1)
    return prefix + re.split(r"[-,\]]", rest, maxsplit=1)[0] if bracket == "[" else prefix


def _number(name: str, environment: Mapping[str, str]) -> int:
    text = environment[name].strip()
    if not text.isdecimal():
        raise UserError(f"{name}={environment[name]!r} is no whole number")
    return int(text)


def _and(names: Sequence[str]) -> str:
    return f"{' and '.join(names)} {'is' if len(names) == 1 else 'are'}"
