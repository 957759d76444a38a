"""Imitations of what the published code does differently, with the numbers of docs/differences.md."""

import cv2
import numpy as np
import pytest
from torch.utils.data import DataLoader, Dataset

from furnace.datasets.cutmix import BoxMaskGenerator
from furnace.datasets.transforms import scaled_side

CITYSCAPES_ITERATIONS = 162  # per epoch at 1/8
UNSEEDED = np.random.RandomState(12345).get_state()


class Masks(Dataset):
    """CutMix masks drawn from NumPy's global generator."""

    def __len__(self) -> int:
        return CITYSCAPES_ITERATIONS

    def __getitem__(self, index: int) -> np.ndarray:
        return BoxMaskGenerator()(2, (16, 16), np.random.mtrand._rand)


def test_workers_without_their_own_seeds_draw_41_batches_of_masks() -> None:
    """As in PyTorch before 1.9: in every epoch, each worker has a copy of the parent's generator."""
    loader = DataLoader(Masks(), batch_size=None, num_workers=4, worker_init_fn=lambda _: np.random.set_state(UNSEEDED))
    drawn = [{masks.numpy().tobytes() for masks in loader} for _ in range(2)]
    assert len(drawn[0]) == 41 and drawn[0] == drawn[1]


@pytest.mark.parametrize("scale, rows, sizes", [(0.5, 0, 0), (0.75, 75, 52), (1.5, 0, 0), (1.75, 72, 52), (2.0, 0, 0)])
def test_rows_of_scaled_labels_that_opencv_takes_from_the_neighbour(scale: float, rows: int, sizes: int) -> None:
    found = []
    for side in range(200, 2049):
        scaled = scaled_side(side, scale)
        row = np.arange(side, dtype=np.float32)[:, None]
        published = cv2.resize(row, (1, scaled), interpolation=cv2.INTER_NEAREST)[:, 0].astype(int)
        found.append((published != np.arange(scaled) * side // scaled).sum())
    assert (sum(found), np.count_nonzero(found)) == (rows, sizes)
