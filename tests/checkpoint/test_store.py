"""What is saved is loaded, to the bit; one writer; retention; refusals."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import numpy as safetensors_numpy

from dmlf.checkpoint import (
    CheckpointStore,
    RunState,
    SamplerPosition,
    Snapshot,
    load_checkpoint,
    load_newest,
)
from dmlf.errors import (
    CheckpointCorrupt,
    CheckpointMismatch,
    CheckpointWriteError,
    ConfigError,
    NoValidCheckpoint,
)
from tests.checkpoint.snapshots import CONFIG, STEPS_PER_EPOCH, bits, position, snapshot

TAKE = (
    "import sys; from pathlib import Path; from tests.checkpoint.snapshots import CONFIG;"
    "from dmlf.checkpoint import CheckpointStore; CheckpointStore(Path(sys.argv[1]), CONFIG)"
)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != ".lock")


def test_a_snapshot_comes_back_to_the_bit(tmp_path: Path) -> None:
    folder = tmp_path / "not" / "yet" / "there"
    with CheckpointStore(folder, CONFIG) as store:
        path = store.save(snapshot(123, generation=5))
    assert names(folder) == ["step-0000000123"]
    loaded = load_newest(folder, CONFIG)
    assert loaded is not None
    assert (loaded.path, loaded.rejected) == (path, ())
    assert bits(loaded.snapshot) == bits(snapshot(123, generation=5))
    assert bits(load_checkpoint(path, None).snapshot) == bits(loaded.snapshot)
    for array in {**loaded.snapshot.parameters, **loaded.snapshot.optimizer}.values():
        assert array.flags.writeable
        assert array.flags.c_contiguous


def test_it_is_readable_without_dmlf(tmp_path: Path) -> None:
    with CheckpointStore(tmp_path, CONFIG) as store:
        path = store.save(snapshot(7))
    for group, arrays in (
        ("parameters", snapshot(7).parameters),
        ("optimizer", snapshot(7).optimizer),
    ):
        read = safetensors_numpy.load_file(path / f"{group}.safetensors")
        assert {name: (a.dtype, a.shape, a.tobytes()) for name, a in read.items()} == {
            name: (a.dtype, a.shape, a.tobytes()) for name, a in arrays.items()
        }


def test_it_is_readable_by_torch(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from safetensors import torch as safetensors_torch

    with CheckpointStore(tmp_path, CONFIG) as store:
        path = store.save(snapshot(7))
    read = safetensors_torch.load_file(path / "parameters.safetensors")
    assert {name: (t.numpy().dtype, tuple(t.shape)) for name, t in read.items()} == {
        name: (a.dtype, a.shape) for name, a in snapshot(7).parameters.items()
    }
    for name, array in snapshot(7).parameters.items():
        assert read[name].numpy().tobytes() == array.tobytes()


def test_the_hash_of_the_state_sees_every_bit(tmp_path: Path) -> None:
    hashes = set()
    changed = snapshot(9)
    for _ in range(2):
        with CheckpointStore(tmp_path, CONFIG) as store:
            hashes.add(load_checkpoint(store.save(changed), CONFIG).manifest.state_sha256)
        optimizer = {name: np.array(array) for name, array in changed.optimizer.items()}
        optimizer["bits.exp_avg"].view(np.uint32)[1, 2] ^= 1
        changed = Snapshot(changed.state, changed.parameters, optimizer)
    assert len(hashes) == 2


def test_the_newest_are_kept(tmp_path: Path) -> None:
    with CheckpointStore(tmp_path, CONFIG, keep=2) as store:
        for step in (1, 2, 3, 4):
            store.save(snapshot(step))
        assert names(tmp_path) == ["step-0000000003", "step-0000000004"]
    with CheckpointStore(tmp_path, CONFIG, keep=1) as store:
        store.save(snapshot(10**10))
    assert names(tmp_path) == ["step-10000000000"]
    loaded = load_newest(tmp_path, CONFIG)
    assert loaded is not None
    assert bits(loaded.snapshot) == bits(snapshot(10**10))


def test_invalid_ones_do_not_count_and_go_when_they_are_old(tmp_path: Path) -> None:
    with CheckpointStore(tmp_path, CONFIG, keep=2) as store:
        for step in (1, 2):
            store.save(snapshot(step))
    (tmp_path / "step-0000000002" / "COMPLETE").unlink()
    with CheckpointStore(tmp_path, CONFIG, keep=2) as store:
        store.save(snapshot(2))
        assert names(tmp_path) == ["step-0000000001", "step-0000000002", "step-0000000002.1"]
        store.save(snapshot(3))
    assert names(tmp_path) == ["step-0000000002.1", "step-0000000003"]


def test_a_step_may_be_saved_twice_and_the_later_one_counts(tmp_path: Path) -> None:
    with CheckpointStore(tmp_path, CONFIG) as store:
        for generation in range(12):
            store.save(snapshot(5, generation=generation))
    assert names(tmp_path) == [f"step-0000000005.{attempt}" for attempt in (10, 11, 9)]
    loaded = load_newest(tmp_path, CONFIG)
    assert loaded is not None
    assert loaded.snapshot.state.generation == 11


def test_a_step_before_the_newest_is_refused(tmp_path: Path) -> None:
    with CheckpointStore(tmp_path, CONFIG) as store:
        store.save(snapshot(8))
        with pytest.raises(CheckpointWriteError, match="step 7 comes before step-0000000008"):
            store.save(snapshot(7))
    assert names(tmp_path) == ["step-0000000008"]


def test_what_dead_writers_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").touch()
    folder = tmp_path / "checkpoints"
    leftover = folder / ".step-0000000001.0123456789abcdef.tmp"
    (leftover / "deeper").mkdir(parents=True)
    (leftover / "deeper" / "link").symlink_to(outside)
    (leftover / "parameters.safetensors").touch()
    (folder / ".step-0000000002.0123456789abcdef.tmp").symlink_to(outside)
    (folder / ".step-1.tmp").mkdir()
    (folder / "notes.txt").touch()
    with CheckpointStore(folder, CONFIG, keep=1) as store:
        store.save(snapshot(3))
    assert names(folder) == [
        ".step-0000000002.0123456789abcdef.tmp",
        ".step-1.tmp",
        "notes.txt",
        "step-0000000003",
    ]
    assert names(outside) == ["kept"]


def test_a_second_writer_is_refused_until_the_first_is_gone(tmp_path: Path) -> None:
    command = [sys.executable, "-c", TAKE, str(tmp_path)]
    with CheckpointStore(tmp_path, CONFIG) as store:
        with pytest.raises(CheckpointWriteError, match="another process"):
            CheckpointStore(tmp_path, CONFIG)
        refused = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert "CheckpointWriteError" in refused.stderr
        store.save(snapshot(1))
    subprocess.run(command, check=True, timeout=60)
    with pytest.raises(CheckpointWriteError, match="closed"):
        store.save(snapshot(2))


def test_a_folder_belongs_to_one_run(tmp_path: Path) -> None:
    other = replace(CONFIG, learning_rate=0.25)
    with CheckpointStore(tmp_path, CONFIG) as store:
        store.save(snapshot(1))
        with pytest.raises(CheckpointWriteError, match="another run"):
            store.save(snapshot(2, config=other))
    with pytest.raises(CheckpointMismatch, match=r"learning_rate 0\.1 instead of 0\.25"):
        CheckpointStore(tmp_path, other)
    with pytest.raises(NoValidCheckpoint) as caught:
        load_newest(tmp_path, other)
    assert [type(error) for error in caught.value.rejected] == [CheckpointMismatch]
    assert load_newest(tmp_path, None) is not None
    elsewhere = replace(CONFIG, data_dir="elsewhere", rep=2, timeout_s=1.0)
    assert load_newest(tmp_path, elsewhere) is not None
    CheckpointStore(tmp_path, elsewhere).close()  # and the refused one left it unlocked


def test_no_checkpoint_at_all_is_not_the_same_as_no_valid_one(tmp_path: Path) -> None:
    assert load_newest(tmp_path / "absent", CONFIG) is None
    (tmp_path / ".step-0000000001.0123456789abcdef.tmp").mkdir()
    assert load_newest(tmp_path, CONFIG) is None
    (tmp_path / "step-1").mkdir()
    with pytest.raises(NoValidCheckpoint) as caught:
        load_newest(tmp_path, CONFIG)
    assert str(tmp_path / "step-1") in str(caught.value)
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointCorrupt, match="cannot be read"):
        load_newest(tmp_path / "file", CONFIG)


def test_a_damaged_newest_falls_back_and_says_so(tmp_path: Path) -> None:
    with CheckpointStore(tmp_path, CONFIG) as store:
        for step in (1, 2, 3):
            store.save(snapshot(step))
    (tmp_path / "step-0000000003" / "manifest.json").write_bytes(b"")
    (tmp_path / "step-0000000002" / "optimizer.safetensors").unlink()
    loaded = load_newest(tmp_path, CONFIG)
    assert loaded is not None
    assert bits(loaded.snapshot) == bits(snapshot(1))
    assert [(Path(error.path).name, type(error)) for error in loaded.rejected] == [
        ("step-0000000003", CheckpointCorrupt),
        ("step-0000000002", CheckpointCorrupt),
    ]


def _with(**changes: Any) -> Snapshot:
    whole = snapshot(4)
    return Snapshot(replace(whole.state, **changes), whole.parameters, whole.optimizer)


def _array(array: Any, name: str = "w") -> Snapshot:
    return Snapshot(snapshot(4).state, {name: array}, {})


DEEP: list[Any] = []
for _ in range(5000):
    DEEP = [DEEP]

REFUSED = {
    "NaN": _with(user=[float("nan")]),
    "key that is no string": _with(random={1: "a"}),
    "tuple": _with(user=(1, 2)),
    "no JSON": _with(user=b"bytes"),
    "deep": _with(user=DEEP),
    "sampler elsewhere": _with(sampler=SamplerPosition(0, 1)),
    "negative step": _with(step=-1),
    "negative generation": _with(generation=-1),
    "big-endian": _array(np.ones(2, dtype=">f4")),
    "complex128": _array(np.ones(2, dtype=np.complex128)),
    "objects": _array(np.array([{}])),
    "text": _array(np.array(["a"])),
    "dates": _array(np.zeros(2, dtype="datetime64[s]")),
    "empty name": _array(np.ones(2), ""),
    "reserved name": _array(np.ones(2), "__metadata__"),
    "name with a bar": _array(np.ones(2), "a|b"),
    "name with a newline": _array(np.ones(2), "a\nb"),
}


@pytest.mark.parametrize("refused", REFUSED.values(), ids=REFUSED)
def test_what_could_not_be_read_back_is_not_written(tmp_path: Path, refused: Snapshot) -> None:
    with CheckpointStore(tmp_path, CONFIG) as store:
        with pytest.raises(CheckpointWriteError) as caught:
            store.save(refused)
        assert str(tmp_path) in caught.value.path
        assert "\n" not in str(caught.value)
        assert names(tmp_path) == []
        store.save(snapshot(4))


@pytest.mark.parametrize("keep", [0, -1, True, 1.5])
def test_keep_is_checked(tmp_path: Path, keep: Any) -> None:
    with pytest.raises(ConfigError):
        CheckpointStore(tmp_path, CONFIG, keep=keep)


def test_a_folder_that_cannot_be_one_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(CheckpointWriteError):
            CheckpointStore(folder, CONFIG)
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / ".lock").symlink_to(tmp_path / "file")
    with pytest.raises(CheckpointWriteError):
        CheckpointStore(tmp_path / "linked", CONFIG)


@pytest.mark.parametrize("below", ["", "not/yet/there"])
def test_a_folder_may_be_a_link_or_lie_below_one(tmp_path: Path, below: str) -> None:
    """It is followed once: where a store began it goes on, wherever the link leads later."""
    real, other = tmp_path / "real", tmp_path / "other"
    real.mkdir()
    other.mkdir()
    link = tmp_path / "link"
    link.symlink_to("real")
    with CheckpointStore(link / below, CONFIG) as store:
        store.save(snapshot(1))
        link.unlink()
        link.symlink_to(other)
        store.save(snapshot(2))
    assert names(real / below) == ["step-0000000001", "step-0000000002"]
    assert names(other) == []
    link.unlink()
    link.symlink_to(real)
    with (
        pytest.raises(CheckpointWriteError, match="another"),
        CheckpointStore(real / below, CONFIG),
    ):
        CheckpointStore(link / below, CONFIG)
    loaded = load_newest(link / below, CONFIG)
    assert loaded is not None
    assert bits(loaded.snapshot) == bits(snapshot(2))
    assert loaded.rejected == ()


def test_a_link_that_leads_nowhere_is_refused(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    for folder in (tmp_path / "loop", tmp_path / "loop" / "below"):
        with pytest.raises(CheckpointWriteError, match="symbolic links"):
            CheckpointStore(folder, CONFIG)


def test_what_is_gone_is_not_called_verified(tmp_path: Path) -> None:
    with CheckpointStore(tmp_path, CONFIG) as store:
        store.save(snapshot(1))
        shutil.rmtree(store.save(snapshot(2)))
        assert [name for name, _, _ in store.verified()] == ["step-0000000001"]


def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    before = sorted(os.listdir("/proc/self/fd"))
    with CheckpointStore(tmp_path, CONFIG) as store:
        store.save(snapshot(1))
        with pytest.raises(CheckpointWriteError):
            store.save(_with(user=DEEP))
        with pytest.raises(CheckpointWriteError):
            CheckpointStore(tmp_path, CONFIG)
    (tmp_path / "step-0000000001" / "COMPLETE").unlink()
    with pytest.raises(NoValidCheckpoint):
        load_newest(tmp_path, CONFIG)
    assert sorted(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("step", range(3 * STEPS_PER_EPOCH))
def test_a_sampler_position_fits_its_step(step: int) -> None:
    here = position(step)
    assert here.fits(step)
    if here.epoch == 0:
        assert not here.fits(step + 1)
    else:
        assert not SamplerPosition(here.epoch, step).fits(step)
        assert not SamplerPosition(here.epoch, step + 1).fits(step)


def test_a_state_without_random_streams_is_whole(tmp_path: Path) -> None:
    state = RunState(step=0, generation=0, config=CONFIG, sampler=SamplerPosition(0, 0))
    with CheckpointStore(tmp_path, CONFIG) as store:
        path = store.save(Snapshot(state, {}, {}))
    assert bits(load_checkpoint(path, CONFIG).snapshot) == (state, {}, {})
