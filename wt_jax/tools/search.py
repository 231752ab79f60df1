"""Searches an archive of videos by motion, in a browser: indexes what is new, prints a link, opens the page.

    wt-jax search [VIDEOS] [--index=DIR] [--encoder=RUN_OR_FOLDER] [--host=ADDRESS] [--port=N] [--no_open]

VIDEOS is anything that training takes; without it, the data set of the quick start. The index is kept in runs/search unless
--index names a folder. The page is for this machine alone unless --host names another address; the printed link carries the
token that every request needs.
"""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

from wt_jax.cli import parse_arguments, set_up_logging, user_errors
from wt_jax.errors import SearchError
from wt_jax.tools.search_index import add_arguments, index

_QUICKSTART = Path("runs/quickstart/data")


def main(argv: Sequence[str] | None = None) -> None:
    """Index, then serve."""
    parser = parse_arguments(__doc__, workers=True)
    parser.add_argument("source", metavar="VIDEOS", nargs="?", help="what to search: anything that training takes")
    add_arguments(parser)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at (%(default)s: this machine alone)")
    parser.add_argument("--port", type=int, default=0, help="port (0: any that is free)")
    parser.add_argument("--no_open", action="store_true", help="print the link, open no browser")
    parser.add_argument("--no_index", action="store_true", help="serve the index as it is")
    args = parser.parse_args(argv)
    set_up_logging()
    with user_errors():
        try:
            import starlette  # noqa: F401
        except ImportError:
            raise SearchError("the page needs the extra `search`: pip install 'wt_jax[search]'") from None
        source = args.source or _embedded(args)
        if args.index is None:
            name = re.sub(r"[^\w.-]+", "-", Path(args.source or "quickstart").name or "videos").strip("-")[-40:]
            args.index = Path("runs/search") / f"{name}-{hashlib.sha256(str(source).encode()).hexdigest()[:8]}"
        if not args.no_index:
            print("\n".join(index(args, source)), flush=True)
        from wt_jax.search.web.serve import serve

        serve(args.index, host=args.host, port=args.port, open_page=not args.no_open)


def _embedded(args: object) -> str:
    """The quick start's data set."""
    if not _QUICKSTART.exists():
        raise SearchError("no VIDEOS are named, and there is no quick start to show; run launch/quickstart.sh or name some")
    print(f"no VIDEOS are named: the data set of the quick start is shown, {_QUICKSTART}")
    return f"mix:{_QUICKSTART}/train,{_QUICKSTART}/test"


if __name__ == "__main__":
    main()
