"""Seconds of a change in the explorer: python -m benchmarks.explore results/demo/runs/brats_t1ce_mudiff [SUBJECT]."""

import sys
import time
from dataclasses import replace

from mudiff.explorer import picture
from mudiff.explorer.state import Explorer

if __name__ == "__main__":
    start = (explorer := Explorer(*sys.argv[1:])).first()
    black = [replace(start, off=(name,), replacement="background") for name in explorer.names(start)]
    again = [replace(view, layer=layer) for view in black for layer in explorer.layers]
    for kind, views in ("sampled", [start, *black]), ("not sampled", again), ("one step", [replace(start, steps=1)]):
        for view in views:
            began = time.perf_counter()
            picture.draw(explorer, view)[0].canvas.draw()
            explorer.statistics(view)
            print(f"{kind}, {view.layer}: {time.perf_counter() - began:.2f} s")
