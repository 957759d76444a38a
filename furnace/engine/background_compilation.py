"""Compile the networks in another process, while training begins without compiled code."""

import copy
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from tempfile import TemporaryFile
from threading import Thread

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from furnace.base_model.shortcuts import use_shortcuts
from furnace.datasets.batch import TrainBatch
from furnace.engine.compilation import prepare_compiler
from furnace.engine.distributed import world_size
from furnace.engine.internals import compilations, compile_without_running, map_tensors
from furnace.engine.learner import Learner, StepOutput
from furnace.engine.monitor import Monitor, logger
from furnace.engine.numerics import autocast, set_precision
from furnace.utils.wording import byte_size, one_line

LIMIT_SECONDS = 1800  # for the other process
END_SECONDS = 10  # for the end of a killed process
ROOM = 2**31  # bytes of a GPU: CUDA's context, images, and trials of matrix products
POLL_SECONDS = 1
COMMAND = "from furnace.engine.background_compilation import main; main()"
NOTE = ", compiling"


@dataclass(frozen=True)
class Pass:
    """What decides which compiled code a forward pass of a branch uses.

    Attributes:
        branch: its index.
        inputs: tensors without memory.
        gradients: True if the pass keeps a graph for the backward pass.
        training: mode of the branch.
    """

    branch: int
    inputs: tuple[Tensor | Sequence[Tensor], ...]
    gradients: bool
    training: bool

    @property
    def code(self) -> str:
        """The same text for passes that use the same code."""
        described = map_tensors(lambda tensor: (tensor.shape, tensor.stride(), tensor.dtype), self.inputs)
        return repr((self.branch, described, self.gradients, self.training))


class BackgroundCompilation:
    """Another process compiles the passes of the first iteration; then the learner uses the code.

    The code reaches this process through PyTorch's cache. The other process holds weights and images on the device, but
    no maps. If it fails, the log says so, and the learner compiles in its next iteration.

    Args:
        learner: not compiled.
        monitor: its bar says "compiling" until the learner uses the code.
        wanted: False to do nothing.

    Use it as a context manager around the iterations, and take the steps from `step`.
    """

    def __init__(self, learner: Learner, monitor: Monitor, wanted: bool):
        self.learner, self.monitor = learner, monitor
        self.course = self._course() if wanted else None
        self.passes: dict[str, Pass] = {}
        self.hooks: list[RemovableHandle] = []
        self.process: subprocess.Popen | None = None

    def __enter__(self) -> "BackgroundCompilation":
        if self.course:
            branches = enumerate(self.learner.network.branches)
            self.hooks = [branch.register_forward_pre_hook(partial(self._note, number)) for number, branch in branches]
            use_shortcuts(self.learner.network, False)  # PyTorch's cache takes no code with functions of ours
            self.monitor.note = NOTE
        return self

    def __exit__(self, *_) -> None:
        self.course, self.monitor.note = None, ""
        self._remove_hooks()
        if self.process:
            self.process.kill()
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(END_SECONDS)

    def step(self, batch: TrainBatch, iteration: int) -> StepOutput:
        """The learner's step. Compiled code needs less memory: if there is too little without, compile now."""
        output = None
        try:
            output = self.learner.step(batch, iteration)
        except torch.OutOfMemoryError:
            done = self.course is None or self.learner.compiled
            # Not during an update, which would be done twice; and other processes would not repeat the step.
            if done or not self.learner.intact or world_size() > 1:
                raise
        if output is None:  # not in the `except` clause: the exception keeps the tensors of the failed step
            self._give_up("the GPU's memory is too small for a step without compiled code")
            torch.cuda.empty_cache()
            output = self.learner.step(batch, iteration)
        self.follow()
        return output

    def follow(self) -> None:
        """Start the process after the first iteration; use the code after the iteration during which it is ready."""
        if self.course is None:
            return
        try:
            next(self.course)
        except StopIteration:
            self.__exit__()
        except Exception as error:
            self._give_up(one_line(str(error).partition("\n")[0]))

    def _give_up(self, reason: str) -> None:
        self.__exit__()
        logger.warning(f"no compilation in the background ({reason}); the next step compiles, for minutes")
        self.learner.compile()

    def _course(self) -> Iterator[None]:
        """What happens after each iteration. Raises any exception if the other process can't start, or fails."""
        self._remove_hooks()
        self._start()
        yield
        while not self._is_ready():
            yield
        logger.info("the networks are compiled; the next iteration loads the code")
        self.learner.compile()
        before = compilations()
        yield
        if compilations() > before:
            logger.warning("PyTorch did not find the code of the other process, and compiled it again")

    def _note(self, number: int, branch: nn.Module, inputs: tuple) -> None:
        described = map_tensors(lambda tensor: tensor.detach().to("meta"), inputs)
        noted = Pass(number, described, torch.is_grad_enabled(), branch.training)
        self.passes.setdefault(noted.code, noted)

    def _remove_hooks(self) -> None:
        for hook in self.hooks:
            hook.remove()

    def _start(self) -> None:
        network, device = without_memory(self.learner.network), self.learner.device
        check_room(network, device)
        prepare_compiler()
        with TemporaryFile() as work:
            pickle.dump((os.getpid(), device, self.learner.amp, list(self.passes.values())), work)
            pickle.dump(network, work)
            work.seek(0)
            self.process = subprocess.Popen(
                [sys.executable, "-c", COMMAND],
                stdin=work,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
                start_new_session=True,  # signals to the group are for the training
            )
        self.end = time.monotonic() + LIMIT_SECONDS

    def _is_ready(self) -> bool:
        """Raises RuntimeError if the process has failed or takes too long."""
        status = self.process.poll()
        if status:
            lines = self.process.stderr.read().decode(errors="replace").split("\n")
            raise RuntimeError(next(filter(None, reversed(lines)), f"its process ended with status {status}"))
        if status is None and time.monotonic() > self.end:
            raise RuntimeError(f"not ready after {LIMIT_SECONDS / 60:g} minutes")
        return status == 0


def without_memory(network: nn.Module) -> nn.Module:
    """A copy of a network whose tensors have shapes and strides only."""
    copies = {id(buffer): buffer.to("meta") for buffer in network.buffers()}
    for parameter in network.parameters():
        copies[id(parameter)] = nn.Parameter(parameter.detach().to("meta"), parameter.requires_grad)
    return copy.deepcopy(network, copies)


def check_room(network: nn.Module, device: torch.device) -> None:
    """Raise RuntimeError if a GPU has too little free memory for a second copy of the weights and what they need."""
    if device.type == "cuda":
        needed = ROOM + sum(tensor.nbytes for tensor in network.state_dict().values())
        free, _ = torch.cuda.mem_get_info(device)
        if free < needed:
            raise RuntimeError(f"it needs {byte_size(needed)} of GPU memory, {byte_size(free)} are free")


def main() -> None:
    """Compile what standard input describes; if this fails, exit with 1 after a line on standard error."""
    told = os.fdopen(os.dup(sys.stderr.fileno()), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())  # for compilers and other processes
    parent, device, amp, passes = pickle.load(sys.stdin.buffer)
    Thread(target=end_with, args=(parent,), daemon=True).start()
    try:
        compile_passes(pickle.load(sys.stdin.buffer), passes, device, amp)
    except Exception as error:
        lines = str(error).strip().split("\n")[:2]  # PyTorch's first line can end in "raised:"
        print(f"{type(error).__name__}:", *lines, file=told, flush=True)
        sys.exit(1)


def end_with(parent: int) -> None:
    """End this process when its parent has ended."""
    while os.getppid() == parent:
        time.sleep(POLL_SECONDS)
    os._exit(1)


def compile_passes(network: nn.Module, passes: Sequence[Pass], device: torch.device, amp: str) -> None:
    """Fill the cache with the code of passes through a network without memory."""
    prepare_compiler()
    set_precision(amp)
    if device.type == "cuda":
        torch.cuda.set_device(device)  # PyTorch asks the current GPU for its properties
    branches = network.to_empty(device=device).branches
    for each in passes:
        branch = branches[each.branch].train(each.training)
        inputs = map_tensors(partial(torch.empty_like, device=device), each.inputs)
        with autocast(device, amp), torch.set_grad_enabled(each.gradients):
            compile_without_running(branch, *inputs)
