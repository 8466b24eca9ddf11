"""Which videos are meant: paths, folders, globs, addresses and lists become named videos.

source.py      one video: a file, an object, a member of an archive
find.py        inputs → videos
walk.py        folders and patterns of paths
remote.py      object stores and web servers: addresses, prefixes, patterns
archives.py    the videos in a tar archive
kinds.py       what is a video, by its name and first bytes
names.py       what each is called in the output
path_lists.py  lists of paths and addresses
staging.py     objects and members become local files, ahead of the decoders
scratch.py     the folder for those, which no killed run leaves behind
"""
