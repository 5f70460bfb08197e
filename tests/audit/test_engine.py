import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from captum_robust.audit import engine
from captum_robust.audit.store import BatchResult, BatchStore


class Alone:
    rank, count = 0, 1

    def wait(self) -> None:
        pass


class OneOfTwo(Alone):
    def __init__(self, rank: int) -> None:
        self.rank, self.count = rank, 2


def numbered(inputs, labels, first):
    rows = [{"index": first + i, "value": inputs[i].item()} for i in range(len(inputs))]
    return BatchResult(rows, {})


def loader():
    return DataLoader(TensorDataset(torch.arange(7.0), torch.arange(7)), batch_size=3)


def rows_of(store):
    return [row for batch in store.results(3) for row in batch.rows()]


def test_every_example_is_measured_once_and_in_order(tmp_path):
    store = BatchStore(tmp_path, {})
    assert engine.run(numbered, loader(), store, Alone()) == 3
    assert rows_of(store) == [{"index": i, "value": float(i)} for i in range(7)]


def test_two_processes_share_the_batches(tmp_path):
    for rank in (1, 0):
        store = BatchStore(tmp_path, {})
        engine.run(numbered, loader(), store, OneOfTwo(rank))
    assert [row["index"] for row in rows_of(store)] == list(range(7))


def test_a_finished_batch_is_not_measured_again(tmp_path):
    store = BatchStore(tmp_path, {})
    engine.run(numbered, loader(), store, Alone())

    def never(inputs, labels, first):
        raise AssertionError

    engine.run(never, loader(), store, Alone())
    assert len(rows_of(store)) == 7


def test_batches_of_other_examples_do_not_count(tmp_path):
    store = BatchStore(tmp_path, {})
    engine.run(numbered, loader(), store, Alone())
    for size, values in ((2, torch.arange(7.0)), (3, torch.arange(7.0) + 1)):
        data = TensorDataset(values, torch.arange(7))
        with pytest.raises(ValueError, match="other examples"):
            engine.run(numbered, DataLoader(data, size), store, Alone())


def test_a_batch_without_memory_is_halved(tmp_path):
    sizes = []

    def greedy(inputs, labels, first):
        sizes.append(len(inputs))
        if len(inputs) > 1:
            raise torch.cuda.OutOfMemoryError("no memory")
        assert labels.item() == inputs.item()
        return numbered(inputs, labels, first)

    store = BatchStore(tmp_path, {})
    engine.run(greedy, loader(), store, Alone())
    assert [row["index"] for row in rows_of(store)] == list(range(7))
    assert max(sizes) == 3

    def hopeless(inputs, labels, first):
        raise torch.cuda.OutOfMemoryError("no memory")

    with pytest.raises(torch.cuda.OutOfMemoryError):
        engine.run(hopeless, loader(), BatchStore(tmp_path / "other", {}), Alone())


def test_what_a_loader_may_yield():
    x, y = torch.zeros(2), torch.ones(2)
    assert engine.unpack(x) == (x, None)
    assert engine.unpack([x, y]) == (x, y)
    assert engine.unpack((x, "names")) == (x, None)
    with pytest.raises(TypeError, match="loader must yield tensors"):
        engine.unpack({"pixels": x})


def test_a_loader_without_batches(tmp_path):
    with pytest.raises(ValueError, match="loader yields nothing"):
        engine.run(numbered, [], BatchStore(tmp_path, {}), Alone())
