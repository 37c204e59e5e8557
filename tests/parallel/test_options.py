"""What a step's compiler is told."""

from types import SimpleNamespace
from typing import Any, cast

import jax
import numpy as np
import pytest

import rtdlm.evaluation.heldout
import rtdlm.training.step
from rtdlm.config import AGIConfig, MeshConfig
from rtdlm.evaluation.heldout import make_eval_step
from rtdlm.models import TMSModel
from rtdlm.parallel import make_mesh
from rtdlm.parallel.options import ON_TPU, step_options
from rtdlm.training.optimizer import make_optimizer
from rtdlm.training.step import make_train_step


def mesh_on(platform: str, *, fsdp: int = 4) -> Any:
    devices = np.array([SimpleNamespace(platform=platform)] * 4)
    return cast(Any, SimpleNamespace(devices=devices, shape={"fsdp": fsdp}))


def test_only_a_tpus_compiler_is_told_anything_and_where_there_is_something_to_gather(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("LIBTPU_INIT_ARGS", raising=False)
    assert step_options(mesh_on("cpu")) is None
    assert step_options(mesh_on("gpu")) is None
    assert step_options(mesh_on("tpu", fsdp=1)) is None
    assert step_options(mesh_on("tpu")) == dict.fromkeys(ON_TPU, True)


def test_what_the_user_says_is_left_to_them(monkeypatch: pytest.MonkeyPatch) -> None:
    first, *rest = ON_TPU
    for said in (f"--xla_other=1 --{first}=false", f"--{first} --xla_other=1"):
        monkeypatch.setenv("LIBTPU_INIT_ARGS", said)
        assert step_options(mesh_on("tpu")) == dict.fromkeys(rest, True)
    monkeypatch.setenv("LIBTPU_INIT_ARGS", " ".join(f"--{name}=false" for name in ON_TPU))
    assert step_options(mesh_on("tpu")) is None


def test_steps_of_training_and_of_evaluation_are_compiled_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[Any] = []
    jit = jax.jit

    def spy(function: Any, **kwargs: Any) -> Any:
        told.append(kwargs.get("compiler_options"))
        return jit(function, **kwargs)

    model = TMSModel(AGIConfig.from_preset("tiny"))
    optimizer = make_optimizer(model.config.optimizer)
    mesh = make_mesh(MeshConfig(data=8))
    for module in (rtdlm.training.step, rtdlm.evaluation.heldout):
        monkeypatch.setattr(module, "step_options", lambda mesh: {"of": mesh})
    monkeypatch.setattr(jax, "jit", spy)
    make_train_step(model, optimizer, mesh)
    assert told.count({"of": mesh}) == 1
    make_eval_step(model, mesh)
    assert told.count({"of": mesh}) == 2
