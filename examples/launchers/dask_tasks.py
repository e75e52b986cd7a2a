"""Samples by tasks of Dask: `python dask_tasks.py MODELS OUT N WORKERS`.

On Slurm, `SLURMCluster(cores=8, memory="32GB", job_extra_directives=["--gpus=1"])` of dask-jobqueue takes the place of
the local cluster.
"""

import subprocess
import sys

from dask.distributed import Client, LocalCluster


def sample(models: str, out: str, n: str, worker: str) -> None:
    """One worker: the command itself."""
    command = ["guidance-jax", "sample", "--models", models, "--out", out, "--n", n, "--method", "CFG", "--scale", "2"]
    subprocess.run([*command, "--worker", worker], check=True)


if __name__ == "__main__":
    models, out, n, workers = sys.argv[1:]
    with LocalCluster(n_workers=int(workers), threads_per_worker=1) as cluster, Client(cluster) as client:
        client.gather(
            [client.submit(sample, models, out, n, f"{k}/{workers}", pure=False) for k in range(int(workers))]
        )
