import numpy as np
import pytest

from captum_robust.audit.store import BatchResult, BatchStore

ROWS = [{"index": 0, "explanations": {"a": {"x": 0.5, "failed": False, "indicators": ["y"]}}}]


def test_what_is_saved_comes_back_in_order(tmp_path):
    store = BatchStore(tmp_path, {"eps": 0.1})
    pictures = {"a\n0\ninput": np.arange(4, dtype=np.float32)}
    store.save(1, BatchResult([{"index": 5}], {}))
    store.save(0, BatchResult(ROWS, pictures))
    assert store.has(0)
    assert not store.has(2)
    found = [
        (batch.rows(), {name: batch.picture(name) for name in batch.pictures})
        for batch in store.results(2)
    ]
    assert [rows for rows, _ in found] == [ROWS, [{"index": 5}]]
    assert np.array_equal(found[0][1]["a\n0\ninput"], pictures["a\n0\ninput"])
    assert not found[1][1]


def test_a_write_that_fails_leaves_nothing(tmp_path):
    store = BatchStore(tmp_path, {})
    before = sorted(tmp_path.iterdir())
    with pytest.raises(TypeError):
        store.save(0, BatchResult([{"index": object()}], {}))
    assert sorted(tmp_path.iterdir()) == before
    assert not store.has(0)


def test_a_folder_of_another_audit_is_refused(tmp_path):
    BatchStore(tmp_path, {"eps": 0.1, "seed": 0})
    BatchStore(tmp_path, {"eps": 0.1, "seed": 0})
    with pytest.raises(ValueError, match=r"another audit \(eps differ\)"):
        BatchStore(tmp_path, {"eps": 0.2, "seed": 0})
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="is a file"):
        BatchStore(tmp_path / "file", {})


def test_other_examples_are_refused(tmp_path):
    store = BatchStore(tmp_path, {})
    store.save(0, BatchResult(ROWS, {}), "these")
    assert store.has(0, "these")
    with pytest.raises(ValueError, match="batch 0 with other examples"):
        store.has(0, "those")


def test_no_object_is_ever_unpickled(tmp_path):
    store = BatchStore(tmp_path, {})
    np.savez(tmp_path / "batch-00000000.npz", rows=np.array([{"evil": 1}], dtype=object))
    with pytest.raises(ValueError, match="allow_pickle"):
        [batch.rows() for batch in store.results(1)]


def test_a_temporary_folder_goes_with_the_store():
    store = BatchStore(None, {})
    folder = store.folder
    assert folder.is_dir()
    store.close()
    assert not folder.exists()
