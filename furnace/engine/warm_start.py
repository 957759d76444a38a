"""Start a run with the weights of one snapshot, or of one snapshot per branch: `C.warm_start`."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

from furnace.base_model.network import Network
from furnace.engine.distributed import from_first
from furnace.engine.identity import snapshot_digest
from furnace.engine.snapshots import Snapshot, check_weights, differing, load_snapshot
from furnace.methods.build import build_network
from furnace.methods.method import Method
from furnace.utils.errors import UserError
from furnace.utils.settings import Settings
from furnace.utils.wording import few

BRANCH = re.compile(r"branch(\d+)\.(.+)")
CLASSIFIER = "classifier."  # of a branch; it starts with random weights if the classes differ


class Source(NamedTuple):
    """Source of a branch's weights: a snapshot's path and the number of a branch in it."""

    path: str
    branch: int


class WarmStart:
    """The weights of snapshots under the names of a method's networks; an average starts with its student's weights.

    Args:
        given: path of a snapshot, or several paths separated by commas, one per trained network. Further paths are not
            read, so that methods with one and with two networks can be compared. With a single snapshot, a network
            takes the branch of its number; if this is missing, or with several snapshots, the first branch.
        method: the method of the networks.

    `tensors` are the weights, `sources` the origin of each branch. Raises UserError if a snapshot has no branch or has
    weights that are not finite, or if there are too few snapshots for the method.
    """

    def __init__(self, given: str, method: Method):
        paths, needed = snapshot_paths(given), len(method.trained)
        self.given, self.several = given, len(paths) > 1
        if self.several and len(paths) < needed:
            raise UserError(f"C.warm_start = {given}: the method trains {needed} networks")
        self.paths = paths[:needed]
        snapshots = {path: load_snapshot(path) for path in self.paths}
        parts = {path: branches(path, snapshot.model) for path, snapshot in snapshots.items()}
        self.settings = {path: snapshot.settings for path, snapshot in snapshots.items()}
        self.sources: dict[int, Source] = {}
        for branch in range(1, method.branch_count + 1):
            student = method.averaged.get(branch, branch)
            path = self.paths[student - 1 if self.several else 0]
            own = not self.several and student in parts[path]
            self.sources[branch] = Source(path, student if own else min(parts[path]))
        self.tensors = {
            f"branch{branch}.{name}": tensor
            for branch, source in self.sources.items()
            for name, tensor in parts[source.path][source.branch].items()
        }

    def fill(self, network: nn.Module, settings: Mapping[str, Any]) -> str:
        """Load the weights into a network; return one line about the tensors that match.

        Raises:
            UserError: a tensor outside the classifiers is missing in the snapshot or network, or has another shape.
        """
        own = {name: value for name, value in network.state_dict().items() if BRANCH.fullmatch(name)}
        fitting = {name: self.tensors[name] for name in own if self._fits(name, own[name])}
        anew = [name for name in own if name not in fitting]
        unfit = [*anew, *(name for name in self.tensors if name not in own)]
        if others := [name for name in unfit if not BRANCH.fullmatch(name)[2].startswith(CLASSIFIER)]:
            path = self.sources[int(BRANCH.fullmatch(others[0])[1])].path
            raise UserError(
                f"C.warm_start = {path}: {len(others)} tensors do not fit, such as {others[0]}; it was made with "
                f"{differing(self.settings[path], settings)}"
            )
        network.load_state_dict(network.state_dict() | fitting)
        pairs = ", ".join(
            f"{branch} with {f'{source.path}, branch' if self.several else 'its branch'} {source.branch}"
            for branch, source in self.sources.items()
        )
        rest = f"; {few(anew)} start with random weights, as the classes differ" if anew else ""
        return f"C.warm_start = {self.given}: {len(fitting)} of {len(own)} tensors; branch {pairs}{rest}"

    def _fits(self, name: str, tensor: Tensor) -> bool:
        return name in self.tensors and self.tensors[name].shape == tensor.shape


def snapshot_paths(given: str) -> list[str]:
    """The paths that `C.warm_start` names; a path may contain commas."""
    return [given] if Path(given).is_file() else [path.strip() for path in given.split(",")]


def branches(path: str, model: Mapping[str, Tensor]) -> dict[int, dict[str, Tensor]]:
    """The tensors of a snapshot, by branch number and name in the branch. Raises UserError as `WarmStart` does."""
    check_weights(model, path, "start with another snapshot")
    parts: dict[int, dict[str, Tensor]] = {}
    for name, tensor in model.items():
        if match := BRANCH.fullmatch(name):
            parts.setdefault(int(match[1]), {})[match[2]] = tensor
    if not parts:
        raise UserError(f"{path}: contains no branch1.*; C.warm_start takes snapshots, C.pretrained_model encoders")
    return parts


def begin_network(C: Settings, method: Method, found: Snapshot | None) -> tuple[Network, dict[str, dict[str, str]]]:
    """The network of a run, which reports on the weights that it begins with, and the identity's entry on a warm start.

    Args:
        C: checked settings.
        method: the method of the settings.
        found: the snapshot that the run continues; its weights are loaded later.
    """
    if found:
        before = found.identity
        start = {"warm_start": before["warm_start"]} if "warm_start" in before else {}
        network = build_network(C, False, found.model)
        network.weights_report = f"weights of {found.path}"
        return network, start
    if not C.warm_start:
        return build_network(C), {}
    start = WarmStart(C.warm_start, method)
    network = build_network(C, False, start.tensors)
    network.weights_report = start.fill(network, C.model_dump(mode="json"))
    digests = from_first(lambda: [snapshot_digest(path) for path in start.paths])
    resolved = [str(Path(path).resolve()) for path in start.paths]
    return network, {"warm_start": {"snapshot": ",".join(resolved), "sha256": ",".join(digests)}}
