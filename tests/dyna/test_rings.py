"""A ring keeps the newest rows, and all columns of a row together."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from dyna.rings import Ring


@given(batches=st.lists(st.integers(1, 4), max_size=12))
def test_it_keeps_the_newest_rows_whole(batches: list[int]) -> None:
    ring, seen = Ring(5, {"a": 1, "b": 2}), 0
    for count in batches:
        rows = torch.arange(seen, seen + count, dtype=torch.float32)[:, None]
        ring.add(a=rows, b=torch.cat([rows, -rows], dim=1))
        seen += count
    kept = ring.all()
    assert sorted(kept["a"].flatten().tolist()) == list(range(max(0, seen - 5), seen))
    assert ring.newest(3)["a"].flatten().tolist() == list(range(seen - 1, max(seen - 4, -1), -1))
    assert torch.equal(kept["b"], torch.cat([kept["a"], -kept["a"]], dim=1))


def test_rows_come_in_proportion_to_their_weight() -> None:
    ring, rng = Ring(8, {"a": 1}), torch.Generator().manual_seed(0)
    ring.add(a=torch.arange(3.0)[:, None])
    drawn = ring.sample(4_000, rng=rng, weights=torch.tensor([0.0, 1.0, 3.0]))["a"].flatten()
    assert (drawn == 0).sum() == 0 and 0.7 < float((drawn == 2).float().mean()) < 0.8
    assert set(ring.sample(100, rng=rng)["a"].flatten().tolist()) == {0.0, 1.0, 2.0}


def test_it_goes_on_as_it_was() -> None:
    ours, others = Ring(3, {"a": 1}), Ring(3, {"a": 1})
    for i in range(5):
        ours.add(a=torch.full((1, 1), float(i)))
    others.load_state_dict(ours.state_dict())
    for ring in (ours, others):
        ring.add(a=torch.full((1, 1), 9.0))
    assert torch.equal(ours.all()["a"], others.all()["a"])
