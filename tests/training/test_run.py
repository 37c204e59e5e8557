"""What `run` adds to the loop: advice instead of a runtime's error message."""

import jax
import pytest

from rtdlm.config import UserError
from rtdlm.training.run import _enough_memory


def test_running_out_of_memory_is_told_with_what_to_do() -> None:
    message = "RESOURCE_EXHAUSTED: Out of memory allocating 2000000000 bytes."
    with pytest.raises(UserError) as caught, _enough_memory():
        raise jax.errors.JaxRuntimeError(message)
    assert str(caught.value) == (
        "the devices' memory does not hold the step (2.0 GB in one piece); lower batch_size or "
        "max_seq_len, raise accumulate_steps, or set remat=full"
    )


def test_any_other_error_of_the_runtime_stays_what_it_is() -> None:
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL: odd"), _enough_memory():
        raise jax.errors.JaxRuntimeError("INTERNAL: odd")
