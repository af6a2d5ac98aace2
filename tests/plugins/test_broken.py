"""Plug-ins that are broken or claim a taken name: named when they are used, harmless otherwise."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.plugins.installed import Outcome, dmlf, write_distribution

SMALL = ["--task", "synthetic", "--max-steps", "2", "--warmup-steps", "0", "--world-size", "2"]
TREE = Path(__file__).resolve().parents[2] / "dmlf" / "protocol" / "algorithms" / "tree.py"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a sound distribution, and one for each thing that can be wrong."""
    target = tmp_path_factory.mktemp("site")
    tree = TREE.read_text()
    for name, entry_points, code in (
        ("sound", "[dmlf.algorithms]\nsound = sound_module\n", tree.replace('"tree"', '"sound"')),
        ("raises", "[dmlf.algorithms]\nraises = raises_module\n", "raise RuntimeError('planted')"),
        ("leaves", "[dmlf.algorithms]\nleaves = leaves_module\n", "raise SystemExit(0)"),
        ("absent", "[dmlf.transports]\nabsent = no_such_module\n", ""),
        ("silent", "[dmlf.tasks]\nsilent = silent_module\n", "x = 1"),
        ("taker", "[dmlf.algorithms]\ntree = taker_module\n", "raise RuntimeError('unused')"),
        ("first-of-two", "[dmlf.algorithms]\ntwin = twin_module\n", ""),
        ("second-of-two", "[dmlf.algorithms]\ntwin = twin_module\n", ""),
        ("thief", "[dmlf.algorithms]\nthief = thief_module\n", tree),
    ):
        module = entry_points.split("= ")[1].strip() if name != "absent" else "absent_module"
        write_distribution(target, name, entry_points, module, code)
    return target


@pytest.fixture(scope="module")
def ambiguous(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A distribution whose names mean something else, or are none."""
    target = tmp_path_factory.mktemp("ambiguous")
    names = "[dmlf.algorithms]\nserial = some_module\na-b = some_module\n"
    write_distribution(target, "namer", names, "some_module", "raise RuntimeError('unused')")
    return target


def train(folder: Path, cwd: Path, *arguments: str) -> Outcome:
    return dmlf([folder], cwd, "train", *SMALL, *arguments)


def test_what_is_not_used_is_not_even_loaded(site: Path, tmp_path: Path) -> None:
    for algorithm in ("ring", "sound"):
        outcome = train(site, tmp_path, "--algorithm", algorithm)
        assert (outcome.code, outcome.err) == (0, "")
    assert dmlf([site], tmp_path, "simulate", "ring", "--seeds", "5").code == 0


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--algorithm", "raises"], ["'raises' of raises", "RuntimeError: planted", "uninstall"]),
        (["--algorithm", "leaves"], ["'leaves' of leaves", "SystemExit", "uninstall"]),
        (["--algorithm", "ring", "--transport", "absent"], ["of absent", "no_such_module"]),
        (
            ["--task", "silent", "--algorithm", "ring"],
            ["'silent' of silent", "registers no task", "@register_task"],
        ),
        (["--algorithm", "tree"], ["'tree' of taker", "dmlf and taker", "uninstall taker"]),
        (["--algorithm", "twin"], ["first-of-two and second-of-two", "uninstall all but one"]),
        (["--algorithm", "thief"], ["'thief' of thief", "'tree'", "registered already"]),
    ],
    ids=lambda value: value[1] if value[0].startswith("--") else "",
)
def test_what_is_used_is_named_with_its_distribution_and_the_remedy(
    site: Path, tmp_path: Path, arguments: list[str], expected: list[str]
) -> None:
    outcome = train(site, tmp_path, *arguments)
    assert (outcome.code, outcome.out) == (1, "")
    last = outcome.err.splitlines()[-1]
    assert last.startswith("dmlf: ")
    for part in expected:
        assert part in last


def test_plugins_says_which_are_broken(site: Path, tmp_path: Path) -> None:
    outcome = dmlf([site], tmp_path, "plugins")
    assert outcome.code == 1
    lines = outcome.out.splitlines()
    assert lines[-1] == "9 plug-ins: 8 broken"
    assert sum(line.startswith("BROKEN  ") for line in lines) == 8
    assert "ok      algorithm 'sound' of sound 1.0 (sound_module)" in lines


def test_where_all_are_wanted_the_broken_ones_are_left_out_in_a_line_each(
    site: Path, tmp_path: Path
) -> None:
    sizes = ["--sizes", "64", "--world-sizes", "2", "--rounds", "1", "--peers"]
    outcome = dmlf([site], tmp_path, "collective", "--transports", "queue", *sizes)
    assert outcome.code == 0, outcome.err
    assert "sound-queue" in outcome.out
    assert "tree-queue" not in outcome.out
    lines = outcome.err.splitlines()
    assert [line.split("'")[1] for line in lines] == ["tree", "leaves", "raises", "thief", "twin"]
    assert all(line.endswith("; left out") for line in lines)


def test_a_name_that_would_be_ambiguous_is_left_out_and_said(
    ambiguous: Path, tmp_path: Path
) -> None:
    outcome = train(ambiguous, tmp_path, "--algorithm", "tree")
    assert outcome.code == 0
    lines = outcome.err.splitlines()
    assert len(lines) == 2
    assert all("of namer" in line and line.endswith("; left out") for line in lines)
    serial = dmlf([ambiguous], tmp_path, "train", "--task", "synthetic", "--max-steps", "6")
    assert serial.code == 0
