"""Laws of what is suspected of a changed world, and of what is proven."""

from pathlib import Path

import gymnasium as gym

from dyna.algorithms.planfirst import PlanFirst
from dyna.changes import FEWEST, Changes


def test_a_suspicion_waits_until_there_is_something_to_judge_it_by() -> None:
    changes = Changes()
    assert not changes.can_be_judged(10_000) and changes.lessons(500, 500, suspected=True) is None
    changes.suspect("reward", 400)
    assert not changes.can_be_judged(400 + FEWEST - 1) and changes.can_be_judged(400 + FEWEST)
    assert changes.lessons(500, 500) is None, "nothing is proven"
    lessons = changes.lessons(500, 500, suspected=True)
    assert lessons is not None and lessons.sum(0).tolist() == [500, 100, 500] and lessons[400:].all()


def test_who_is_accused_in_vain_keeps_what_it_knows() -> None:
    changes = Changes()
    changes.suspect("reward", 400)
    changes.suspect("dynamics", 410)
    assert changes.judge(["dynamics", "termination"]) == {"dynamics": 410}
    assert not changes.suspected and changes.proven == {"dynamics": 410}
    changes.suspect("dynamics", 300)
    assert changes.suspected == {"dynamics": 410}, "what was before is forgotten already"


def test_refits_follow_the_growth_of_what_is_known_of_the_new_world() -> None:
    changes = Changes()
    assert not changes.wants_refit(1_000, 900)
    changes.suspect("reward", 800)
    changes.judge(["reward"])
    assert not changes.wants_refit(949, 900) and changes.wants_refit(950, 900)
    changes.count_anew(1_000)
    assert changes.proven == {"reward": -200} and not changes.wants_refit(149, 100)


def test_a_saved_agent_knows_from_when_on_it_learns(tmp_path: Path) -> None:
    agent = PlanFirst(env=gym.make("Pendulum-v1"))
    agent.changes.proven = {"reward": 700}
    agent.save(tmp_path / "agent")
    assert PlanFirst.load(tmp_path / "agent").changes.proven == {"reward": 700}
