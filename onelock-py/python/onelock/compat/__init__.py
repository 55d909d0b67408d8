"""Other packages' interfaces, on the locks of onelock."""
