# Memory, time and GPUs of the rules.


DECODING_THREADS = 8  # beside a GPU
GPU_PROCESS_MB = 4000  # main memory of a process that uses CUDA


def beside_others(most, networks=lambda wildcards: False):
    """Threads of jobs that others can run beside: up to ``most``, but half of this machine's cores. Two jobs gain more
    from two cores than two threads of one do, as the start and the end of a job keep one core busy. A job whose
    ``networks`` run on a GPU has it for itself, and threads that decode photos."""

    def resolve(wildcards):
        if one_gpu(networks)(wildcards):
            return DECODING_THREADS
        if most == 1:
            return 1
        if not (workflow.is_main_process and workflow.local_exec):
            return most  # on a cluster each job has a machine's share to itself
        return min(most, max(1, workflow.cores // 2))

    return resolve


def growing(megabytes, networks=lambda wildcards: False):
    """Memory that doubles with every attempt (``retries`` of a profile). ``megabytes``: a number, or a function of the
    wildcards."""

    def resolve(wildcards, attempt):
        first = megabytes(wildcards) if callable(megabytes) else megabytes
        first += GPU_PROCESS_MB * one_gpu(networks)(wildcards)
        return first * 2 ** (attempt - 1)

    return resolve


def longer(minutes):
    """Run time that grows with every attempt: a job that was killed at its limit begins anew (but training goes on)."""
    return lambda wildcards, attempt: minutes * attempt


def training_memory(wildcards):
    """Megabytes of a training job: the samples, as many as the config gives room, and 1.5 GB for all else."""
    return 1500 + round(project.method(wildcards.method).training.buffer_memory / 1e6)


# ----------------------------------------------------------------------------------------------------------------- GPU


def jobs_have_gpus():
    """With ``device: auto`` on this machine if it has a GPU. A cluster is asked for one, whatever the machine that
    Snakemake runs on has."""
    device = os.environ["SCRFLOW_DEVICE"]
    if device != "auto":
        return device.startswith("cuda")
    local = workflow.is_main_process and workflow.local_exec
    return machine_has_gpu() if local else True


def one_gpu(networks):
    """1 for a job whose ``networks`` (of the wildcards) run on a GPU, 0 for others."""
    return lambda wildcards: int(networks(wildcards) and jobs_have_gpus())


def training_gpus(wildcards):
    """0 only where the config's device is the CPU."""
    return 0 if os.environ["SCRFLOW_DEVICE"] == "cpu" else project.method(wildcards.method).training.gpus


def encoding_on_gpu(wildcards):
    return project.config.encodings[wildcards.encoding].device != "cpu"


def encoder_network(wildcards):
    return project.encoders[wildcards.encoder].extractor.uses_gpu


def tracks_network(wildcards):
    return project.config.tracks[wildcards.tracks].features.extractor.uses_gpu


def feature_networks(wildcards):
    """Those that describe mapping images; a fusion is joined from files."""
    fusion = project.config.retrieval[wildcards.feature].kind == "fusion"
    return not fusion and describing_networks(wildcards.feature)


def describing_networks(name):
    """Those that describe a query: the feature's, or those of its parts."""
    feature = project.config.retrieval[name]
    if feature.kind == "fusion":
        return any(map(describing_networks, feature.parts))
    if feature.kind == "vlad":
        return project.encoders[feature.encoder].extractor.uses_gpu
    return feature.kind == "network"


def method_networks(wildcards):
    """Those that a query passes before the head."""
    method = project.method(wildcards.method)
    extractors = [] if method.encoder is None else [project.encoders[method.encoder].extractor]
    if method.landmarks is not None:
        extractors.append(project.config.tracks[method.landmarks.tracks].features.extractor)
    described = method.retrieval is not None and describing_networks(method.retrieval)
    return described or any(extractor.uses_gpu for extractor in extractors)


def baseline_networks(wildcards):
    return project.baseline(wildcards.baseline).features.extractor.uses_gpu


def baseline_query_networks(wildcards):
    retrieval = project.baseline(wildcards.baseline).retrieval
    return baseline_networks(wildcards) or describing_networks(retrieval)
