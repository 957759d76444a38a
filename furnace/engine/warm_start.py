"""A run that begins with the weights of a snapshot: `C.warm_start`."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from furnace.base_model.network import Network
from furnace.engine.continuing import Found
from furnace.engine.distributed import from_first
from furnace.engine.identity import snapshot_digest
from furnace.engine.snapshots import check_weights, differing, load_snapshot
from furnace.methods.build import build_network
from furnace.methods.method import Method
from furnace.utils.errors import UserError
from furnace.utils.settings import Settings
from furnace.utils.wording import few

BRANCH = re.compile(r"branch(\d+)\.(.+)")
CLASSIFIER = "classifier."  # of a branch; other classes than the snapshot's begin anew


class WarmStart:
    """The weights of a snapshot under the names of a method's networks; an average begins as its student.

    Args:
        path: of the snapshot; if it has one branch, all begin with that.
        method: whose networks begin.

    `tensors` are those weights, `sources` the snapshot's branch of each branch. Raises UserError if it has none, or if
    a weight is not finite.
    """

    def __init__(self, path: str, method: Method):
        snapshot = load_snapshot(path)
        check_weights(snapshot.model, path, "begin with another snapshot")
        parts: dict[int, dict[str, Tensor]] = {}
        for name, tensor in snapshot.model.items():
            if match := BRANCH.fullmatch(name):
                parts.setdefault(int(match[1]), {})[match[2]] = tensor
        if not parts:
            raise UserError(f"{path}: holds no branch1.*; C.warm_start takes a snapshot, encoders C.pretrained_model")
        self.path, self.settings, self.sources = path, snapshot.settings, {}
        for branch in range(1, method.branches() + 1):
            student = method.averaged.get(branch, branch)
            self.sources[branch] = student if student in parts else min(parts)
        self.tensors = {
            f"branch{branch}.{name}": tensor
            for branch, source in self.sources.items()
            for name, tensor in parts[source].items()
        }

    def fill(self, network: nn.Module, settings: Mapping[str, Any]) -> str:
        """Fill a network; returns one line about what matched.

        Raises:
            UserError: a tensor besides those of the classifier is in one of both alone, or of another shape there.
        """
        own = {name: value for name, value in network.state_dict().items() if BRANCH.fullmatch(name)}
        fitting = {name: self.tensors[name] for name in own if self._fits(name, own[name])}
        anew = [name for name in own if name not in fitting]
        unfit = [*anew, *(name for name in self.tensors if name not in own)]
        if others := [name for name in unfit if not BRANCH.fullmatch(name)[2].startswith(CLASSIFIER)]:
            raise UserError(
                f"C.warm_start = {self.path}: {len(others)} tensors do not fit, such as {others[0]}; it was made with "
                f"{differing(self.settings, settings)}"
            )
        network.load_state_dict(network.state_dict() | fitting)
        pairs = ", ".join(f"{branch} with its branch {source}" for branch, source in self.sources.items())
        rest = f"; {few(anew)} begin anew, as its classes are others" if anew else ""
        return f"C.warm_start = {self.path}: {len(fitting)} of {len(own)} tensors; branch {pairs}{rest}"

    def _fits(self, name: str, tensor: Tensor) -> bool:
        return name in self.tensors and self.tensors[name].shape == tensor.shape


def begin_network(
    C: Settings, method: Method, found: Found | None, notes: list[str]
) -> tuple[Network, dict[str, dict[str, str]]]:
    """The network of a run, and what its identity says about a warm start; adds to `notes` what matched.

    Args:
        C: checked settings.
        method: that of the settings.
        found: the snapshot that the run continues, whose weights come later.
    """
    if found:
        before = found[0].identity
        return build_network(C, False, found[0].model), {key: before[key] for key in ("warm_start",) if key in before}
    if not C.warm_start:
        return build_network(C), {}
    start = WarmStart(C.warm_start, method)
    network = build_network(C, False, start.tensors)
    network.weights_report = start.fill(network, C.model_dump(mode="json"))
    notes.append(network.weights_report)
    digest = from_first(lambda: snapshot_digest(C.warm_start))
    return network, {"warm_start": {"snapshot": str(Path(C.warm_start).resolve()), "sha256": digest}}
