"""Training the head on the buffer, on the CPU, one GPU or several, in memory or out of core, resumable at any step.

``stage``        the job: inputs checked, trained, head written
``trainer``      the loop, its record and its checkpoint
``samples``      from rows of the buffer to inputs and targets of a batch
``stream``       which rows come when: shuffled chunks, read in the background where they do not fit in memory
``columns``      the rows' columns on the training device, in float16 or int8
``flat``         all parameters as one vector, and replicas that share it
``optimizer``    AdamW, Muon
``linear``       linear layers whose backward pass is in bf16
``schedule``     learning rate and precision
``holdout``      mapping images that are not trained on, and the early stop by them
``distributed``  several processes, each with its share of the shards

Needs torch, numpy, scipy, h5py, safetensors and pydantic alone, so that the tree and the artifacts are enough on a GPU
machine.
"""
