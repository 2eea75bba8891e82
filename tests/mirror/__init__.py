"""Release servers for tests: what the roles download, assembled from registry packages, under the paths of the real servers."""
