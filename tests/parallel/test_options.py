"""What a step's compiler is told."""

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from rtdlm.parallel.options import ON_TPU, step_options


def mesh_on(platform: str) -> Any:
    devices = np.array([SimpleNamespace(platform=platform)] * 4)
    return cast(Any, SimpleNamespace(devices=devices))


def test_only_a_tpus_compiler_is_told_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LIBTPU_INIT_ARGS", raising=False)
    assert step_options(mesh_on("cpu")) is None
    assert step_options(mesh_on("gpu")) is None
    assert step_options(mesh_on("tpu")) == dict.fromkeys(ON_TPU, True)


def test_what_the_user_says_is_left_to_them(monkeypatch: pytest.MonkeyPatch) -> None:
    first, *rest = ON_TPU
    for said in (f"--xla_other=1 --{first}=false", f"--{first} --xla_other=1"):
        monkeypatch.setenv("LIBTPU_INIT_ARGS", said)
        assert step_options(mesh_on("tpu")) == dict.fromkeys(rest, True)
    monkeypatch.setenv("LIBTPU_INIT_ARGS", " ".join(f"--{name}=false" for name in ON_TPU))
    assert step_options(mesh_on("tpu")) is None
