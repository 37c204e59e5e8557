"""What an environment says about the processes of a run."""

import pytest

from rtdlm.config import UserError
from rtdlm.parallel import Hosts, find_hosts
from rtdlm.parallel.hosts import first_node

GIVEN = {"RTDLM_COORDINATOR": "head:99", "RTDLM_NUM_PROCESSES": "4", "RTDLM_PROCESS_ID": "2"}
PLAIN = "RTDLM_NUM_PROCESSES and RTDLM_PROCESS_ID"
INDEXED = {
    "RTDLM_COORDINATOR": "job-0.job:8476",
    "RTDLM_NUM_PROCESSES": "2",
    "JOB_COMPLETION_INDEX": "1",
}
STEP = {
    "SLURM_JOB_ID": "4099",
    "SLURM_STEP_NODELIST": "gpu[007-010,20],cpu3",
    "SLURM_STEP_NUM_TASKS": "5",
    "SLURM_PROCID": "0",
}
SLICE = {"TPU_WORKER_HOSTNAMES": "t-0.net, t-1.net,t-2.net", "TPU_WORKER_ID": "2"}


@pytest.mark.parametrize(
    ("environment", "found"),
    [
        ({}, None),
        (GIVEN, Hosts(2, 4, "head:99", PLAIN)),
        (GIVEN | {"RTDLM_COORDINATOR": "head"}, Hosts(2, 4, "head:8476", PLAIN)),
        (GIVEN | {"RTDLM_COORDINATOR": "10.0.0.1:65535"}, Hosts(2, 4, "10.0.0.1:65535", PLAIN)),
        (GIVEN | {"RTDLM_COORDINATOR": "[fe80::A1]:1"}, Hosts(2, 4, "[fe80::A1]:1", PLAIN)),
        (GIVEN | {"RTDLM_PROCESS_ID": " 03 "}, Hosts(3, 4, "head:99", PLAIN)),
        (GIVEN | {"RTDLM_PROCESS_ID": "0", "RTDLM_NUM_PROCESSES": "1"}, None),
        # An indexed Job has the number in any case; it counts only beside the other two.
        ({"JOB_COMPLETION_INDEX": "1"}, None),
        (INDEXED, Hosts(1, 2, "job-0.job:8476", "RTDLM_NUM_PROCESSES and JOB_COMPLETION_INDEX")),
        (INDEXED | {"RTDLM_PROCESS_ID": "0"}, Hosts(0, 2, "job-0.job:8476", PLAIN)),
        # Slurm: a port a job; a batch script has a job and its nodes, but no step.
        (STEP, Hosts(0, 5, "gpu007:61443", "Slurm")),
        (STEP | {"SLURM_JOB_ID": "4095"}, Hosts(0, 5, "gpu007:65535", "Slurm")),
        (STEP | {"SLURM_JOB_ID": "4096"}, Hosts(0, 5, "gpu007:61440", "Slurm")),
        (STEP | {"SLURM_STEP_NUM_TASKS": "1"}, None),
        *(
            ({name: value for name, value in STEP.items() if name != absent}, None)
            for absent in STEP
        ),
        ({"SLURM_JOB_ID": "5", "SLURM_JOB_NODELIST": "n[1-2]", "SLURM_NNODES": "2"}, None),
        (SLICE, Hosts(2, 3, "t-0.net:8476", "the TPU slice")),
        ({"TPU_WORKER_HOSTNAMES": "localhost", "TPU_WORKER_ID": "0"}, None),
        ({"TPU_WORKER_HOSTNAMES": ""}, None),
        # The first that is found counts, also when it says that there is but one.
        (SLICE | STEP | GIVEN, Hosts(2, 4, "head:99", PLAIN)),
        (SLICE | STEP, Hosts(0, 5, "gpu007:61443", "Slurm")),
        (STEP | GIVEN | {"RTDLM_PROCESS_ID": "0", "RTDLM_NUM_PROCESSES": "1"}, None),
    ],
)
def test_an_environment_says_who_this_process_is(
    environment: dict[str, str], found: Hosts | None
) -> None:
    assert find_hosts(environment) == found


REST = "set RTDLM_COORDINATOR=host:port, RTDLM_NUM_PROCESSES=n and RTDLM_PROCESS_ID=0 to n - 1, "
REST += "or none of them"


@pytest.mark.parametrize(
    ("environment", "sentence"),
    [
        (
            {"RTDLM_COORDINATOR": "head"},
            "RTDLM_COORDINATOR is set but RTDLM_NUM_PROCESSES and RTDLM_PROCESS_ID are not; "
            + REST,
        ),
        (
            {"RTDLM_PROCESS_ID": "1"},
            "RTDLM_PROCESS_ID is set but RTDLM_COORDINATOR and RTDLM_NUM_PROCESSES are not; "
            + REST,
        ),
        (
            {"RTDLM_COORDINATOR": "head", "RTDLM_NUM_PROCESSES": "2"},
            "RTDLM_COORDINATOR and RTDLM_NUM_PROCESSES are set but RTDLM_PROCESS_ID is not; "
            + REST,
        ),
        (
            {"RTDLM_COORDINATOR": "head", "JOB_COMPLETION_INDEX": "1"},
            "RTDLM_COORDINATOR and JOB_COMPLETION_INDEX are set but RTDLM_NUM_PROCESSES is not; "
            + REST,
        ),
        *(
            (
                GIVEN | {"RTDLM_COORDINATOR": address},
                f"RTDLM_COORDINATOR='{address}' is no host:port",
            )
            for address in (
                *("", ":99", "head:", "head:port", "head:0", "head:65536", "head:999999"),
                *("two words:99", "fe80::a1", "fe80::a1:99", "[fe80::a1]", "[head]:99", "a:1,b:2"),
                "http://head:99",
            )
        ),
        (
            GIVEN | {"RTDLM_NUM_PROCESSES": "four"},
            "RTDLM_NUM_PROCESSES='four' is no whole number",
        ),
        (GIVEN | {"RTDLM_PROCESS_ID": "-1"}, "RTDLM_PROCESS_ID='-1' is no whole number"),
        (GIVEN | {"RTDLM_PROCESS_ID": "1.0"}, "RTDLM_PROCESS_ID='1.0' is no whole number"),
        (GIVEN | {"RTDLM_PROCESS_ID": ""}, "RTDLM_PROCESS_ID='' is no whole number"),
        (INDEXED | {"JOB_COMPLETION_INDEX": "x"}, "JOB_COMPLETION_INDEX='x' is no whole number"),
        (
            GIVEN | {"RTDLM_PROCESS_ID": "4"},
            f"this is process 4 of 4 by {PLAIN}; processes are numbered from 0 to n - 1",
        ),
        (
            GIVEN | {"RTDLM_PROCESS_ID": "0", "RTDLM_NUM_PROCESSES": "0"},
            f"this is process 0 of 0 by {PLAIN}; processes are numbered from 0 to n - 1",
        ),
        (
            GIVEN | {"RTDLM_PROCESS_ID": "1", "RTDLM_NUM_PROCESSES": "1"},
            f"this is process 1 of 1 by {PLAIN}; processes are numbered from 0 to n - 1",
        ),
        (STEP | {"SLURM_JOB_ID": "job"}, "SLURM_JOB_ID='job' is no whole number"),
        (
            STEP | {"SLURM_PROCID": "5"},
            "this is process 5 of 5 by Slurm; processes are numbered from 0 to n - 1",
        ),
        (
            {"TPU_WORKER_HOSTNAMES": "a,b"},
            "TPU_WORKER_HOSTNAMES names several hosts but TPU_WORKER_ID is not set",
        ),
        (SLICE | {"TPU_WORKER_ID": "two"}, "TPU_WORKER_ID='two' is no whole number"),
        (
            SLICE | {"TPU_WORKER_ID": "3"},
            "this is process 3 of 3 by the TPU slice; processes are numbered from 0 to n - 1",
        ),
    ],
)
def test_what_contradicts_itself_is_one_sentence(
    environment: dict[str, str], sentence: str
) -> None:
    with pytest.raises(UserError) as error:
        find_hosts(environment)
    assert str(error.value) == sentence


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("cpu3", "cpu3"),
        ("n1,n2", "n1"),
        ("n[3,5]", "n3"),
        ("n[3-5]", "n3"),
        ("n[08]", "n08"),
        ("gpu[007-010,20],cpu3", "gpu007"),
        ("login,gpu[1-2]", "login"),
        ("rack-1-n[12-14]", "rack-1-n12"),
        ("a.b.c,d", "a.b.c"),
    ],
)
def test_the_first_node_of_a_list_is_the_coordinator(nodes: str, first: str) -> None:
    assert first_node(nodes) == first
