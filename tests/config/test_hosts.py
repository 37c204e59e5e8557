"""Patience that makes no sense is refused by name."""

from typing import Any

import pytest

from rtdlm.config import AGIConfig, HostsConfig, UserError


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"start_seconds": 0.5}, "hosts.start_seconds=0.5 must be at least 1"),
        ({"silent_seconds": 4}, "hosts.silent_seconds=4 must be at least 5"),
        ({"step_seconds": -1.0}, "hosts.step_seconds=-1.0 must be at least 0"),
        (
            {"step_seconds": float("inf")},
            "hosts.step_seconds=inf is not finite; use a plain number",
        ),
        (
            {"start_seconds": float("nan")},
            "hosts.start_seconds=nan is not finite; use a plain number",
        ),
    ],
)
def test_an_impossible_patience_is_one_sentence(given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError) as error:
        AGIConfig.from_preset("tiny", hosts=given)
    assert str(error.value) == sentence


@pytest.mark.parametrize(
    "given", [{"start_seconds": 1.0}, {"silent_seconds": 5}, {"step_seconds": 0.0}]
)
def test_the_least_patience_is_allowed(given: dict[str, Any]) -> None:
    config = AGIConfig.from_preset("tiny", hosts=given)
    assert {name: getattr(config.hosts, name) for name in given} == given


def test_only_several_processes_are_watched_by_default() -> None:
    own, given = HostsConfig(), HostsConfig(step_seconds=7.0)
    assert [own.step_limit(count) for count in (1, 2)] == [0.0, 1800.0]
    assert [given.step_limit(count) for count in (1, 2)] == [7.0, 7.0]
