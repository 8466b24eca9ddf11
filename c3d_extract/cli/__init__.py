"""The command line: parse, call, show. The only place that imports click and rich, and that talks."""
