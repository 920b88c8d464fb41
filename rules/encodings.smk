# Global encodings: one vector a mapping image.


rule embed_graph:
    input:
        graph="results/{scene}/covisibility.npz",
    output:
        encoding="results/{scene}/encodings/{encoding}.h5",
        metrics="results/{scene}/encodings/{encoding}.json",
    log:
        "results/{scene}/logs/embed_graph/{encoding}.log",
    benchmark:
        "results/{scene}/benchmarks/embed_graph/{encoding}.tsv"
    conda:
        "../envs/scrflow.yaml"
    threads: 2
    resources:
        mem_mb=2000,
        runtime=120,
    params:
        config=stage_config("node2vec"),
        code=code_version("node2vec", "node2vec.reference_worker"),
    message:
        "{wildcards.scene}: Node2Vec, {wildcards.encoding}"
    script:
        "../workflow/scripts/embed_graph.py"
