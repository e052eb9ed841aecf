"""What runs in a box: standard library alone, sent there as code, for no path of the project exists in a box."""
