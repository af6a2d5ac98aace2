"""Where results lie: results/{task}/{strategy}/{reduction}/world_size={w}/seed={s}/rep={k}/."""

from __future__ import annotations

import re
from dataclasses import dataclass

from dmlf.config import RunConfig, split_strategy
from dmlf.errors import MetricsError

_RESULT = re.compile(
    r"(?:.*/)?(?P<task>[A-Za-z0-9_.:]+)/(?P<strategy>[A-Za-z0-9_.:-]+)/(?P<reduction>[a-z0-9]+)"
    r"/world_size=(?P<world_size>\d{1,9})/seed=(?P<seed>\d{1,19})/rep=(?P<rep>\d{1,10})"
    r"/metrics\.json"
)


@dataclass(frozen=True, slots=True)
class ResultPath:
    """What the path of a metrics.json says about the run that it belongs to."""

    path: str
    task: str
    strategy: str
    reduction: str
    world_size: int
    seed: int
    rep: int

    @classmethod
    def parse(cls, path: str) -> ResultPath:
        """Read the parts off a path; the folders before the task are free. Raises MetricsError."""
        match = _RESULT.fullmatch(path)
        if match is None:
            raise MetricsError(
                path,
                "path",
                "does not end in task/strategy/reduction/world_size=W/seed=S/rep=K/metrics.json",
            )
        return cls(
            path=path,
            task=match["task"],
            strategy=match["strategy"],
            reduction=match["reduction"],
            world_size=int(match["world_size"]),
            seed=int(match["seed"]),
            rep=int(match["rep"]),
        )

    @property
    def algorithm(self) -> str:
        """`ring` of `ring-queue`."""
        return split_strategy(self.strategy)[0]

    @property
    def transport(self) -> str:
        """`queue` of `ring-queue`; `none` of `serial`."""
        return split_strategy(self.strategy)[1]

    def differences(self, config: RunConfig) -> list[str]:
        """What a file's configuration says otherwise than its path; empty when they agree.

        The path's task is a label of the workflow's configuration, which may name any task.
        """
        pairs = [
            ("strategy", self.strategy, config.strategy),
            ("reduction", self.reduction, config.reduction),
            ("world_size", self.world_size, config.world_size),
            ("seed", self.seed, config.seed),
            ("rep", self.rep, config.rep),
        ]
        return [
            f"{key} is {here} in the path and {there} in the file"
            for key, here, there in pairs
            if here != there
        ]
