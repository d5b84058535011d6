"""The ring of imagined rows, and its mixture with real ones."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from dyna.buffers import ImaginedBuffer, MixedReplay, PackedNStepReplayBuffer, PackedReplayBuffer
from dyna.errors import UserError
from dyna.types import ImaginedTransitions

S, A = 3, 1


def dreams(ids: list[int], version: list[int]) -> ImaginedTransitions:
    """Rows that can be told apart: every column follows from the id."""
    i = torch.tensor(ids, dtype=torch.float32)
    obs = i[:, None] * 10 + torch.arange(S)
    depth, versions = i.long() % 7, torch.tensor(version, dtype=torch.int64)
    return ImaginedTransitions(obs, -i[:, None], i / 2, obs + 1, i % 2, depth, i / 4, versions)


def assert_rows(rows: ImaginedTransitions, expected: list[tuple[int, int]]) -> None:
    """Every row is one of (id, version), all columns together."""
    ids = [round(-x) for x in rows.action[:, 0].tolist()]
    versions = dict(expected)
    assert set(ids) <= set(versions)
    for part, should in zip(rows, dreams(ids, [versions[i] for i in ids]), strict=True):
        assert part.dtype == should.dtype and torch.equal(part, should)


def ring(capacity: int = 10) -> ImaginedBuffer:
    return ImaginedBuffer(capacity, S, A, rng=np.random.default_rng(0))


def stored(buffer: ImaginedBuffer) -> list[tuple[int, int]]:
    rows = buffer._store.rows[buffer._in_order()]
    return [(round(-row[S]), round(row[-1 - (len(row) - buffer._store.width)])) for row in rows.tolist()]


adds = st.tuples(st.just("add"), st.integers(0, 9), st.integers(0, 2))  # rows, refits before them
others = st.tuples(st.sampled_from(["drop", "resize"]), st.integers(1, 12), st.just(0))


@given(st.integers(1, 12), st.lists(st.one_of(adds, adds, others, st.just(("clear", 0, 0))), max_size=12))
def test_the_ring_is_a_list_whose_oldest_rows_give_way(capacity: int, acts: list[tuple[str, int, int]]) -> None:
    buffer, twin = ring(capacity), []
    count = version = 0
    for act, n, refits in acts:
        if act == "add":
            version += refits
            ids = list(range(count, count + n))
            count += n
            buffer.add(dreams(ids, [version] * n))
            twin += [(i, version) for i in ids]
        elif act == "drop":
            kept = [row for row in twin if row[1] >= n - 3]
            assert buffer.drop_older_than(n - 3) == len(twin) - len(kept)
            twin = kept
        elif act == "resize":
            capacity = n
            buffer.resize(n)
        else:
            buffer.clear()
            twin = []
        twin = twin[-capacity:]
        assert stored(buffer) == twin
        assert (buffer.size, buffer.capacity) == (len(twin), capacity)
        if twin:
            assert_rows(buffer.sample(6), twin)
            transitions = buffer.sample_transitions(6)
            assert {-x for x in transitions.action[:, 0].tolist()} <= {i for i, _ in twin}
            assert torch.equal(transitions.next_obs, transitions.obs + 1)
            assert torch.equal(transitions.reward, -transitions.action[:, 0] / 2)


def test_all_stored_rows_are_drawn_alike() -> None:
    buffer = ring()
    buffer.add(dreams(list(range(8)), [0] * 8))
    buffer.add(dreams(list(range(8, 16)), [0] * 8))  # around the end of the ring: the last ten stay
    ids = -buffer.sample_transitions(10_000).action[:, 0].numpy()
    counts = np.bincount(ids.astype(int), minlength=16)
    assert counts[:6].sum() == 0 and (np.abs(counts[6:] - 1_000) < 150).all()


def test_versions_must_not_fall() -> None:
    buffer = ring()
    buffer.add(dreams([1], [3]))
    with pytest.raises(ValueError, match="after 3"):
        buffer.add(dreams([2], [2]))
    with pytest.raises(ValueError, match="must not fall"):
        buffer.add(dreams([2, 3], [5, 4]))
    assert stored(buffer) == [(1, 3)]


@pytest.mark.parametrize("rows", [0, 4, 14])
def test_a_restored_ring_draws_the_same(rows: int) -> None:
    buffer, other = ring(), ring(3)
    for i in range(rows):
        buffer.add(dreams([i], [i]))
    buffer.drop_older_than(2)
    other.load_state_dict(copy.deepcopy(buffer.state_dict()))
    for each in (buffer, other):
        each.add(dreams([99], [99]))
    assert stored(buffer) == stored(other)
    for _ in range(3):
        assert all(torch.equal(x, y) for x, y in zip(buffer.sample(9), other.sample(9), strict=True))


def test_misuses_are_refused_in_a_sentence() -> None:
    with pytest.raises(UserError, match="capacity 0"):
        ring(0)
    with pytest.raises(UserError, match="empty"):
        ring().sample(1)
    with pytest.raises(UserError, match="empty"):
        ring().sample_transitions(1)
    with pytest.raises(UserError, match="wide"):
        ring().load_state_dict(ImaginedBuffer(5, 20, 2).state_dict())


def real(seed: int = 0, rows: int = 20, cls: type[PackedReplayBuffer] = PackedReplayBuffer) -> PackedReplayBuffer:
    space = spaces.Box(-np.inf, np.inf, (S,)), spaces.Box(-1, 1, (A,))
    buffer = cls(rows, *space, device="cpu", rng=np.random.default_rng(seed))
    for i in range(rows):
        obs = np.full((1, S), -1.0 - i)
        buffer.add(obs, obs, np.full((1, A), 0.5), np.zeros(1), np.zeros(1), [{}])
    return buffer


def full_ring() -> ImaginedBuffer:
    buffer = ring()
    buffer.add(dreams(list(range(10)), [0] * 10))
    return buffer


def real_rows(batch: Any) -> int:
    obs = getattr(batch, "obs", getattr(batch, "observations", None))
    is_real = obs[:, 0] < 0
    assert torch.equal(is_real, torch.arange(len(obs)) < is_real.sum())  # the real ones come first
    return int(is_real.sum())


@given(st.floats(0, 1), st.lists(st.integers(0, 40), min_size=1, max_size=20))
def test_every_batch_holds_the_real_share(share: float, batches: list[int]) -> None:
    mixed = MixedReplay(real(), full_ring(), share)
    total = 0
    for i, n in enumerate(batches):
        rows = real_rows(mixed.sample_transitions(n) if i % 2 else mixed.sample(n))
        total += rows
        assert abs(rows - share * n) <= 1 + 1e-9
        assert abs(total - share * sum(batches[: i + 1])) <= 0.5 + 1e-9  # and the long-run share is exact


def test_a_share_that_divides_the_batch_is_kept_exactly() -> None:
    mixed = MixedReplay(real(), full_ring(), 0.25)
    assert {real_rows(mixed.sample(64)) for _ in range(10)} == {16}


def test_real_share_one_never_touches_imagined_rows() -> None:
    imagined, alone = full_ring(), real()
    mixed, before = MixedReplay(real(), imagined, 1.0), imagined.state_dict()["random"]
    for _ in range(5):
        for x, y in zip(mixed.sample(16)[:5], alone.sample(16)[:5], strict=True):
            assert torch.equal(x, y)
    assert imagined.state_dict()["random"] == before


def test_real_share_zero_never_touches_real_rows() -> None:
    buffer = real()
    before = buffer.state_dict()["random"]
    assert real_rows(MixedReplay(buffer, full_ring(), 0.0).sample(64)) == 0
    assert buffer.state_dict()["random"] == before


def test_all_rows_are_real_while_nothing_is_imagined() -> None:
    imagined = ring()
    mixed = MixedReplay(real(), imagined, 0.5)
    assert real_rows(mixed.sample(10)) == 10
    imagined.add(dreams([1], [0]))
    assert real_rows(mixed.sample(10)) == 5  # no debt was run up
    imagined.clear()
    assert real_rows(mixed.sample(10)) == 10


@given(st.integers(0, 30), st.integers(0, 25))
def test_of_the_real_rows_only_the_newest_are_drawn_where_that_is_said(more: int, newest: int) -> None:
    buffer = real()
    for i in range(more):
        buffer.add(*[np.full((1, S), float(i))] * 2, np.zeros((1, A)), np.zeros(1), np.zeros(1), [{}])
    rows = MixedReplay(buffer, ring(), 0.5).sample_transitions(40, newest)
    allowed = {tuple(row) for row in buffer.all_transitions().at(slice(-max(newest, 1), None)).obs.tolist()}
    assert {tuple(row) for row in rows.obs.tolist()} <= allowed


def test_a_restored_mixture_splits_the_same() -> None:
    mixed = MixedReplay(real(), full_ring(), 0.3)
    mixed.sample(7)
    other = MixedReplay(real(), full_ring(), 0.3)
    other.load_state_dict(mixed.state_dict())
    assert [real_rows(mixed.sample(7)) for _ in range(10)] == [real_rows(other.sample(7)) for _ in range(10)]


def test_both_kinds_of_rows_are_normalised() -> None:
    env = VecNormalize(make_vec_env("Pendulum-v1", 1, seed=0))
    env.obs_rms.mean, env.obs_rms.var, env.clip_obs = np.ones(S), np.full(S, 4.0), 1e9
    raw, normalised = (MixedReplay(real(), full_ring(), 0.5).sample(8, e) for e in (None, env))
    torch.testing.assert_close(normalised.observations, (raw.observations - 1) / 2, rtol=1e-5, atol=1e-5)


def test_a_mixture_that_makes_no_sense_is_refused() -> None:
    for share in (-0.1, 1.5, float("nan")):
        with pytest.raises(UserError, match=str(share)):
            MixedReplay(real(), ring(), share)
    with pytest.raises(UserError, match="single steps"):
        MixedReplay(real(cls=PackedNStepReplayBuffer), ring(), 0.5)
    with pytest.raises(ValueError, match="sizes"):
        MixedReplay(real(), ImaginedBuffer(5, S + 1, A), 0.5)
