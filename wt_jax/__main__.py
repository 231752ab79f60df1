"""`wt-jax COMMAND`: all commands under one name; the same as `python -m` with the command's module.

Nothing but the table is imported before the command is known, so that `wt-jax --help` answers at once.
"""

import difflib
import runpy
import sys

COMMANDS = {
    # name: (module, its first arguments, what it does)
    "train": ("wt_jax.main", [], "pre-train by a configuration, go on where the workdir is, evaluate"),
    "inspect": ("wt_jax.main", ["--mode=inspect"], "print the train state and the memory of a step; nothing is trained"),
    "quickstart": ("wt_jax.tools.quickstart", [], "write the embedded data set, pre-train on it, compare"),
    "compare": ("wt_jax.tools.compare", [], "train several methods alike, several seeds, one table"),
    "evaluate": ("wt_jax.tools.evaluate", [], "compare encoders by the protocols of the field"),
    "report": ("wt_jax.tools.report", [], "write the report of a run or an evaluation"),
    "export-weights": ("wt_jax.tools.export_weights", [], "write the encoder of a run as safetensors with a model card"),
    "convert-weights": ("wt_jax.tools.convert_weights", [], "turn published weights into one of our encoders"),
    "store-clips": ("wt_jax.tools.store_clips", [], "store an encoder's features of the clips of videos, to train on them"),
    "export-pytorch": ("wt_jax.tools.export_pytorch", [], "write an encoder as PyTorch weights of its family"),
    "concept-table": ("wt_jax.tools.concept_table", [], "make a table of text features of named concepts"),
    "check-videos": ("wt_jax.tools.check_videos", [], "read every video once and write an index of what is usable"),
    "make-lists": ("wt_jax.tools.make_lists", [], "turn a data set's official annotations into list files"),
    "pack": ("wt_jax.tools.pack", [], "re-encode a data set into shards that training reads fast"),
    "pack-beam": ("wt_jax.tools.pack_beam", [], "pack as an Apache Beam pipeline"),
    "search": ("wt_jax.tools.search", [], "index an archive of videos and search it by motion, in a browser"),
    "search-index": ("wt_jax.tools.search_index", [], "index an archive of videos to search it by motion"),
    "search-query": ("wt_jax.tools.search_query", [], "find the moments of an index that are like a clip"),
    "bench-loader": ("wt_jax.bench.loader", [], "measure how fast videos become batches"),
    "bench-supply": ("wt_jax.bench.supply", [], "simulate whether a training waits for its data"),
    "bench-step": ("wt_jax.bench.step", [], "measure the training step"),
    "bench-gpu": ("wt_jax.bench.gpu", [], "check a machine with GPUs and write one file to send back"),
    "bench-masked": ("wt_jax.bench.masked", [], "measure masked training beside that of all tokens"),
    "bench-layers": ("wt_jax.bench.layers", [], "measure what each layer of the CPU runtime earns where it is used"),
    "bench-search": ("wt_jax.bench.search", [], "measure the search beside FAISS, NumPy and Milvus"),
    "bench-excerpts": ("wt_jax.bench.excerpts", [], "measure whether altered excerpts are found in a long video"),
    "bench-indexing": ("wt_jax.bench.indexing", [], "measure the indexing of videos beside reading and encoding them alone"),
    "bench-fidelity": ("wt_jax.bench.fidelity", [], "compare methods and recipes with the published code"),
    "bench-chaos": ("wt_jax.bench.chaos", [], "kill and restart a training at random moments, compare the end states"),
}


def main() -> None:
    """Run the command that the first argument names; exit code 2 if there is none of that name."""
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in ("--help", "-h"):
        print(_help())
        return
    if name not in COMMANDS:
        close = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"; did you mean {close[0]}?" if close else ";"
        print(f"wt_jax: unknown command {name!r}{hint} `wt-jax --help` lists all", file=sys.stderr)
        sys.exit(2)
    module, first, _ = COMMANDS[name]
    sys.argv = [sys.argv[0], *first, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = (f"  {name:{width}}  {text}" for name, (_, _, text) in COMMANDS.items())
    return "\n".join(["usage: wt-jax COMMAND [OPTIONS]", "", *lines, "", "`wt-jax COMMAND --help` lists the options of one."])


if __name__ == "__main__":
    main()
