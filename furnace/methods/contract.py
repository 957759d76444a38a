"""Checks of methods: of the class with the settings, of its networks, and of each loss as it comes.

Without these checks a slip in a new method shows as an exception deep in the learner, or as silent wrong numbers.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NoReturn

from furnace.methods.method import Loss, Losses, Method, SemiSupervised, Teaching
from furnace.utils.errors import UserError

if TYPE_CHECKING:
    from pydantic import BaseModel

BOTH = "both"  # the mean of branches 1 and 2
# Columns of a run's records beside the losses.
TAKEN = ("loss", "lr", "iteration", "run", "step_seconds", "data_seconds", "memory_gib")


def check_class(name: str, method: Any) -> None:
    """Raise UserError unless an entry of `METHODS` is a class as `Method` describes it."""
    if not (isinstance(method, type) and issubclass(method, Method)):
        refuse(repr(name), "is not a class that derives from Method")
    if method.losses is Method.losses:
        refuse(repr(name), "its class has no function `losses`")
    base = SemiSupervised if issubclass(method, SemiSupervised) else Method
    if not (isinstance(method.Settings, type) and issubclass(method.Settings, base.Settings)):
        refuse(repr(name), f"its Settings must derive from {base.__name__}.Settings")


def check_shared_settings(parts: Mapping[str, type[BaseModel]], common: Container[str]) -> None:
    """Raise UserError if two methods mean different things by one setting, or if it is one of the `common` ones.

    All methods share one config.py, so only one default would count.

    Args:
        parts: `Settings` by the name of a method.
        common: names of the settings of all methods.
    """
    owners: dict[str, str] = {}
    advice = "choose another name, or give the method's own default in `published`"
    for method, part in parts.items():
        for name, field in part.model_fields.items():
            if name in common:
                refuse(repr(method), f"{name} is a setting of all methods; {advice}")
            owner = owners.setdefault(name, method)
            other = parts[owner].model_fields[name]
            if any(getattr(field, key) != getattr(other, key) for key in ("annotation", "default", "metadata")):
                refuse(repr(method), f"its setting {name} differs from that of method {owner!r}; {advice}")


def check_networks(name: str, method: Method) -> None:
    """Raise UserError unless the branches of a method have the numbers 1, 2, ..., and the reported one exists."""
    if not isinstance(method.trained, tuple | list) or not isinstance(method.averaged, dict):
        refuse(repr(name), "trained must be a tuple such as (1, 2), averaged a dictionary such as {3: 1}")
    numbers = [*method.trained, *method.averaged]
    if not method.trained or sorted(numbers) != list(range(1, len(numbers) + 1)):
        refuse(repr(name), f"trained and averaged must number the networks from 1, each once; they have {numbers}")
    if strange := set(method.averaged.values()) - set(method.trained):
        refuse(repr(name), f"averaged: {min(strange)} is no trained network")
    known = [str(number) for number in sorted(numbers)] + [BOTH] * (len(numbers) > 1)
    if method.reported not in known:
        refuse(repr(name), f"reported = {method.reported!r}: must be one of {', '.join(known)}, as text")


def checked_losses(method: Method, found: Any) -> Losses:
    """The generator that `method.losses` returned. Raises UserError if it is none."""
    if not isinstance(found, Iterator):
        refuse(type(method).__name__, f"losses returned {described(found)}; let it yield each Loss")
    return found


def checked_loss(method: Method, found: Any, before: Container[str]) -> Loss:
    """A loss that a method yielded.

    Args:
        method: for the message.
        found: what it yielded.
        before: names of the losses of this step so far.

    Raises:
        UserError: it is no `Loss`, its name is taken, or its value is no number with a gradient.
    """
    whose = type(method).__name__
    if not (isinstance(found, tuple) and len(found) == 3):
        refuse(whose, f"losses yielded {described(found)}; yield Loss(name, value, weight)")
    loss = Loss(*found)
    if not isinstance(loss.name, str) or loss.name in TAKEN or loss.name in before:
        refuse(whose, f"a loss is named {loss.name!r}, which is taken; give each another name")
    if not hasattr(loss.value, "backward") or loss.value.ndim:
        refuse(whose, f"the value of loss {loss.name!r} is {described(loss.value)}; it must be a tensor of one number")
    if not hasattr(loss.weight, "__float__"):
        refuse(whose, f"the weight of loss {loss.name!r} is {described(loss.weight)}; it must be a number")
    if not loss.value.requires_grad:
        refuse(whose, f"loss {loss.name!r} depends on no weight of a trained network")
    return loss


def checked_teaching(method: Method, found: Any, losses: Container[str]) -> Teaching:
    """The teaching that a method's generator returned at its end; `losses` are the names that it yielded.

    Raises:
        UserError: there was no loss, or it is no `Teaching`, or a scalar of it can't be logged.
    """
    whose = type(method).__name__
    if not losses:
        refuse(whose, "losses yielded nothing")
    teaching = Teaching() if found is None else found
    if not isinstance(teaching, Teaching):
        refuse(whose, f"losses returned {described(teaching)}; return a Teaching, or nothing")
    for name, value in teaching.scalars.items():
        if name in TAKEN or name in losses:
            refuse(whose, f"a scalar of its Teaching is named {name!r}, which is taken; give it another name")
        if not hasattr(value, "detach") or value.ndim:
            refuse(whose, f"scalar {name!r} is {described(value)}; it must be a tensor of one number")
    return teaching


def described(value: Any) -> str:
    """The type of a value, and its shape if it has one."""
    shape = getattr(value, "shape", None)
    return f"a {type(value).__name__}" + (f" of shape {tuple(shape)}" if shape is not None else "")


def refuse(whose: str, what: str) -> NoReturn:
    """Raise UserError about a method."""
    raise UserError(f"method {whose}: {what} (docs/methods.md)")
