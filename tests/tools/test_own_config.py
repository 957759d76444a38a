"""The settings of an experiment on own images fit their sizes and numbers."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from furnace.datasets.splits import Sample
from furnace.tools.own_config import CPU, CROP_STEP, GPU, LEAST_ITERATIONS, config_text, scale_of
from furnace.tools.own_lists import Data


def data_of(size: tuple[int, int], train: int = 8, unlabeled: int = 20) -> Data:
    samples = [Sample(str(number), Path(f"{number}.png"), Path(f"{number}.png")) for number in range(train + unlabeled)]
    return Data(Path("/mine"), samples[:train], samples[:2], samples[train:], size, [0, 1], ["a", "b"], 2)


@pytest.mark.parametrize(
    ("size", "scale"), [((90, 70), 1), ((240, 200), 1), ((360, 480), 0.5), ((1080, 1920), 0.25), ((3000, 4000), 0.25)]
)
def test_large_images_become_smaller_on_a_cpu(size: tuple[int, int], scale: float):
    assert scale_of(data_of(size), CPU) == scale
    assert scale_of(data_of(size), GPU) == 1


sides = st.integers(33, 5000)


@given(size=st.tuples(sides, sides), train=st.integers(2, 300), unlabeled=st.integers(2, 300), small=st.booleans())
def test_settings_fit_the_images(size: tuple[int, int], train: int, unlabeled: int, small: bool):
    scope, values = CPU if small else GPU, {}
    data = data_of(size, train, unlabeled)
    exec(config_text("mine", data, scope), {"__file__": "/root/exp_mine/config.py"}, values)
    C = values["C"]
    scale = scale_of(data, scope)
    assert C.image_height % CROP_STEP == 0 and CROP_STEP <= C.image_height <= scope.crop
    assert C.image_height == CROP_STEP or C.image_height <= min(size) * scale
    assert C.eval_crop_size <= min(scope.window, max(size) * scale + 1) and C.eval_scale_array == [scale]
    assert 2 <= C.batch_size <= min(train, unlabeled, scope.batch)
    assert C.nepochs * C.niters_per_epoch >= min(LEAST_ITERATIONS, C.nepochs * 80)
    assert (C.num_train_imgs, C.num_unsup_imgs, C.num_classes) == (train, unlabeled, 2)
