"""Pages to look at: one HTML file each that needs no network.

template.py    fills a page's HTML with its style, its script, its data and the library that draws
rows.py        rows of a feature or clip file with what is known of each
videos.py      where the videos of a table lie
thumbnails.py  pictures of many videos in a few JPEG files
map.py         a two-dimensional map of videos
report.py      what a run did
"""
