"""Equal tensors on all ranks: the same names, shapes and dtypes, then the values of one rank."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch

from dmlf.errors import SchemaMismatch
from dmlf.group import Group
from dmlf.group.blobs import broadcast_bytes
from dmlf.strict_json import parse

_TEXT_BYTES = 5120  # two entries of 201 characters, each of which JSON writes in 12 at most
Manifest = Sequence[Sequence[str]]


def confirm_same_layout(group: Group, entries: Iterable[tuple[str, str]], subject: str) -> None:
    """Return if all ranks give the same (name, description) `entries`, in the same order.

    Raises SchemaMismatch otherwise, on all ranks alike, naming the first rank and entry that
    differ from rank 0's. Cost: two broadcasts and an all-gather.
    """
    own = [list(entry) for entry in entries]
    told = parse(broadcast_bytes(group, json.dumps(own).encode()))
    difference = _first_difference(told, own)
    text = np.zeros(_TEXT_BYTES, np.uint8)
    data = json.dumps(difference).encode("ascii") if difference else b""
    text[: len(data)] = np.frombuffer(data, np.uint8)
    for rank, row in enumerate(group.all_gather(text)):
        answer = row.tobytes().rstrip(b"\0").decode("ascii")
        if answer:
            there, here = _pair(answer)
            raise SchemaMismatch(rank, f"{there} as on rank 0", here, f"{subject} differs")


def layout_of(tensors: Mapping[str, torch.Tensor]) -> list[tuple[str, str]]:
    """What `confirm_same_layout` compares of named tensors: names, dtypes and shapes."""
    return [(name, described(tensor)) for name, tensor in tensors.items()]


def described(tensor: torch.Tensor) -> str:
    """Dtype and shape: `float32[3, 4]`."""
    return f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}"


def copy_from_rank(group: Group, tensors: Mapping[str, torch.Tensor], root: int) -> None:
    """Replace named tensors, of the same layout on all ranks, by those of rank `root`.

    Afterwards all ranks have the same hash. Raises SchemaMismatch on all ranks if they do not.
    """
    with torch.no_grad():
        for tensor in tensors.values():
            if tensor.numel():
                group.broadcast(tensor, root)
    confirm_same_values(group, tensors, "what was broadcast")


def confirm_same_values(group: Group, tensors: Mapping[str, torch.Tensor], subject: str) -> None:
    """Return if named tensors have the same SHA-256, taken together, on all ranks.

    Raises SchemaMismatch otherwise, on all ranks alike, naming the first rank that differs.
    """
    digest = hashlib.sha256()
    for tensor in tensors.values():
        digest.update(bytes_of(tensor).tobytes())
    rows = [row.tobytes().hex() for row in group.all_gather(np.frombuffer(digest.digest(), "u1"))]
    for rank, other in enumerate(rows):
        if other != rows[0]:
            raise SchemaMismatch(rank, f"SHA-256 {rows[0][:16]} as on rank 0", other[:16], subject)


def bytes_of(tensor: torch.Tensor) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
    """The bytes of a tensor of any dtype: [number of bytes]; shares memory where it can."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    array: np.ndarray[tuple[int], np.dtype[np.uint8]] = flat.view(torch.uint8).numpy()
    return array


def _first_difference(told: Manifest, own: Manifest) -> tuple[str, str] | None:
    """The first entry in which rank 0's manifest and this rank's own differ, shown shortly."""
    if told == own:
        return None
    for there, here in zip(told, own, strict=False):
        if there != here:
            return _shown(there), _shown(here)
    longer = told if len(told) > len(own) else own
    extra = _shown(longer[min(len(told), len(own))])
    return (extra, "nothing there") if longer is told else ("nothing more", extra)


def _shown(entry: Sequence[str]) -> str:
    name, description = entry
    return f"{name[-100:]} {description[:100]}"


def _pair(text: str) -> tuple[str, str]:
    there, here = parse(text.encode())
    return there, here
