#!/bin/bash
# {{ recipe.stage }} of {{ recipe.variant }}: {{ nodes.count }} x {{ nodes.ranks }} ranks. Written by `fusion train --launcher slurm`.
# Submitted again after a preemption or a failure, it continues from the last complete checkpoint.
#SBATCH --job-name={{ name }}
#SBATCH --nodes={{ nodes.count }}
#SBATCH --ntasks-per-node=1
{% if recipe.hardware.device == "cuda" %}
#SBATCH --gpus-per-node={{ nodes.ranks }}
{% endif %}
#SBATCH --cpus-per-task={{ nodes.ranks * recipe.hardware.threads_per_rank }}
#SBATCH --time={{ launch.slurm.time }}
#SBATCH --signal=TERM@{{ launch.slurm.grace_seconds }}
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=runs/launch/{{ name }}-%j.log
{% if launch.slurm.partition %}
#SBATCH --partition={{ launch.slurm.partition }}
{% endif %}
{% if launch.slurm.account %}
#SBATCH --account={{ launch.slurm.account }}
{% endif %}
{% for directive in launch.slurm.directives %}
#SBATCH {{ directive }}
{% endfor %}
set -euo pipefail
cd "$SLURM_SUBMIT_DIR"
# Who waits for this job reads its exit code here: not every cluster keeps accounts.
rm -f "runs/launch/$SLURM_JOB_ID.code"
trap 'echo $? > "runs/launch/$SLURM_JOB_ID.code"' EXIT
trap 'exit 143' TERM  # a shell that is ended by the signal itself would leave the code of the command before
{% for line in launch.setup %}
{{ line }}
{% endfor %}
export PATH={{ programs | quoted }}:"$PATH"
{% for key, value in variables.items() %}
export {{ key }}={{ value | quoted }}
{% endfor %}
MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export MASTER_ADDR
# Every task learns the number of its node from SLURM; one that fails ends the others.
srun --kill-on-bad-exit=1 bash -c {{ command | quoted }}
