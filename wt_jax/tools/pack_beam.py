"""`wt_jax.tools.pack` as an Apache Beam pipeline, for archives that one machine cannot hold (`pip install wt_jax[beam]`):

    wt-jax pack-beam LIST OUT [the flags of pack] [Beam's options, such as --runner=DataflowRunner]

The work is that of `pack`, shard by shard, and the folder is alike. LIST and OUT lie where every worker can
reach them, as gs://... or a shared disk, and workers need wt_jax (Beam: --setup_file or --sdk_container_image). Without
options the pipeline runs on this machine.
"""

from collections.abc import Sequence

from wt_jax.cli import parse_arguments, set_up_logging, user_errors
from wt_jax.data.packing import Row, Shard, finish, pack_shard
from wt_jax.errors import SourceError
from wt_jax.tools.pack import add_arguments, plan


def pack_on_beam(shards: Sequence[Shard], out: str, options: Sequence[str]) -> None:
    """Packs shards on the runner that Beam's options name, and writes the index."""
    import apache_beam as beam  # pyright: ignore[reportMissingImports]  # of an extra
    from apache_beam.options.pipeline_options import PipelineOptions  # pyright: ignore[reportMissingImports]  # of an extra

    with beam.Pipeline(options=PipelineOptions(list(options))) as pipeline:
        _ = (
            pipeline
            | "Shards" >> beam.Create(list(shards))
            | "Spread" >> beam.Reshuffle()
            | "Pack" >> beam.Map(_numbered)
            | "Gather" >> beam.combiners.ToList()
            | "Index" >> beam.Map(_finish, out)
        )


def _numbered(shard: Shard) -> tuple[int, list[Row]]:
    return shard.number, pack_shard(shard)


def _finish(packed: list[tuple[int, list[Row]]], out: str) -> None:
    finish(out, dict(packed))


def main(argv: Sequence[str] | None = None) -> None:
    """Pack a data set on a cluster."""
    parser = parse_arguments(__doc__)
    add_arguments(parser)
    args, options = parser.parse_known_args(argv)
    set_up_logging()
    with user_errors():
        try:
            import apache_beam  # pyright: ignore[reportMissingImports]  # of an extra  # noqa: F401
        except ImportError as error:
            raise SourceError(f"Apache Beam is not installed ({error}); pip install 'wt_jax[beam]'") from error
        pack_on_beam(plan(args), args.out, options)
        print(f"train on it with --config.data.train={args.out}")


if __name__ == "__main__":
    main()
