"""Which videos are meant: paths, folders, globs and lists become named videos."""
