"""Training: trainer, learner, snapshots, faults, processes, monitor.

The names here are imported at their first use, see `furnace/__init__.py`.
"""

from lazy_loader import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    submod_attrs={
        "devices": ["choose_devices", "keep_freed_memory", "launch", "local_device", "parse_devices"],
        "distributed": ["abandon", "check_launch", "launched", "rank", "start", "stop"],
        "faults": ["faults_explained", "smaller_steps", "smaller_windows"],
        "identity": ["file_digest", "samples_digest"],
        "trainer": ["Trainer"],
    },
)
