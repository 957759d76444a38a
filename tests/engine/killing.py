"""Kills a training run at random moments and lets it go on, in a process of its own that can fork.

Run as `python -m tests.engine.killing FOLDER KILLS`; prints what a test looks at as JSON.
"""

import json
import random
import sys
import time
from pathlib import Path

from furnace.utils.locks import HOLDER, LOCK
from tests.torture.victim import Victim, same_weights


def main() -> None:
    folder, kills = Path(sys.argv[1]), int(sys.argv[2])
    rng = random.Random(0)
    victim = Victim(folder, method="supervised", nepochs=6, autosave_minutes=1e-9, num_workers=0, keep_snapshots=1)
    begin = time.monotonic()
    victim.start()
    whole = victim.end()
    longest = (time.monotonic() - begin) / 3  # on a busy machine, too, runs come far enough to save
    reference = victim.result() if whole.status == 0 else None
    victim.reset()
    endings, unfinished = [], 0
    while len([ending for ending in endings if ending.status == -9]) < kills:
        if endings and endings[-1].status == 0:
            victim.reset()
        victim.start()
        time.sleep(rng.uniform(0.05, longest))
        victim.kill()
        endings.append(victim.end())
        unfinished += any(victim.snapshot_dir.glob(".*.part"))
    if endings[-1].status == 0:
        victim.reset()
    victim.start()
    last = victim.end()
    found = {
        "statuses": sorted({ending.status for ending in [*endings, whole, last]}),
        "while_saving": unfinished,
        "continued": sum("-c auto: continues" in ending.text for ending in endings),
        "fallen_back": sum("damaged" in ending.text for ending in endings),
        "same": same_weights(victim.result(), reference) if last.status == 0 else last.text,
        "left": sorted({path.name for path in victim.snapshot_dir.iterdir()} - {LOCK, HOLDER}),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
