"""The algorithms: one file each, and below the table by which `dyna train --algo NAME` finds them.

A new algorithm is a new file here and a line in the table; `from dyna.algorithms import MBPO` follows from it.
"""

from __future__ import annotations

import importlib
from typing import Any

if __name__ != "dyna.algorithms":
    raise ImportError(f"import dyna.algorithms instead of {__name__}: two names would make two classes of an algorithm")

TABLE: dict[str, str | tuple[str, ...]] = {
    "planfirst": ("dyna.algorithms.planfirst:PlanFirst", "dyna.algorithms.planfirst_discrete:DiscretePlanFirst"),
    "dhmbpo": "dyna.algorithms.dhmbpo:DHMBPO",
    "mbpo": "dyna.algorithms.mbpo:MBPO",
    "mbdqn": "dyna.algorithms.mbdqn:MBDQN",
    "pets": "dyna.algorithms.pets:PETS",
    "dyna-q": "dyna.algorithms.dyna_q:DynaQ",
    "dyna-q-plus": "dyna.algorithms.dyna_q_plus:DynaQPlus",
    "prioritized-sweeping": "dyna.algorithms.prioritized_sweeping:PrioritizedSweeping",
    "q-learning": "dyna.algorithms.q_learning:QLearning",
    "sac": "stable_baselines3:SAC",
    "td3": "stable_baselines3:TD3",
    "ddpg": "stable_baselines3:DDPG",
    "ppo": "stable_baselines3:PPO",
    "a2c": "stable_baselines3:A2C",
    "dqn": "stable_baselines3:DQN",
    "tqc": "sb3_contrib:TQC",
    "crossq": "sb3_contrib:CrossQ",
    "trpo": "sb3_contrib:TRPO",
    "qrdqn": "sb3_contrib:QRDQN",
    "ars": "sb3_contrib:ARS",
    "ppo_lstm": "sb3_contrib:RecurrentPPO",
}
"""An algorithm's name and the address of its class, imported when it is first asked for; of several classes that share
a name, the first that takes an environment's actions. The doctor recommends the first that fits and dreams."""

_ALL = (each for found in TABLE.values() for each in ((found,) if isinstance(found, str) else found))
_ADDRESSES = {address.partition(":")[2]: address for address in _ALL}
__all__ = [name for name, address in _ADDRESSES.items() if address.startswith("dyna.")]


def __getattr__(name: str) -> Any:
    if name not in _ADDRESSES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}: it has {', '.join(_ADDRESSES)}")
    return getattr(importlib.import_module(_ADDRESSES[name].partition(":")[0]), name)


def __dir__() -> list[str]:
    return [*globals(), *_ADDRESSES]
