"""A search on a Dask cluster: here two workers of this machine; the address of any other scheduler does as well.

    pip install 'ocnna-onnx[dask]'
    python examples/search_on_dask.py models/digits_vgg.onnx digits found/

On machines of your own: `dask scheduler` on one, `dask worker tcp://ADDRESS:8786 --nthreads 1` on each (with this
package installed there; nothing else is needed, samples and net are sent), then

    ocnna-onnx search in.onnx found/ --data pictures/ --dask tcp://ADDRESS:8786
"""

from __future__ import annotations

import sys

from distributed import LocalCluster

import ocnna_onnx


def main(model: str, data: str, folder: str, generations: int = 10, samples: int = 256) -> None:
    """Search, and write what was found to the folder."""
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        found = ocnna_onnx.search(
            model,
            data=data,
            folder=folder,
            generations=generations,
            samples=samples,
            dask=cluster.scheduler_address,
            watch=lambda s: print(f"generation {s.generation}: {s.evaluated} candidates, {s.hypervolume:.4f}"),
        )
    found.save(folder)


if __name__ == "__main__":
    main(*sys.argv[1:4], *map(int, sys.argv[4:]))
