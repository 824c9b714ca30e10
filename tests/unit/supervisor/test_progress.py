"""How far a start is: one number of all ranks."""

from __future__ import annotations

from gllm.supervisor.progress import LoadProgress
from gllm.wire.messages import ProcessStatus


def loading(rank: int, progress: float, state: str = "loading") -> ProcessStatus:
    return ProcessStatus(role=f"worker-{rank}", epoch=0, pid=1, state=state, progress=progress)


def test_ranks_count_alike() -> None:
    loaded = LoadProgress(4)
    assert loaded.share is None
    assert loaded.update(loading(0, 0.5))
    assert loaded.share == 0.125
    assert [loaded.update(loading(rank, 1.0)) for rank in range(4)] == [True] * 4
    assert loaded.share == 1.0


def test_less_than_a_hundredth_is_no_news() -> None:
    loaded = LoadProgress(1)
    news = [loaded.update(loading(0, at / 1000)) for at in range(1001)]
    assert sum(news) == 101
    assert not loaded.update(loading(0, 0.0, state="starting"))


def test_a_new_epoch_begins_anew() -> None:
    loaded = LoadProgress(1)
    loaded.update(loading(0, 1.0))
    loaded.start()
    assert loaded.share is None
    assert loaded.update(loading(0, 0.0))
