import sysconfig
from pathlib import Path

import pytest

from rtdlm.config.errors import UserError
from rtdlm.data.documents import read_pieces
from rtdlm.data.sources import find_sources


def tree(root: Path) -> Path:
    for name in ["b.txt", "a.md", "sub/z.py", "sub/.git/x", ".hidden", "data.jsonl", "t.parquet",
                 "c.jsonl.gz", "d.txt.zst"]:  # fmt: skip
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    (root / "empty.txt").touch()
    (root / "broken").symlink_to(root / "nowhere")
    return root


def test_a_directory_is_walked_in_order(tmp_path) -> None:
    found = find_sources([str(tree(tmp_path))])
    names = [source.path.relative_to(tmp_path).as_posix() for source in found.sources]
    assert names == [
        "a.md", "b.txt", "c.jsonl.gz", "d.txt.zst", "data.jsonl", "t.parquet", "sub/z.py",
    ]  # fmt: skip
    kinds = {source.path.name: source.kind for source in found.sources}
    assert [kinds[n] for n in ("a.md", "c.jsonl.gz", "d.txt.zst", "data.jsonl", "t.parquet")] == [
        "text", "jsonl", "text", "jsonl", "parquet",
    ]  # fmt: skip
    assert found.passed_over == {"hidden": 2, "empty": 1, "not a file": 1}
    assert not any(source.named for source in found.sources)


def test_arguments_keep_their_order_and_files_come_once(tmp_path) -> None:
    tree(tmp_path)
    found = find_sources([f"{tmp_path}/b.txt", f"{tmp_path}/*.md", str(tmp_path / "sub"),
                          f"{tmp_path}/**/*.py", f"{tmp_path}/./b.txt"])  # fmt: skip
    assert [source.path.name for source in found.sources] == ["b.txt", "a.md", "z.py"]
    assert [source.named for source in found.sources] == [True, False, False]


def test_the_place_that_is_written_to_is_left_out(tmp_path) -> None:
    tree(tmp_path)
    found = find_sources([str(tmp_path)], exclude=tmp_path / "sub")
    assert "z.py" not in [source.path.name for source in found.sources]


def test_what_does_not_exist_is_named(tmp_path) -> None:
    with pytest.raises(UserError, match=r"^.*/none\.txt does not exist; name a file, a directory"):
        find_sources([f"{tmp_path}/none.txt"])
    with pytest.raises(UserError, match=r"^.*/\*\.txt does not exist; name a file, a directory"):
        find_sources([f"{tmp_path}/*.txt"])
    with pytest.raises(UserError, match="no text was named"):
        find_sources([])


def test_empty_text_is_refused(tmp_path) -> None:
    (tmp_path / "empty.txt").touch()
    with pytest.raises(UserError, match=r"empty\.txt is empty; name a file with text"):
        find_sources([f"{tmp_path}/empty.txt"])
    with pytest.raises(UserError, match=r"^no text in .* \(passed over: 1 empty\); name a file"):
        find_sources([str(tmp_path)])


def test_the_python_library_is_code_and_prose() -> None:
    found = find_sources(["python-library"])
    names = [source.name.removeprefix("python-library:") for source in found.sources]
    root = Path(sysconfig.get_path("stdlib"))
    assert {"os.py", "json/decoder.py", "pydoc_data.topics"} <= set(names)
    assert len(set(names)) == len(names)
    banned = {"test", "tests", "site-packages", "__pycache__", "encodings", "idle_test"}
    assert not any(banned & set(Path(name).parts) for name in names)
    assert all((root / name).is_file() for name in names if name != "pydoc_data.topics")
    assert sum(source.size for source in found.sources) > 5_000_000
    topics = list(read_pieces(found.sources[names.index("pydoc_data.topics")], limit=1 << 18))
    assert len(topics) > 50
    assert any("lambda" in piece.text for piece in topics)
    assert find_sources(["python-library"]) == found
