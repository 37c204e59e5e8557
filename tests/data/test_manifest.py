import json

import pytest

from rtdlm.config.errors import UserError
from rtdlm.data import read_manifest
from tests.data.corpora import prepare_bytes, write_stories


def test_a_directory_without_manifest_is_refused(tmp_path) -> None:
    with pytest.raises(UserError, match=r"has no manifest\.json; run `python -m rtdlm\.prepare`"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda tree: json.dumps(tree)[:-9], r"manifest\.json is not readable JSON"),
        (lambda tree: "[]", "holds no JSON object"),
        (lambda tree: json.dumps(tree | {"format": 9}), "has format 9, expected 1"),
        (lambda tree: json.dumps(tree | {"shards": [{"file": "a"}]}), "lacks or mistypes a field"),
        (lambda tree: json.dumps(tree | {"totals": 3}), "lacks or mistypes a field"),
        (lambda tree: json.dumps({"format": 1}), "lacks or mistypes a field"),
    ],
)
def test_an_unreadable_manifest_is_refused(tmp_path, change, found) -> None:
    prepare_bytes([write_stories(tmp_path / "text", count=50)], tmp_path / "out")
    path = tmp_path / "out" / "manifest.json"
    path.write_text(change(json.loads(path.read_text())))
    with pytest.raises(UserError, match=found):
        read_manifest(tmp_path / "out")
