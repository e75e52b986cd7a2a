#!/bin/bash
# Fifty thousand samples by an array of jobs on Slurm: sbatch slurm_array.sh MODELS OUT
# Each element draws its share and then what others left; an element that is killed may be started again.
#SBATCH --job-name=samples
#SBATCH --array=0-15
#SBATCH --gpus=1
#SBATCH --cpus-per-task=8
#SBATCH --time=04:00:00
#SBATCH --requeue

guidance-jax sample --models "$1" --out "$2" --n 50000 --method CFG --scale 2
