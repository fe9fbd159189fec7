# Command lines of programs, and the code that Snakemake compares with the last run.

# Settings of `policy` that affect how policies are computed, and the programs that compute policies.
ARITHMETIC = ["quantization", "use_liger_kernel"]
COMPUTE_POLICIES = {
    *["generate", "logprobs", "train", "mix_pairs", "measure_kl", "measure_gradients"],
    *["measure_perplexity", "import_policy"],
}


def warm_start(warm=True):
    """Return the path of the program that forks another one from the warm process; empty for a new process.

    Jobs of a cluster and jobs in containers start in new processes, because they do not share a machine.
    """
    local = workflow.local_exec and workflow.is_main_process and not IN_CONTAINER
    return [SCRIPTS / "_start.py"] if warm and local and config["warm_start"] else []


def program(name, *packaged, compared=True, warm=lambda wildcards: True):
    """Return params of a rule: the command of its program, and the code that Snakemake compares with the last run.

    The command is the path of the program, followed by flags for models that may run their own code and for how the
    base model of policies is computed. If `warm` is true for the wildcards, it begins with the program that forks from
    the warm process. The command is a function of `output`, which Snakemake does not compare, so a clone can move
    without a rerun.

    The code is a hash of the program and its imports, and of `packaged` files of the clone, and names the settings of
    the base model.
    """
    path = SCRIPTS / f"{name}.py"
    computes = name in COMPUTE_POLICIES
    words = [path, *trusted_models(), *(computed_models() if computes else [])]
    arithmetic = [
        f"{key} {config['policy'][key]}"
        for key in ARITHMETIC
        if computes and config["policy"][key]
    ]

    @cache
    def text_of_code():
        files = [sha256_of(CLONE / file)[:16] for file in packaged]
        return " ".join([f"{name}.py", code_hash(path)[:16], *files, *arithmetic])

    @cache
    def text_of_command(is_warm):
        return shlex.join(map(str, [*warm_start(is_warm), *words]))

    def code(wildcards):
        return text_of_code()

    def command(wildcards, output):
        return text_of_command(warm(wildcards))

    return {"program": command} | ({"code": code} if compared else {})


def computed_models():
    """Return flags for how the base model of all policies is loaded; none by default."""
    policy = config["policy"]
    words = ["--quantized-model", BASE, policy["quantization"]]
    return [
        *(words if policy["quantization"] else []),
        *(["--liger-model", BASE] if policy["use_liger_kernel"] else []),
    ]


@cache
def trusted_models():
    """Return flags for the models that may run their own code, and for models that the experiment derives from them."""
    manifests = [
        manifest_of(source)
        for source in MODELS.values()
        if may_run_code(config, source)
    ]
    manifests += [BASE] if FETCHED in manifests else []
    for name in REWARD_MODELS:
        if may_run_code(config, config["reward_models"][name]["base"]):
            manifests.append(manifest_of(TRAINED + name))
    return [
        word
        for manifest in dict.fromkeys(manifests)
        for word in ("--trusted-model", manifest)
    ]
