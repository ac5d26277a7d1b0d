"""The ground of all packages: the command line, errors, the console, files."""
