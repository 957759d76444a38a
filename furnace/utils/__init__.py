"""Settings, errors, files and pictures, for all other packages."""
