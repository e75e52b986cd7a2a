#!/bin/bash
# Fifty thousand samples by one process for each GPU of a Slurm allocation: sbatch slurm_tasks.sh MODELS OUT
#SBATCH --job-name=samples
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-task=1
#SBATCH --cpus-per-task=8
#SBATCH --time=04:00:00

srun guidance-jax sample --models "$1" --out "$2" --n 50000 --method CFG --scale 2
