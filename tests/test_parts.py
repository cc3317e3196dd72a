from pathlib import Path

import pytest

from moleblend.files import Parts, file_sha256, parts_folder


@pytest.fixture
def parts(tmp_path: Path) -> Parts:
    return Parts(tmp_path / "out.csv", "arrow", "run")


def test_what_is_begun_can_be_resumed_as_it_began(parts: Parts) -> None:
    parts.settle({"model": "a", "rows": 3}, resume=False)
    parts.path(11).touch()
    parts.path(2).touch()
    (parts.folder / ".shard-00012.arrow.ab").touch()  # what a killed process was writing
    assert [path.name for path in parts.whole()] == ["shard-00002.arrow", "shard-00011.arrow"]
    with pytest.raises(ValueError, match="holds an unfinished run: --resume goes on with it"):
        parts.settle({"model": "a", "rows": 3}, resume=False)
    with pytest.raises(ValueError, match="these differ: model, views; remove the folder"):
        parts.settle({"model": "b", "rows": 3, "views": "2d"}, resume=True)
    parts.settle({"model": "a", "rows": 3}, resume=True)
    assert len(list(parts.folder.iterdir())) == 3
    parts.remove()
    assert not parts.folder.exists()
    with pytest.raises(ValueError, match="there is no unfinished run to be resumed"):
        parts.settle({}, resume=True)


def test_one_that_left_no_part_is_begun_anew(parts: Parts) -> None:
    parts.settle({"model": "a"}, resume=False)
    parts.settle({"model": "b"}, resume=False)
    parts.settle({"model": "b"}, resume=True)


def test_names_and_hashes(tmp_path: Path) -> None:
    assert parts_folder(tmp_path / "a.csv") == tmp_path / ".a.csv.parts"
    (tmp_path / "a").write_bytes(b"abc")
    assert file_sha256(tmp_path / "a").startswith("ba7816bf8f01cfea")
