import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtdlm.config import UserError
from rtdlm.parallel.accelerators import ACCELERATORS, by_device_kind, by_name
from rtdlm.parallel.slices import parse_slice, slice_devices


@pytest.mark.parametrize(
    ("text", "written", "count"),
    [
        ("v5e:4x4", "v5e:4x4", 16),
        ("v5p:8x8x8", "v5p:8x8x8", 512),
        ("v5e:16", "v5e:4x4", 16),
        ("v5p:64", "v5p:4x4x4", 64),
        ("h100:16", "h100:16", 16),
        (" CPU:8 ", "cpu:8", 8),
    ],
)
def test_what_is_written_is_what_is_meant(text: str, written: str, count: int) -> None:
    found = parse_slice(text)
    assert (str(found), found.count) == (written, count)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("v9:4x4", "kinds are v4, v5e, v5p, v6e, a100, h100, h200, b200, cpu"),
        ("", "names no kind that is known"),
        ("v5e", "has no number or shape of v5e devices after a colon"),
        ("v5e:", "write them like v5e:4x4, v5p:4x4x4, h100:16 or cpu:8"),
        ("v5e:4x0", "has no number or shape"),
        ("cpu:-8", "has no number or shape"),
        ("cpu:٣", "has no number or shape"),
        ("v5e:4x4x4", "a torus of 2 dimensions; usual shapes are 1x1, 2x2, 2x4"),
        ("v5p:7", "a torus of 3 dimensions"),
        ("h100:4x4", "form no torus; give their number, h100:16"),
        ("cpu:99999", "99,999 devices; give at most 16,384"),
    ],
)
def test_a_mistake_is_one_sentence(text: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        parse_slice(text)


@given(st.text(alphabet="vcpuh15e:x0 -8é\n", max_size=12))
def test_junk_is_a_mistake_or_a_slice(text: str) -> None:
    with contextlib.suppress(UserError):
        assert parse_slice(text).count >= 1


def test_fake_devices_are_as_many_as_asked_for_or_a_sentence() -> None:
    assert len(slice_devices(parse_slice("h100:4"))) == 4
    with pytest.raises(UserError, match="needs 512 fake devices and this process has 8"):
        slice_devices(parse_slice("cpu:512"))


def test_every_kind_is_found_by_its_name_and_by_each_of_its_words() -> None:
    for accelerator in ACCELERATORS:
        assert by_name(accelerator.name) is accelerator
        for words in accelerator.words:
            assert by_device_kind(f"Some {words.upper()} thing") is accelerator
    assert by_device_kind("TPU v7x") is None
