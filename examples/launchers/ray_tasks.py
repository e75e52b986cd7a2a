"""Samples by tasks of Ray: `python ray_tasks.py MODELS OUT N WORKERS`, on one machine or a cluster that mounts OUT."""

import subprocess
import sys

import ray


@ray.remote(num_gpus=0, max_retries=5)  # num_gpus=1 where there are some
def sample(models: str, out: str, n: str, worker: str) -> None:
    """One worker: the command itself, so that a task which is retried starts from nothing."""
    command = ["guidance-jax", "sample", "--models", models, "--out", out, "--n", n, "--method", "CFG", "--scale", "2"]
    subprocess.run([*command, "--worker", worker], check=True)


if __name__ == "__main__":
    models, out, n, workers = sys.argv[1:]
    ray.init()
    ray.get([sample.remote(models, out, n, f"{k}/{workers}") for k in range(int(workers))])
