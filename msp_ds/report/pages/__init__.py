"""HTML pages and pictures: a shard set, what a search found, and models side by side.

`page` renders templates/*.html, which escape all values; `svg` draws boxes and histograms for them; `explain_picture`
draws the same boxes as pixels. A page is one file that loads nothing.
"""
