"""``python -m c3d_extract``."""

from c3d_extract.cli.tools import module_main

module_main()
