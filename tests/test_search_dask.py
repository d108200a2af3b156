"""A search on a Dask cluster: the same front on one worker, on two, and without any; one that dies loses nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nets import MODELS, images, tiny

import ocnna_onnx
from ocnna_onnx.errors import UsageError

pytest.importorskip("distributed", reason="the extra 'dask' is not installed")

pytestmark = pytest.mark.filterwarnings("default")  # Dask's own

EXAMPLE = Path(__file__).parent.parent / "examples" / "search_on_dask.py"
QUICK: dict[str, Any] = {"generations": 3, "population": 30, "align": 1, "threads": 1, "seed": 3}


@pytest.mark.parametrize("workers", [1, 2])
def test_the_front_is_the_same_on_any_number_of_workers(workers: int) -> None:
    from distributed import LocalCluster

    alone = ocnna_onnx.search(tiny(), data=images(48), jobs=1, **QUICK)
    with LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None) as cluster:
        found = ocnna_onnx.search(tiny(), data=images(48), dask=cluster.scheduler_address, **QUICK)
    assert (found.archive.masks == alone.archive.masks).all()
    assert (found.archive.worth.error == alone.archive.worth.error).all()
    assert found.to_csv() == alone.to_csv()


def test_a_worker_that_dies_does_not_lose_the_run() -> None:
    from distributed import LocalCluster

    alone = ocnna_onnx.search(tiny(), data=images(48), jobs=1, **QUICK)
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:

        def kill(standing: ocnna_onnx.Standing) -> None:
            if standing.generation == 1:
                os.kill(cluster.workers[0].pid, signal.SIGKILL)

        found = ocnna_onnx.search(tiny(), data=images(48), dask=cluster.scheduler_address, watch=kill, **QUICK)
    assert np.array_equal(found.archive.masks, alone.archive.masks)


def test_a_scheduler_that_does_not_answer_is_one_line() -> None:
    import dask

    with dask.config.set({"distributed.comm.timeouts.connect": "1s"}), pytest.raises(UsageError, match="no scheduler"):
        ocnna_onnx.search(tiny(), data=images(48), dask="tcp://127.0.0.1:1", **QUICK)


def test_the_example_runs(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLE), str(MODELS / "digits_vgg.onnx"), "digits", str(tmp_path), "1", "32"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "knee.onnx").exists()
