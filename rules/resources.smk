# Memory, time and GPUs of the rules.


def beside_others(most):
    """Threads of jobs that others can run beside: up to ``most``, but half of this machine's cores. Two jobs gain more
    from two cores than two threads of one do, as the start and the end of a job keep one core busy."""

    def resolve(wildcards):
        if not (workflow.is_main_process and workflow.local_exec):
            return most  # on a cluster each job has a machine's share to itself
        return min(most, max(1, workflow.cores // 2))

    return resolve


def growing(megabytes):
    """Memory that doubles with every attempt (``retries`` of a profile). ``megabytes``: a number, or a function of the
    wildcards."""

    def resolve(wildcards, attempt):
        first = megabytes(wildcards) if callable(megabytes) else megabytes
        return first * 2 ** (attempt - 1)

    return resolve


def longer(minutes):
    """Run time that grows with every attempt: a job that was killed at its limit begins anew (but training goes on)."""
    return lambda wildcards, attempt: minutes * attempt


def training_memory(wildcards):
    """Megabytes of a training job: the samples, as many as the config gives room, and 1.5 GB for all else."""
    return 1500 + round(project.method(wildcards.method).training.buffer_memory / 1e6)


def training_gpus(wildcards):
    return project.method(wildcards.method).training.gpus
