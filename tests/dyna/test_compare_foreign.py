"""Curves from elsewhere: published CSV, SB3's and RL Zoo's logs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dyna import cli
from dyna.compare import foreign
from dyna.errors import UserError

ZOO = """!!python/object/apply:collections.OrderedDict
- - - algo
    - sac
  - - env
    - Hopper-v4
  - - hyperparams
    - null
  - - seed
    - 1014654867
"""


def npz(folder: Path) -> None:
    folder.mkdir(parents=True)
    np.savez(folder / "evaluations.npz", timesteps=np.array([100, 200]), results=np.array([[1.0, 3.0], [5.0, 7.0]]))


def test_a_published_curve(tmp_path: Path) -> None:
    path = tmp_path / "paper.csv"
    path.write_text("Algo, env, seed, step, return, note\nREDQ,Hopper-v5,1,2000,30,x\nREDQ,Hopper-v5,1,1000,20.5,y\n")
    (curve,) = foreign.read(path)
    assert (curve.env, curve.label, curve.seed, curve.source) == ("Hopper-v5", "REDQ", 1, str(path))
    assert curve.steps.tolist() == [1000, 2000] and curve.returns.tolist() == [20.5, 30] and curve.seconds is None


def test_seconds_count_where_every_row_has_them(tmp_path: Path) -> None:
    path = tmp_path / "paper.csv"
    rows = "A,E-v0,0,1,2,10\nA,E-v0,0,2,3,20\nB,E-v0,0,1,2,10\nB,E-v0,0,2,3,\n"
    path.write_text(f"algo,env,seed,step,return,seconds\n{rows}")
    first, second = foreign.read(path)
    assert first.seconds is not None and first.seconds.tolist() == [10, 20] and second.seconds is None


def test_sb3_s_evaluations_are_means_over_their_episodes(tmp_path: Path) -> None:
    npz(tmp_path / "my_sac")
    (tmp_path / "my_sac" / "monitor.csv").write_text('#{"t_start": 0.0, "env_id": "Hopper-v5"}\nr,l,t\n1,10,0.5\n')
    (curve,) = foreign.read(tmp_path)
    assert (curve.env, curve.label, curve.seed) == ("Hopper-v5", "my_sac", 0)
    assert curve.steps.tolist() == [100, 200] and curve.returns.tolist() == [2, 6] and curve.seconds is None


@pytest.mark.parametrize("name", ["sac_3", "sac_seed3", "sac_seed_3", "sac/Hopper-v5_3", "sac/Hopper-v5_seed3"])
def test_a_folder_s_number_is_the_seed(tmp_path: Path, name: str) -> None:
    npz(tmp_path / name)
    (tmp_path / name / "monitor.csv").write_text('#{"t_start": 0.0, "env_id": "Hopper-v5"}\nr,l,t\n1,10,0.5\n')
    (curve,) = foreign.read(tmp_path)
    assert (curve.env, curve.label, curve.seed) == ("Hopper-v5", "sac", 3)


@pytest.mark.parametrize("name", ["logs", "sac_1", "my_sac"])
def test_evaluations_of_nobody_knows_what_are_not_drawn_under_a_wrong_name(tmp_path: Path, name: str) -> None:
    npz(tmp_path / name)
    with pytest.raises(UserError, match=f"{name} does not tell the environment of its evaluations: keep its monitor"):
        foreign.read(tmp_path)


def test_rl_zoo_s_arguments_name_the_curve_and_run_no_code(tmp_path: Path) -> None:
    npz(tmp_path / "logs" / "sac" / "Hopper-v4_3")
    (tmp_path / "logs" / "sac" / "Hopper-v4_3" / "Hopper-v4").mkdir()
    (tmp_path / "logs" / "sac" / "Hopper-v4_3" / "Hopper-v4" / "args.yml").write_text(ZOO)
    npz(tmp_path / "logs" / "td3" / "Ant-v4_2")  # its arguments were lost
    found = foreign.read(tmp_path / "logs")
    assert [(curve.env, curve.label, curve.seed) for curve in found] == [
        ("Hopper-v4", "sac", 1014654867),
        ("Ant-v4", "td3", 2),
    ]


def test_monitors_alone_give_the_mean_of_the_last_hundred_episodes(tmp_path: Path) -> None:
    head = '#{"t_start": 0.0, "env_id": "E-v0"}\nr,l,t\n'
    (tmp_path / "0.monitor.csv").write_text(head + "".join(f"{i},10,{2 * i}.0\n" for i in range(75)))
    (tmp_path / "1.monitor.csv").write_text(head + "".join(f"{i},10,{2 * i + 1}.0\n" for i in range(75)))
    (curve,) = foreign.read(tmp_path)
    assert curve.steps[-1] == 1500 and curve.returns[1] == 0 and curve.returns[-1] == np.mean([*range(25, 75)])
    assert curve.seconds is not None and curve.seconds[-1] == 149


MISTAKES = {
    "": "lacks the column 'algo'",
    "algo,env,step\nA,E,1": "lacks the column 'return': it needs algo, env, seed, step, return",
    "algo,env,step,return\nA,E,1,many": "line 2: return must be a number, got 'many'",
    "algo,env,step,return\nA,E,1,2\nA,E,1,3": "two returns for one step of A on E, seed 0",
    "algo,env,step,return\nA,E,1,nan": "that is no finite number",
}


@pytest.mark.parametrize("text", MISTAKES)
def test_a_file_that_is_no_curve_is_told(tmp_path: Path, text: str) -> None:
    path = tmp_path / "mine.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=MISTAKES[text]):
        foreign.read(path)


def test_what_holds_no_curve_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there are no curves in"):
        foreign.read(tmp_path)
    (tmp_path / "evaluations.npz").write_bytes(b"PK")
    with pytest.raises(UserError, match="is no log of SB3's evaluations"):
        foreign.read(tmp_path)


PAPER = "algo,env,step,return\nREDQ,Hopper-v5,1000,20.5\n"


def test_a_picture_is_written_over_a_file_only_when_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("paper.csv").write_text(PAPER)
    Path("mine.csv").write_text("mine")
    assert cli.main("plot paper.csv --to mine.csv".split()) == 2
    assert "'mine.csv' is there already: choose another name, or add --overwrite" in capsys.readouterr().err
    assert Path("mine.csv").read_text() == "mine"
    assert cli.main("plot paper.csv --to mine.csv --overwrite".split()) == 0
    assert "REDQ" in Path("mine.csv").read_text()


@pytest.mark.parametrize("line", ["plot paper.csv --to ./paper.csv", "plot . --to logs/monitor.csv"])
def test_what_is_drawn_is_never_written_over(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("paper.csv").write_text(PAPER)
    Path("logs").mkdir()
    Path("logs", "monitor.csv").write_text('#{"t_start": 0.0, "env_id": "Hopper-v5"}\nr,l,t\n1,10,0.5\n')
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.csv")}
    for more in ("", " --overwrite"):
        assert cli.main((line + more).split()) == 2
        assert "is one of the files to be drawn: choose another name" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.csv")} == before
