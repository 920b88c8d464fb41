# Inputs of the rules that depend on the config.


def scene_root(wildcards):
    return str(project.scene_root(wildcards.scene))


def scene_sources(wildcards):
    """Files that make the scene, or the marker of its download. Both are on this machine, wherever
    --default-storage-provider puts results."""
    marker = downloaded(wildcards.scene)
    if marker:
        return marker
    return [local(path) for path in source_files(project.scene(wildcards.scene), project.scene_root(wildcards.scene))]


def downloaded(scene):
    """The marker of a scene's download, before and after it: files that come with it would be other inputs then."""
    root = project.scene(scene).root
    return [local(f"resources/{root}.downloaded")] if project.is_downloaded(scene) else []


def download_table(wildcards):
    files = project.downloads()[wildcards.root].files
    return local(str(project.path_of(f"scenes/{files}"))) if files else []


def is_bare_photos(scene):
    return project.scene(scene).source.reader == "photos"


def scene_sfm(wildcards):
    return f"results/{wildcards.scene}/sfm/sfm.json" if is_bare_photos(wildcards.scene) else []


def scene_parts(wildcards):
    """The scenes that a combined one is made of."""
    return expand("results/{part}/scene/scene.json", part=project.parts(wildcards.scene))


def graph_points(wildcards):
    """The 3D points that the named graph, or the scene's own, counts (kind ``points``), or that depths are measured by
    where the scene has no points of its own."""
    scene = project.scene(wildcards.scene)
    graph = wildcards.get("graph", scene.graph)
    measured = scene.depth_range is None and not project.has_points(wildcards.scene)
    if project.config.graphs[graph].kind != "points" and not measured:
        return []
    return scene_sfm(wildcards) or f"results/{wildcards.scene}/triangulated/triangulation.json"


def hloc_features(wildcards):
    feature = project.config.retrieval[wildcards.feature]
    return feature.file.replace("{scene}", wildcards.scene) if feature.kind == "hloc" else []


def fused_features(suffix):
    """Files of the features that a feature of kind fusion is joined from, in the config's order."""
    return lambda wildcards: [
        f"results/{wildcards.scene}/retrieval/{part}.{suffix}"
        for part in project.config.retrieval[wildcards.feature].parts
    ]


def hloc_files(wildcards):
    """Features and matches made by hloc, where SfM of the scene takes them."""
    sfm = project.scene(wildcards.scene).sfm.of_scene(wildcards.scene)
    return [sfm.hloc_features, sfm.hloc_matches] if sfm.features == "hloc" else []


def hloc_scene(wildcards):
    """The scene whose photos hloc reads; none of bare photos, which hloc reads before the scene exists."""
    return [] if is_bare_photos(wildcards.scene) else f"results/{wildcards.scene}/scene/scene.json"


def hloc_sources(wildcards):
    return scene_sources(wildcards) if is_bare_photos(wildcards.scene) else []


def clustered_feature(wildcards):
    """The retrieval feature that an encoding of kind ``clusters`` is made from."""
    name = project.config.encodings[wildcards.encoding].retrieval
    return f"results/{wildcards.scene}/retrieval/{name}.h5"


def encoder_shards(wildcards):
    """All samples of an encoder, or of a method's."""
    encoder = wildcards.get("encoder") or project.method(wildcards.method).encoder
    shards = range(project.config.buffer_shards)
    return [f"results/{wildcards.scene}/local/{encoder}/buffer-{shard}.h5" for shard in shards]


def training_graph(wildcards):
    """The graph that neighbours are drawn from, where the method says so."""
    encoding = project.method(wildcards.method).global_encoding
    used = encoding.name and encoding.neighbour_share > 0
    return graph_file(wildcards.scene, project.graph_of(wildcards.method)) if used else []


def graph_file(scene, name=None):
    """The scene's covisibility graph, or the one of that name."""
    return f"results/{scene}/graphs/{name}.npz" if name else f"results/{scene}/covisibility.npz"


def encoding_graph(wildcards):
    """The graph that Node2Vec walks on."""
    return graph_file(wildcards.scene, project.config.encodings[wildcards.encoding].graph)


def trained(name):
    """A file that training writes, for methods with a head; variants that differ in localization alone share it."""

    def resolve(wildcards):
        has_head = project.method(wildcards.method).head is not None
        return f"results/{wildcards.scene}/{project.head_of(wildcards.method)}/{name}" if has_head else []

    return resolve


def method_tracks(wildcards):
    """The tracks that a method's landmarks are chosen from."""
    landmarks = project.method(wildcards.method).landmarks
    return f"results/{wildcards.scene}/tracks/{landmarks.tracks}.h5" if landmarks is not None else []


def method_graph(wildcards):
    """The graph that a method learns from, by its encoding or by the neighbours that it draws."""
    encoding = project.method(wildcards.method).global_encoding.name
    if encoding not in project.encodings_of_kind("node2vec"):
        return training_graph(wildcards)
    return graph_file(wildcards.scene, project.graph_of(wildcards.method))


def merging_graph(wildcards):
    """The graph by which a map's near-identical images are merged, where the method asks for it."""
    merged = project.method(wildcards.method).map.merge is not None
    return f"results/{wildcards.scene}/covisibility.npz" if merged else []


def training_depths(wildcards):
    """Depths of the samples, for the methods that use them."""
    method = project.method(wildcards.method)
    if not method.training.needs_depth:
        return []
    source = method.training.depth_source
    if source == "maps":
        depth_maps(wildcards.scene, wildcards.method)
    return f"results/{wildcards.scene}/local/{method.encoder}/depth-{source}.h5"


def depth_maps(scene, method=""):
    try:
        return project.depth_maps(scene, method)
    except ScrflowError as error:
        raise WorkflowError(str(error)) from None


def depth_map_files(wildcards):
    """Every file that the scene's pattern of depth images can mean."""
    marker, root = downloaded(wildcards.scene), project.scene_root(wildcards.scene)
    if marker:
        return marker
    pattern = depth_maps(wildcards.scene).pattern.format(folder="**", stem="*", base="*")
    return [local(path) for path in inputs_of(sorted(root.glob(pattern)))]


def depth_points(wildcards):
    """The 3D points that give samples their depths: the scene's own model's, or triangulated ones."""
    own = project.has_points(wildcards.scene)
    return f"results/{wildcards.scene}/" + ("scene/scene.json" if own else "triangulated/triangulation.json")


def global_encoding(wildcards):
    """Node2Vec, or a retrieval feature that serves as global encoding (GLACE); nothing for ACE."""
    name = project.method(wildcards.method).global_encoding.name
    if name is None:
        return []
    folder = "encodings" if name in project.config.encodings else "retrieval"
    return f"results/{wildcards.scene}/{folder}/{name}.h5"


def method_pca(wildcards):
    encoder = project.method(wildcards.method).encoder
    return f"results/{wildcards.scene}/local/{encoder}/pca.safetensors" if encoder else []


def method_retrieval(wildcards):
    name = project.method(wildcards.method).retrieval
    return f"results/{wildcards.scene}/retrieval/{name}.safetensors" if name else []


def method_descriptors(wildcards):
    """Descriptors of the queries, where a file provides them and no extractor at hand could."""
    return given_descriptors(wildcards.scene, project.method(wildcards.method).retrieval)


def baseline_descriptors(wildcards):
    return given_descriptors(wildcards.scene, project.baseline(wildcards.baseline).retrieval)


def given_descriptors(scene, name):
    given = name and project.config.retrieval[name].kind == "hloc"
    return f"results/{scene}/retrieval/{name}.h5" if given else []


def baseline_retrieval(wildcards):
    name = project.baseline(wildcards.baseline).retrieval
    return f"results/{wildcards.scene}/retrieval/{name}.safetensors"


def default_method(name):
    """A file of the scene's default method."""
    return lambda wildcards: f"results/{wildcards.scene}/{project.scene(wildcards.scene).method}/{name}"


# -------------------------------------------------------------------------------------------------------------- tables


def table_metrics(wildcards):
    """What the table's rows measured on its scenes: a file a scene, method and seed."""
    runs = config_for("write_table", wildcards).runs
    return list(dict.fromkeys(f"results/{run.scene}/{run.folder}/metrics.json" for run in runs))


def paper_files(wildcards):
    return sorted(str(path) for path in project.path_of("papers").glob("*.yaml"))


def tables_on(name):
    """Every table that can be asked for on the set."""
    tables = [table for table in project.tables if name in project.table_sets(table)]
    return [f"results/tables/{table}@{name}.md" for table in tables]
