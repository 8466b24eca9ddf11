"""``c3d-tools merge``: the parts of a run to one feature file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from c3d_extract.cli.common import guarded, note
from c3d_extract.cli.options import debug_option, overwrite_option, quiet_option

__all__ = ["command"]

OUTPUT = click.Path(dir_okay=False, path_type=Path)


@click.command("merge", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("run")
@click.option("-o", "--output", type=OUTPUT, required=True, help="The feature file to write.")
@click.option("--clips", type=OUTPUT, help="Write the clips of all parts to this file as well.")
@click.option(
    "--parquet",
    type=click.Path(file_okay=False, path_type=Path),
    help="Also write videos.parquet, and clips.parquet with --clips, into this folder.",
)
@click.option("--l2", is_flag=True, help="L2-normalise each video's average, as the paper does.")
@click.option("--pca", type=int, metavar="K", help="Then fit PCA on all videos and keep K dimensions.")
@click.option(
    "--scratch",
    type=click.Path(file_okay=False, exists=True, path_type=Path),
    help="Where parts of a RUN in an object store are copied to.  [default: the system's temporary folder]",
)
@click.option("--allow-missing", is_flag=True, help="Merge the parts that are done, though others are not.")
@overwrite_option("Replace an earlier output.")
@quiet_option
@debug_option
@guarded
def command(run: str, output: Path, *, overwrite: bool, quiet: bool, **options: Any) -> None:
    """Merge the parts of RUN, a folder or address that `c3d-extract --shard` filled, into one feature file.

    Its datasets equal those of a run on one machine, to the bit, on processors of one model.
    """
    from c3d_extract.distributed.merge import MergeOptions, merge_parts

    options.pop("debug")
    written = merge_parts(run, output, MergeOptions(**options, overwrite=overwrite))
    if not quiet:
        note(f"{run} → {', '.join(map(str, written))}")
