"""New methods with a slip: one line names it, before the run or in its first step."""

from collections.abc import Callable
from typing import ClassVar

import pytest
import torch
from pydantic import BaseModel, Field

from furnace.checks.estimate import random_batch
from furnace.engine.distributed import CPU
from furnace.methods.build import build_network, described_method
from furnace.methods.method import METHODS, Loss, Method, SemiSupervised, Teaching
from furnace.methods.settings import all_settings
from furnace.utils.errors import UserError
from furnace.utils.settings import Settings
from tests.engine.steps import seeded_learner

pytestmark = pytest.mark.usefixtures("registries")


class Plain(Method):
    """Supervised training of one network."""

    trained = (1,)
    unlabeled = False

    def losses(self, networks, batch):
        yield Loss("sup", self.criterion(networks.logits(batch.images, 1), batch.labels))


class Own(Plain):
    class Settings(Plain.Settings):
        power: float = Field(2.0, description="a power")


class Same(Plain):
    class Settings(Plain.Settings):
        power: float = Field(2.0, description="another description")


class Differs(Plain):
    class Settings(Plain.Settings):
        power: float = Field(3.0, description="a power")


class Bounded(Plain):
    class Settings(Plain.Settings):
        power: float = Field(2.0, description="a power", ge=0)


class Common(Plain):
    class Settings(Plain.Settings):
        momentum: float = Field(0.5, description="of something else")


class Redeclared(SemiSupervised):
    class Settings(SemiSupervised.Settings):
        confidence_threshold: float = Field(0.7, description="of pseudo labels")

    losses = Plain.losses


class NoModel(Plain):
    class Settings:
        power = 2


class OtherBase(SemiSupervised):
    class Settings(BaseModel):
        power: float = 2

    losses = Plain.losses


class Silent(Method):
    trained = (1,)


class Misspelled(Plain):
    known: ClassVar = {"strogn": (False,)}


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ([Own, Same], None),
        (
            [Own, Differs],
            "method 'new1': its setting power differs from that of method 'new0'; choose another name",
        ),
        ([Own, Bounded], "method 'new1': its setting power differs from that of method 'new0'"),
        ([Common], "method 'new0': momentum is a setting of all methods; choose another name"),
        ([Redeclared], "its setting confidence_threshold differs from that of method '.*default in `published`"),
        ([NoModel], r"method 'new0': its Settings must derive from Method\.Settings"),
        ([OtherBase], r"method 'new0': its Settings must derive from SemiSupervised\.Settings"),
        ([Silent], "method 'new0': its class has no function `losses`"),
        ([lambda: None], "method 'new0': is not a class that derives from Method"),
        ([Settings], "method 'new0': is not a class that derives from Method"),
        ([Misspelled], "method 'new0': known or published has 'strogn', which is no setting"),
    ],
)
def test_a_class_that_does_not_fit_is_named_with_the_settings(classes: list, message: str | None):
    for number, one in enumerate(classes):
        METHODS.register(f"new{number}")(one)
    if message is None:
        assert all_settings().model_fields["power"].default == 2
        return
    with pytest.raises(UserError, match=message):
        all_settings()


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"trained": (1, 3)}, r"number the networks from 1, each once; they have \[1, 3\]"),
        ({"trained": ()}, r"each once; they have \[\]"),
        ({"trained": 1}, r"trained must be a tuple such as \(1, 2\), averaged a dictionary"),
        ({"averaged": (2,)}, "trained must be a tuple"),
        ({"averaged": {2: 3}}, "averaged: 3 is no trained network"),
        ({"averaged": {1: 1}}, r"each once; they have \[1, 1\]"),
        ({"reported": "3"}, "reported = '3': must be one of 1, as text"),
        ({"reported": 1}, "reported = 1: must be one of 1, as text"),
        ({"reported": "both"}, "reported = 'both': must be one of 1, as text"),
    ],
)
def test_networks_that_do_not_fit_are_named(make_settings: Callable, attributes: dict, message: str):
    METHODS.register("new")(type("New", (Plain,), attributes))
    with pytest.raises(UserError, match=rf"^method 'new': .*{message}"):
        described_method(make_settings(method="new"))


@pytest.mark.parametrize("state", [{"branch1": torch.zeros(1)}, {"a.b": torch.zeros(1)}, {"count": 3}])
def test_a_state_that_can_not_be_kept_is_named(make_settings: Callable, state: dict):
    METHODS.register("new")(type("New", (Plain,), {"state": lambda self, num_classes: state}))
    with pytest.raises(UserError, match=rf"^method 'new': its state '{next(iter(state))}' can't be kept"):
        build_network(make_settings(method="new"), pretrained=False)


def a_list(self, networks, batch):
    return list(Plain.losses(self, networks, batch))


def nothing(self, networks, batch):
    yield from ()


def a_tensor(self, networks, batch):
    yield networks.logits(batch.images, 1).mean()


def a_pair(self, networks, batch):
    yield "sup", networks.logits(batch.images, 1).mean()


def a_map(self, networks, batch):
    yield Loss("sup", networks.logits(batch.images, 1))


def a_float(self, networks, batch):
    yield Loss("sup", 0.5)


def no_weight(self, networks, batch):
    (loss,) = Plain.losses(self, networks, batch)
    yield loss._replace(weight=None)


def no_gradient(self, networks, batch):
    yield Loss("sup", networks.logits(batch.images, 1).mean().detach())


def one_name(self, networks, batch):
    yield from Plain.losses(self, networks, batch)
    yield from Plain.losses(self, networks, batch)


def the_total(self, networks, batch):
    (loss,) = Plain.losses(self, networks, batch)
    yield loss._replace(name="loss")


def a_dictionary(self, networks, batch):
    yield from Plain.losses(self, networks, batch)
    return {"sup": 1}


def a_scalar(value: object, name: str = "share") -> Callable:
    def losses(self, networks, batch):
        yield from Plain.losses(self, networks, batch)
        return Teaching(scalars={name: value})

    return losses


@pytest.mark.parametrize(
    ("losses", "message"),
    [
        (a_list, "losses returned a list; let it yield each Loss"),
        (nothing, "losses yielded nothing"),
        (a_tensor, r"losses yielded a Tensor of shape \(\); yield Loss\(name, value, weight\)"),
        (a_pair, "losses yielded a tuple; yield Loss"),
        (a_map, r"the value of loss 'sup' is a Tensor of shape \(4, 21, .*; it must be a tensor of one number"),
        (a_float, "the value of loss 'sup' is a float; it must be"),
        (no_weight, "the weight of loss 'sup' is a NoneType; it must be a number"),
        (no_gradient, "loss 'sup' depends on no weight of a trained network"),
        (one_name, "a loss is named 'sup', which is taken"),
        (the_total, "a loss is named 'loss', which is taken"),
        (a_dictionary, "losses returned a dict; return a Teaching, or nothing"),
        (a_scalar(0.5), "scalar 'share' is a float; it must be a tensor of one number"),
        (a_scalar(torch.zeros(2)), r"scalar 'share' is a Tensor of shape \(2,\)"),
        (a_scalar(torch.zeros(()), "sup"), "a scalar of its Teaching is named 'sup', which is taken"),
        (a_scalar(torch.zeros(())), None),
    ],
)
def test_losses_that_do_not_fit_are_named_in_the_first_step(make_settings: Callable, losses, message: str | None):
    METHODS.register("new")(type("New", (Plain,), {"losses": losses}))
    C = make_settings(method="new", head_channels=8, batch_size=4)
    learner, batch = seeded_learner(C, CPU, amp="off"), random_batch(C, CPU, 4, C.image_height, C.image_width)
    if message is None:
        assert "share" in learner.step(batch, 0).scalars
        return
    with pytest.raises(UserError, match=rf"^method New: {message}"):
        learner.step(batch, 0)
