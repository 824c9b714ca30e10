"""The share of the weights that all ranks have loaded."""

from __future__ import annotations

from gllm.supervisor.progress import LoadProgress
from gllm.wire.messages import ProcessStatus


def loading(rank: int, progress: float, state: str = "loading") -> ProcessStatus:
    return ProcessStatus(role=f"worker-{rank}", epoch=0, pid=1, state=state, progress=progress)


def test_ranks_count_equally() -> None:
    loaded = LoadProgress(4)
    assert loaded.share is None
    assert loaded.update(loading(0, 0.5))
    assert loaded.share == 0.125
    assert [loaded.update(loading(rank, 1.0)) for rank in range(4)] == [True] * 4
    assert loaded.share == 1.0


def test_less_than_a_hundredth_is_not_reported() -> None:
    loaded = LoadProgress(1)
    news = [loaded.update(loading(0, at / 1000)) for at in range(1001)]
    assert sum(news) == 101
    assert not loaded.update(loading(0, 0.0, state="starting"))


def test_an_epoch_begins_at_zero() -> None:
    loaded = LoadProgress(1)
    loaded.update(loading(0, 1.0))
    loaded.start()
    assert loaded.share is None
    assert loaded.update(loading(0, 0.0))
