"""Writers of the raw files of a demo world, image by image, in the layouts of the real data sets."""
