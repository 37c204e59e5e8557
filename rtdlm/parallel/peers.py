"""Short messages between the processes of a run, through JAX's own coordination service.

For decisions that all must take alike (stop after this step, this checkpoint is complete) and that
no device needs to know. Every name is used once.
"""

import json
from typing import Any

import jax
from jax._src import distributed  # the service has no public face yet

PATIENCE_MILLISECONDS = 24 * 3600 * 1000
"""Long, since someone who died ends all others by itself."""


class Peers:
    """This process among the others; alone it talks to itself.

    Attributes:
        process: number of this process, from 0.
        count: processes.
        leads: whether this one decides.
    """

    def __init__(self) -> None:
        self.process, self.count = jax.process_index(), jax.process_count()
        self.leads = self.process == 0

    def say(self, name: str, value: Any) -> None:
        """Puts `value`, plain JSON, under `name` for all the others."""
        if self.count == 1:
            return
        self._client.key_value_set(f"rtdlm/{name}", json.dumps(value))

    def hear(self, name: str) -> Any:
        """What someone says, or will say, under `name`."""
        return json.loads(
            self._client.blocking_key_value_get(f"rtdlm/{name}", PATIENCE_MILLISECONDS)
        )

    def forget(self, name: str) -> None:
        """Makes room: nobody will hear `name` any more."""
        if self.count == 1:
            return
        self._client.key_value_delete(f"rtdlm/{name}")

    def follow(self, name: str, value: Any) -> Any:
        """What the leader passes as `value`, in every process."""
        if self.count == 1:
            return value
        if self.leads:
            self.say(name, value)
            return value
        return self.hear(name)

    def gather(self, name: str, value: Any) -> list[Any]:
        """What every process passes as `value`, by number."""
        if self.count == 1:
            return [value]
        self.say(f"{name}/{self.process}", value)
        return [self.hear(f"{name}/{number}") for number in range(self.count)]

    def said(self, name: str) -> dict[str, Any]:
        """What is said so far under names that begin with `name`/; waits for nothing."""
        if self.count == 1:
            return {}
        found = self._client.key_value_dir_get(f"rtdlm/{name}/")
        return {key.rpartition("/")[2]: json.loads(text) for key, text in found}

    @property
    def _client(self) -> Any:
        return distributed.global_state.client
