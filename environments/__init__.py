"""The environments that the toolkit ships, one file each; a user's own environment needs nothing from here.

Importing this package registers them with Gymnasium, under the namespace `dyna/`.
"""

import gymnasium

if __name__ != "dyna.environments":
    raise ImportError(f"import dyna.environments instead of {__name__}: two names would make two classes of one thing")

gymnasium.register("dyna/Maze-v0", "dyna.environments.maze:Maze")
gymnasium.register("dyna/ChangingMaze-v0", "dyna.environments.changing_maze:ChangingMaze")
gymnasium.register("dyna/DynaMaze-v0", "dyna.environments.dyna_maze:DynaMaze")
gymnasium.register("dyna/BlockingMaze-v0", "dyna.environments.blocking_maze:BlockingMaze")
gymnasium.register("dyna/ShortcutMaze-v0", "dyna.environments.shortcut_maze:ShortcutMaze")
gymnasium.register(
    "dyna/CartPoleContinuous-v0", "dyna.environments.cart_pole:CartPoleContinuous", max_episode_steps=200
)
gymnasium.register("dyna/CartPoleSwingUp-v0", "dyna.environments.cart_pole:CartPoleSwingUp", max_episode_steps=200)
for _uncut, _of in {"HopperUncut": "Hopper-v5", "Walker2dUncut": "Walker2d-v5"}.items():
    _spec = gymnasium.spec(_of)
    gymnasium.register(
        f"dyna/{_uncut}-v0",
        f"dyna.environments.uncut:{_uncut}",
        reward_threshold=_spec.reward_threshold,
        max_episode_steps=_spec.max_episode_steps,
    )
for _changing, _of in {
    "dyna/ChangingPendulum-v0": "Pendulum-v1",
    "dyna/ChangingCartPoleSwingUp-v0": "dyna/CartPoleSwingUp-v0",
    "dyna/ChangingInvertedPendulum-v0": "InvertedPendulum-v5",
    "dyna/ChangingReacher-v0": "Reacher-v5",
    "dyna/ChangingHopper-v0": "Hopper-v5",
    "dyna/ChangingHalfCheetah-v0": "HalfCheetah-v5",
}.items():
    _limit = gymnasium.spec(_of).max_episode_steps
    _kwargs = {"of": _of} | ({"change": "mass"} if _of == "Reacher-v5" else {})  # gravity does not pull at it
    gymnasium.register(_changing, "dyna.environments.changing:make", kwargs=_kwargs, max_episode_steps=_limit)
