"""Its presence puts this folder on the import path, so that tests in every room can read `tiny`."""
